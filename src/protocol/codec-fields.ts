/**
 * Checks of single fields, used before a message is packed and after one is unpacked, and the tuples that several messages share.
 * Each check returns the value it was given, so that encode and decode read alike.
 */
import { ProtocolError } from "./errors.ts";
import { CHUNK_ID_BYTES, INO_MAX, NAMESPACE_NAME_PATTERN, RECORD_KEY_MAX_BYTES, RECORD_MAX_BYTES } from "./limits.ts";
import type { Counters, InodeBundle, InodeWant, StoredRecord } from "./messages.ts";

export function bad(what: string, value: unknown, expected: string): ProtocolError {
  const got =
    typeof value === "number" || typeof value === "boolean" || value === null
      ? String(value)
      : value instanceof Uint8Array
        ? `${value.length} bytes`
        : Array.isArray(value)
          ? `array of ${value.length}`
          : typeof value;
  return new ProtocolError(`${what}: ${got}, expected ${expected}`);
}

/** An array of exactly `length` fields: nothing may be missing or trail. */
export function tuple(value: unknown, length: number, what: string): unknown[] {
  if (!Array.isArray(value) || value.length !== length) throw bad(what, value, `array of ${length}`);
  return value;
}

export function integer(value: unknown, min: number, max: number, what: string): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw bad(what, value, `integer from ${min} to ${max}`);
  }
  return value;
}

/** Sequence numbers, delta ids, counts: 0 to 2^53 - 1. */
export function count(value: unknown, what: string): number {
  return integer(value, 0, Number.MAX_SAFE_INTEGER, what);
}

/** A counter or a time before 1970: any safe integer. */
export function signed(value: unknown, what: string): number {
  return integer(value, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, what);
}

export function inode(value: unknown): number {
  return integer(value, 1, INO_MAX, "inode number");
}

export function link(value: unknown): number {
  return integer(value, 0, INO_MAX, "link");
}

export function nsec(value: unknown): number {
  return integer(value, 0, 999_999_999, "nanoseconds");
}

export function flag(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw bad(what, value, "true or false");
  return value;
}

export function bytes(value: unknown, min: number, max: number, what: string): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length < min || value.length > max) throw bad(what, value, `${min} to ${max} bytes`);
  return value;
}

export function text(value: unknown, maxLength: number, what: string): string {
  if (typeof value !== "string" || value.length > maxLength) throw bad(what, value, `text of at most ${maxLength} characters`);
  return value;
}

/** Most messages of a connection name the same namespace: its pattern is matched once. */
let lastNamespace = "";

export function namespace(value: unknown): string {
  if (value === lastNamespace && lastNamespace !== "") return lastNamespace;
  if (typeof value !== "string" || !NAMESPACE_NAME_PATTERN.test(value))
    throw bad("namespace", value, `name like ${NAMESPACE_NAME_PATTERN}`);
  lastNamespace = value;
  return value;
}

export function key(value: unknown): Uint8Array {
  return bytes(value, 1, RECORD_KEY_MAX_BYTES, "record key");
}

export function chunkId(value: unknown): Uint8Array {
  return bytes(value, CHUNK_ID_BYTES, CHUNK_ID_BYTES, "chunk id");
}

/** An array of at most `max` items; the items are for the caller to check. */
export function items<T>(value: readonly T[], max: number, what: string): readonly T[];
export function items(value: unknown, max: number, what: string): unknown[];
export function items(value: unknown, max: number, what: string): unknown[] {
  if (!Array.isArray(value) || value.length > max) throw bad(what, value, `array of at most ${max}`);
  return value;
}

/** Applies one check to every item. */
export function each<T, U>(values: readonly T[], convert: (value: T) => U): U[] {
  const result: U[] = new Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = convert(values[i] as T);
  return result;
}

export function recordValue(input: unknown): Uint8Array {
  return bytes(input, 0, RECORD_MAX_BYTES, "record value");
}

export function encodeRecord(record: StoredRecord | null): unknown {
  if (record === null) return null;
  return [count(record.version, "version"), link(record.link), recordValue(record.value)];
}

export function decodeRecord(input: unknown): StoredRecord | null {
  if (input === null) return null;
  const t = tuple(input, 3, "record");
  return { version: count(t[0], "version"), link: link(t[1]), value: recordValue(t[2]) };
}

/** A record where none may be missing. */
export function decodePresentRecord(input: unknown): StoredRecord {
  const record = decodeRecord(input);
  if (record === null) throw bad("record", null, "array of 3");
  return record;
}

export function encodeCounters(c: Counters): unknown[] {
  return [signed(c.links, "links"), signed(c.entries, "entries"), signed(c.mtimeSec, "mtime"), nsec(c.mtimeNsec), count(c.bumps, "bumps")];
}

export function decodeCounters(input: unknown): Counters {
  const t = tuple(input, 5, "counters");
  return {
    links: signed(t[0], "links"),
    entries: signed(t[1], "entries"),
    mtimeSec: signed(t[2], "mtime"),
    mtimeNsec: nsec(t[3]),
    bumps: count(t[4], "bumps"),
  };
}

export function encodeInode(i: InodeBundle | null): unknown {
  if (i === null) return null;
  return [
    inode(i.ino),
    encodeRecord(i.attr),
    i.counters === null ? null : encodeCounters(i.counters),
    encodeRecord(i.region0),
    flag(i.leased, "leased"),
  ];
}

export function decodeInode(input: unknown): InodeBundle | null {
  if (input === null) return null;
  const t = tuple(input, 5, "inode");
  return {
    ino: inode(t[0]),
    attr: decodeRecord(t[1]),
    counters: t[2] === null ? null : decodeCounters(t[2]),
    region0: decodeRecord(t[3]),
    leased: flag(t[4], "leased"),
  };
}

export function decodePresentInode(input: unknown): InodeBundle {
  const bundle = decodeInode(input);
  if (bundle === null) throw bad("inode", null, "array of 5");
  return bundle;
}

export function encodeWant(want: InodeWant): unknown[] {
  return [flag(want.lease, "lease"), integer(want.region0MaxBytes, 0, RECORD_MAX_BYTES, "region0MaxBytes")];
}

export function decodeWant(input: unknown): InodeWant {
  const t = tuple(input, 2, "want");
  return { lease: flag(t[0], "lease"), region0MaxBytes: integer(t[1], 0, RECORD_MAX_BYTES, "region0MaxBytes") };
}
