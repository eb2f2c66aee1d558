/** The state of a node's data in hello. */
import { bytes, count, each, flag, items, namespace, tuple } from "./codec-fields.ts";
import { INSTANCE_ID_BYTES, NAMESPACE_ID_BYTES, NAMESPACES_MAX } from "./limits.ts";
import type { NamespaceState, StoreState } from "./messages.ts";

export function encodeStore(s: StoreState): unknown[] {
  return [
    bytes(s.instance, INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "instance"),
    count(s.start, "start"),
    bytes(s.startId, INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "start id"),
    flag(s.knowsLastStart, "knowsLastStart"),
    each(items(s.namespaces, NAMESPACES_MAX, "namespaces"), encodeNamespaceState),
  ];
}

export function encodeNamespaceState(n: NamespaceState): unknown[] {
  return [
    namespace(n.name),
    bytes(n.id, NAMESPACE_ID_BYTES, NAMESPACE_ID_BYTES, "namespace id"),
    count(n.seq, "seq"),
    count(n.durableSeq, "durableSeq"),
    count(n.recoveredSeq, "recoveredSeq"),
  ];
}

export function decodeStore(value: unknown): StoreState {
  const f = tuple(value, 5, "store");
  return {
    instance: bytes(f[0], INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "instance"),
    start: count(f[1], "start"),
    startId: bytes(f[2], INSTANCE_ID_BYTES, INSTANCE_ID_BYTES, "start id"),
    knowsLastStart: flag(f[3], "knowsLastStart"),
    namespaces: each(items(f[4], NAMESPACES_MAX, "namespaces"), decodeNamespaceState),
  };
}

export function decodeNamespaceState(value: unknown): NamespaceState {
  const f = tuple(value, 5, "namespace state");
  return {
    name: namespace(f[0]),
    id: bytes(f[1], NAMESPACE_ID_BYTES, NAMESPACE_ID_BYTES, "namespace id"),
    seq: count(f[2], "seq"),
    durableSeq: count(f[3], "durableSeq"),
    recoveredSeq: count(f[4], "recoveredSeq"),
  };
}
