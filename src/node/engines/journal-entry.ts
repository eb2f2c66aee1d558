/**
 * One applied delta as bytes, little-endian; numbers of up to 53 bits are doubles:
 *
 *     0        mark:8, random, one for each journal
 *     8   u32  length of the payload
 *     12  u32  CRC32 of the payload, begun with its length
 *     16       payload: seq, previous seq, synced seq, time, delta id, answeredBelow (f64 each), session:16,
 *              then prefixes, deletes, puts and bumps, each list with its length (u32) in front
 *
 * The mark finds entries among others that are older or torn. It is random so that no client can put something into a value that
 * looks like an entry.
 *
 * An entry says what was done, not what was asked: there are no checks in it, and the time that was read from a clock is.
 */
import { CHUNK_ID_BYTES, SESSION_ID_BYTES } from "../../protocol/limits.ts";
import type { Delta } from "../../protocol/messages.ts";

export const MARK_BYTES = 8;
const HEADER_BYTES = MARK_BYTES + 8;
const NUMBER_BYTES = 8;
/** Header, six numbers, session, four list lengths. */
const FIXED_BYTES = HEADER_BYTES + 6 * NUMBER_BYTES + SESSION_ID_BYTES + 4 * 4;
const BUMP_BYTES = 5 * NUMBER_BYTES;
/** Beside key, chunks and value: key length, link, number of chunks, value length. */
const PUT_FIXED_BYTES = 1 + NUMBER_BYTES + 4 + 4;
const BUFFER_MIN_BYTES = 64 * 1024;

/** What of a delta changes the shard. */
export type DeltaEffects = Pick<Delta, "id" | "answeredBelow" | "puts" | "deletes" | "deletePrefixes" | "bumps">;

export interface JournalEntry {
  /** 16 bytes. */
  readonly session: Uint8Array;
  readonly delta: DeltaEffects;
  readonly seq: number;
  /** Sequence number of the delta applied before this one: entries make a chain. */
  readonly previousSeq: number;
  /** Deltas up to this one were known to survive power loss when the entry was made. */
  readonly syncedSeq: number;
  /** When it was applied, milliseconds since the epoch. */
  readonly timeMs: number;
}

/** Bytes of the delta's entry. */
export function entryBytes(delta: DeltaEffects): number {
  let bytes = FIXED_BYTES + delta.bumps.length * BUMP_BYTES;
  for (const prefix of delta.deletePrefixes) bytes += 1 + prefix.length;
  for (const key of delta.deletes) bytes += 1 + key.length;
  for (const put of delta.puts) bytes += PUT_FIXED_BYTES + put.key.length + put.chunks.length * CHUNK_ID_BYTES + put.value.length;
  return bytes;
}

/** Collects the entries of one append. */
export class EntryWriter {
  readonly #mark: Uint8Array;
  #buffer = Buffer.allocUnsafeSlow(BUFFER_MIN_BYTES);
  #at = 0;

  /** `mark`: MARK_BYTES. */
  constructor(mark: Uint8Array) {
    this.#mark = mark;
  }

