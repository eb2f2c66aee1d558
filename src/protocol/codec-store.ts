/** The state of a node's data in hello. */
import { bytes, count, each, flag, items, namespace, tuple } from "./codec-fields.ts";
import { INSTANCE_ID_BYTES, NAMESPACES_MAX } from "./limits.ts";
import type { NamespaceState, StoreState } from "./messages.ts";

export function encodeStore(s: StoreState): unknown[] {
  return [
    bytes(s.instance, INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "instance"),
    count(s.start, "start"),
    bytes(s.startId, INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "start id"),
    flag(s.knowsLastStart, "knowsLastStart"),
    each(items(s.namespaces, NAMESPACES_MAX, "namespaces"), (n) => [
      namespace(n.name),
      count(n.seq, "seq"),
      count(n.durableSeq, "durableSeq"),
      count(n.recoveredSeq, "recoveredSeq"),
    ]),
  ];
}

export function decodeStore(value: unknown): StoreState {
  const f = tuple(value, 5, "store");
  return {
    instance: bytes(f[0], INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "instance"),
    start: count(f[1], "start"),
    startId: bytes(f[2], INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "start id"),
    knowsLastStart: flag(f[3], "knowsLastStart"),
    namespaces: each(items(f[4], NAMESPACES_MAX, "namespaces"), decodeNamespace),
  };
}

function decodeNamespace(value: unknown): NamespaceState {
  const f = tuple(value, 4, "namespace state");
  return {
    name: namespace(f[0]),
    seq: count(f[1], "seq"),
    durableSeq: count(f[2], "durableSeq"),
    recoveredSeq: count(f[3], "recoveredSeq"),
  };
}
