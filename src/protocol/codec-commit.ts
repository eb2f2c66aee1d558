/** A commit's tuples: a delta, and what became of it. See codec.ts. */
import {
  bad,
  chunkId,
  count,
  decodeCounters,
  each,
  encodeCounters,
  flag,
  inode,
  integer,
  items,
  key,
  link,
  nsec,
  recordValue,
  signed,
  tuple,
} from "./codec-fields.ts";
import { ProtocolError } from "./errors.ts";
import { COMMIT_CHUNKS_MAX, COMMIT_ITEMS_MAX, COMMIT_VALUES_MAX_BYTES, LEASE_INOS_MAX, RECORD_CHUNKS_MAX } from "./limits.ts";
import type { Bump, Check, CommitResult, Delta, Put } from "./messages.ts";

const CHECK_VERSION = 0;
const CHECK_ABSENT = 1;
const CHECK_PRESENT = 2;
const CHECK_EMPTY = 3;
const CHECK_BUMPS = 4;

function encodeCheck(check: Check): unknown[] {
  switch (check.kind) {
    case "version":
      return [CHECK_VERSION, key(check.key), count(check.version, "version")];
    case "absent":
      return [CHECK_ABSENT, key(check.key)];
    case "present":
      return [CHECK_PRESENT, key(check.key)];
    case "empty":
      return [CHECK_EMPTY, key(check.prefix)];
    case "bumps":
      return [CHECK_BUMPS, inode(check.ino), count(check.bumps, "bumps")];
  }
}

function decodeCheck(input: unknown): Check {
  const kind = Array.isArray(input) ? input[0] : undefined;
  const t = tuple(input, kind === CHECK_VERSION || kind === CHECK_BUMPS ? 3 : 2, "check");
  switch (kind) {
    case CHECK_VERSION:
      return { kind: "version", key: key(t[1]), version: count(t[2], "version") };
    case CHECK_ABSENT:
      return { kind: "absent", key: key(t[1]) };
    case CHECK_PRESENT:
      return { kind: "present", key: key(t[1]) };
    case CHECK_EMPTY:
      return { kind: "empty", prefix: key(t[1]) };
    case CHECK_BUMPS:
      return { kind: "bumps", ino: inode(t[1]), bumps: count(t[2], "bumps") };
    default:
      throw bad("check", kind, "kind from 0 to 4");
  }
}

function encodePut(put: Put): unknown[] {
  return [key(put.key), link(put.link), each(items(put.chunks, RECORD_CHUNKS_MAX, "chunks"), chunkId), recordValue(put.value)];
}

function decodePut(input: unknown): Put {
  const t = tuple(input, 4, "put");
  return { key: key(t[0]), link: link(t[1]), chunks: each(items(t[2], RECORD_CHUNKS_MAX, "chunks"), chunkId), value: recordValue(t[3]) };
}

function encodeBump(bump: Bump): unknown[] {
  return [
    inode(bump.ino),
    signed(bump.links, "links"),
    signed(bump.entries, "entries"),
    signed(bump.mtimeSec, "mtime"),
    nsec(bump.mtimeNsec),
  ];
}

function decodeBump(input: unknown): Bump {
  const t = tuple(input, 5, "bump");
  return {
    ino: inode(t[0]),
    links: signed(t[1], "links"),
    entries: signed(t[2], "entries"),
    mtimeSec: signed(t[3], "mtime"),
    mtimeNsec: nsec(t[4]),
  };
}

/** All items of one commit count together: the limit bounds a transaction's time. */
function checkDeltaSize(size: number): void {
  if (size > COMMIT_ITEMS_MAX) throw new ProtocolError(`commit: ${size} items, at most ${COMMIT_ITEMS_MAX} allowed`);
}

/** So do these. */
function checkPuts(puts: readonly Put[]): void {
  let bytes = 0;
  let chunks = 0;
  for (const put of puts) {
    bytes += put.value.length;
    chunks += put.chunks.length;
  }
  if (bytes > COMMIT_VALUES_MAX_BYTES)
    throw new ProtocolError(`commit: ${bytes} bytes in its records, at most ${COMMIT_VALUES_MAX_BYTES} allowed`);
  if (chunks > COMMIT_CHUNKS_MAX) throw new ProtocolError(`commit: ${chunks} references to chunks, at most ${COMMIT_CHUNKS_MAX} allowed`);
}

export function encodeDelta(d: Delta): unknown[] {
  checkPuts(d.puts);
  checkDeltaSize(d.checks.length + d.puts.length + d.deletes.length + d.deletePrefixes.length + d.bumps.length);
  return [
    count(d.id, "delta id"),
    count(d.answeredBelow, "answeredBelow"),
    each(d.checks, encodeCheck),
    each(d.puts, encodePut),
    each(d.deletes, key),
    each(d.deletePrefixes, key),
    each(d.bumps, encodeBump),
    each(items(d.leases, LEASE_INOS_MAX, "leases"), inode),
    flag(d.durable, "durable"),
  ];
}

export function decodeDelta(input: unknown): Delta {
  const t = tuple(input, 9, "delta");
  const checks = items(t[2], COMMIT_ITEMS_MAX, "checks");
  const puts = items(t[3], COMMIT_ITEMS_MAX, "puts");
  const deletes = items(t[4], COMMIT_ITEMS_MAX, "deletes");
  const deletePrefixes = items(t[5], COMMIT_ITEMS_MAX, "delete prefixes");
  const bumps = items(t[6], COMMIT_ITEMS_MAX, "bumps");
  checkDeltaSize(checks.length + puts.length + deletes.length + deletePrefixes.length + bumps.length);
  const decodedPuts = each(puts, decodePut);
  checkPuts(decodedPuts);
  return {
    id: count(t[0], "delta id"),
    answeredBelow: count(t[1], "answeredBelow"),
    checks: each(checks, decodeCheck),
    puts: decodedPuts,
    deletes: each(deletes, key),
    deletePrefixes: each(deletePrefixes, key),
    bumps: each(bumps, decodeBump),
    leases: each(items(t[7], LEASE_INOS_MAX, "leases"), inode),
    durable: flag(t[8], "durable"),
  };
}

/** An index into the checks of the request. */
function checkIndex(value: unknown): number {
  return integer(value, 0, COMMIT_ITEMS_MAX - 1, "index of a check");
}

export function encodeCommitResult(a: CommitResult): unknown[] {
  if (!a.ok) return [false, each(items(a.failed, COMMIT_ITEMS_MAX, "failed"), checkIndex)];
  return [
    true,
    count(a.seq, "seq"),
    each(items(a.counters, COMMIT_ITEMS_MAX, "counters"), encodeCounters),
    each(items(a.leased, LEASE_INOS_MAX, "leased"), inode),
    flag(a.replayed, "replayed"),
  ];
}

export function decodeCommitResult(f: unknown[]): CommitResult {
  if (!flag(f[0], "ok")) {
    return { ok: false, failed: each(items(tuple(f, 2, "commit answer")[1], COMMIT_ITEMS_MAX, "failed"), checkIndex) };
  }
  const t = tuple(f, 5, "commit answer");
  return {
    ok: true,
    seq: count(t[1], "seq"),
    counters: each(items(t[2], COMMIT_ITEMS_MAX, "counters"), decodeCounters),
    leased: each(items(t[3], LEASE_INOS_MAX, "leased"), inode),
    replayed: flag(t[4], "replayed"),
  };
}