  /** What was added since the last clear(); valid until the next add(). */
  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#at);
  }

  clear(): void {
    this.#at = 0;
  }

  add(entry: JournalEntry): void {
    const { delta } = entry;
    const length = entryBytes(delta);
    const start = this.#at;
    this.#reserve(start + length);
    const buffer = this.#buffer;
    this.#at = start + HEADER_BYTES;
    for (const value of [entry.seq, entry.previousSeq, entry.syncedSeq, entry.timeMs, delta.id, delta.answeredBelow]) this.#number(value);
    this.#bytes(entry.session);
    this.#u32(delta.deletePrefixes.length);
    for (const prefix of delta.deletePrefixes) this.#key(prefix);
    this.#u32(delta.deletes.length);
    for (const key of delta.deletes) this.#key(key);
    this.#u32(delta.puts.length);
    for (const put of delta.puts) {
      this.#key(put.key);
      this.#number(put.link);
      this.#u32(put.chunks.length);
      for (const id of put.chunks) this.#bytes(id);
      this.#u32(put.value.length);
      this.#bytes(put.value);
    }
    this.#u32(delta.bumps.length);
    for (const { ino, links, entries, mtimeSec, mtimeNsec } of delta.bumps) {
      this.#number(ino);
      this.#number(links);
      this.#number(entries);
      this.#number(mtimeSec);
      this.#number(mtimeNsec);
    }
    if (this.#at !== start + length) throw new Error(`journal entry of ${this.#at - start} bytes, expected ${length}`);
    buffer.set(this.#mark, start);
    buffer.writeUInt32LE(length - HEADER_BYTES, start + MARK_BYTES);
    buffer.writeUInt32LE(checksum(buffer.subarray(start + HEADER_BYTES, this.#at)), start + MARK_BYTES + 4);
  }

  #reserve(length: number): void {
    if (length <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(length, 2 * this.#buffer.length));
    larger.set(this.#buffer.subarray(0, this.#at));
    this.#buffer = larger;
  }

  #number(value: number): void {
    this.#buffer.writeDoubleLE(value, this.#at);
    this.#at += NUMBER_BYTES;
  }
  #u32(value: number): void {
    this.#buffer.writeUInt32LE(value, this.#at);
    this.#at += 4;
  }
  #bytes(value: Uint8Array): void {
    this.#buffer.set(value, this.#at);
    this.#at += value.length;
  }
  #key(key: Uint8Array): void {
    this.#buffer[this.#at++] = key.length;
    this.#bytes(key);
  }
}

function checksum(payload: Uint8Array): number {
  return Bun.hash.crc32(payload, payload.length);
}

/** The entry at `at` and where it ends; null where there is no whole one. Byte strings share the memory of `file`. */
export function readEntry(file: Buffer, at: number, mark: Uint8Array): { entry: JournalEntry; end: number } | null {
  if (at + FIXED_BYTES > file.length || file.compare(mark, 0, MARK_BYTES, at, at + MARK_BYTES) !== 0) return null;
  const end = at + HEADER_BYTES + file.readUInt32LE(at + MARK_BYTES);
  if (end > file.length || end < at + FIXED_BYTES) return null;
  if (checksum(file.subarray(at + HEADER_BYTES, end)) !== file.readUInt32LE(at + MARK_BYTES + 4)) return null;
  return { entry: new EntryReader(file, at + HEADER_BYTES, end).read(), end };
}

/** Every whole entry in the file, wherever it begins. */
export function* findEntries(file: Buffer, mark: Uint8Array): Generator<JournalEntry> {
  for (let at = file.indexOf(mark); at >= 0; ) {
    const found = readEntry(file, at, mark);
    if (found !== null) yield found.entry;
    at = file.indexOf(mark, found?.end ?? at + 1);
  }
}

/** Reads a payload whose checksum is right: what does not fit was made by another program. */
class EntryReader {
  readonly #file: Buffer;
  #at: number;
  readonly #end: number;

  constructor(file: Buffer, at: number, end: number) {
    this.#file = file;
    this.#at = at;
    this.#end = end;
  }

  read(): JournalEntry {
    const [seq, previousSeq, syncedSeq, timeMs, id, answeredBelow] = [
      this.#number(),
      this.#number(),
      this.#number(),
      this.#number(),
      this.#number(),
      this.#number(),
    ];
    const session = this.#bytes(SESSION_ID_BYTES);
    const deletePrefixes = this.#list(() => this.#key());
    const deletes = this.#list(() => this.#key());
    const puts = this.#list(() => ({
      key: this.#key(),
      link: this.#number(),
      chunks: this.#list(() => this.#bytes(CHUNK_ID_BYTES)),
      value: this.#bytes(this.#u32()),
    }));
    const bumps = this.#list(() => ({
      ino: this.#number(),
      links: this.#number(),
      entries: this.#number(),
      mtimeSec: this.#number(),
      mtimeNsec: this.#number(),
    }));
    if (this.#at !== this.#end) throw new RangeError(`journal entry: ${this.#end - this.#at} bytes trail`);
    return { session, delta: { id, answeredBelow, deletePrefixes, deletes, puts, bumps }, seq, previousSeq, syncedSeq, timeMs };
  }

  #take(bytes: number): number {
    const at = this.#at;
    if (at + bytes > this.#end) throw new RangeError("journal entry: a part is longer than the whole");
    this.#at = at + bytes;
    return at;
  }
  #number(): number {
    return this.#file.readDoubleLE(this.#take(NUMBER_BYTES));
  }
  #u32(): number {
    return this.#file.readUInt32LE(this.#take(4));
  }
  #bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return new Uint8Array(this.#file.buffer, this.#file.byteOffset + at, length);
  }
  #key(): Uint8Array {
    return this.#bytes(this.#file.readUInt8(this.#take(1)));
  }
  #list<T>(read: () => T): T[] {
    return Array.from({ length: this.#u32() }, read);
  }
}
