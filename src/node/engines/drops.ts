/**
 * Deletes that run in slices. A file can have millions of references to chunks, and counting them all down takes seconds, in which nobody else would be
 * served. So the delta that deletes much only notes it: its records are gone for every reader and check, and what they refer to is counted down
 * afterwards, a few milliseconds at a time, in the transactions of whatever comes. The notes are in the database: a crash loses none.
 *
 * Only region records (a file's extents) are deleted so: no others refer to chunks.
 */
import { isRegionKey, prefixEnd } from "../../protocol/record-keys.ts";
import { readableIds } from "./chunk-list.ts";
import type { DropRow, Statements } from "./sqlite-database.ts";

/** References counted down within a delta; what has more is noted. */
export const DROP_AT_ONCE_MAX = 1_024;
/** References counted down in one slice: some 1 ms. Its transaction costs a tenth of that. */
const SLICE_REFS = 256;
/** A chunk id, in the list of a record. */
const ID_BYTES = 32;
/** Kind, inode and the byte that says region: what all region keys of an inode begin with. */
const REGION_PREFIX_BYTES = 10;

function text(bytes: Uint8Array, length = bytes.length): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, length).toString("latin1");
}

export class Drops {
  readonly #sql: Statements;
  /** Prefixes, or whole keys, as latin1 text: what they begin is deleted. */
  readonly #noted = new Set<string>();

  /** Told of the value's bytes of each record that is gone. */
  onRemoved: (bytes: number) => void = () => undefined;

  constructor(sql: Statements) {
    this.#sql = sql;
  }

  /** After a rollback, and at the start. */
  reload(): void {
    this.#noted.clear();
    for (const { prefix } of this.#sql.allDrops.all()) this.#noted.add(text(prefix));
  }

  get isEmpty(): boolean {
    return this.#noted.size === 0;
  }

  /** Whether the record counts as deleted. */
  has(key: Uint8Array): boolean {
    if (this.#noted.size === 0 || !isRegionKey(key)) return false;
    return this.#noted.has(text(key, REGION_PREFIX_BYTES)) || this.#noted.has(text(key));
  }

  /** Whether all region records of the key's inode count as deleted. */
  hasInode(key: Uint8Array): boolean {
    return this.#noted.size > 0 && this.#noted.has(text(key, REGION_PREFIX_BYTES));
  }

  /** How many references (at most) the region records have whose keys begin with `prefix`. */
  references(prefix: Uint8Array): number {
    return Math.floor((this.#sql.chunkBytes.get(prefix, endOf(prefix))?.bytes ?? 0) / ID_BYTES);
  }

  /** The region records whose keys begin with `prefix` (a whole key, or all of an inode) are deleted. */
  note(prefix: Uint8Array, timeMs: number): void {
    // Of a record that is half counted down, the one note that says how far goes on alone.
    for (const noted of [...this.#noted])
      if (noted.length > prefix.length && noted.startsWith(text(prefix))) this.finish(Buffer.from(noted, "latin1"));
    this.#sql.addDrop.run(prefix, timeMs);
    this.#noted.add(text(prefix));
  }

  /** One slice. Returns whether there is more. @throws SQLite's errors */
  slice(): boolean {
    const drop = this.#sql.firstDrop.get();
    if (drop === null) return false;
    this.#slice(drop, SLICE_REFS);
    return this.#noted.size > 0;
  }

  /** A record is about to be written where one is noted as deleted: that one goes first, whole. */
  finish(key: Uint8Array): void {
    while (this.has(key)) {
      const drop = this.#sql.dropOf.get(key) ?? this.#sql.dropOf.get(key.subarray(0, REGION_PREFIX_BYTES));
      if (drop === null) break;
      this.#slice(drop, Number.POSITIVE_INFINITY);
    }
  }

  #slice({ prefix, timeMs, done }: DropRow, limit: number): void {
    const row = this.#sql.firstChunks.get(prefix, endOf(prefix));
    if (row === null) {
      this.#sql.removeDrop.run(prefix);
      this.#noted.delete(text(prefix));
      return;
    }
    const ids = readableIds(row.chunks);
    const end = Math.min(ids.length, done + limit);
    for (let i = done; i < end; i++) this.#sql.dropRef.run(timeMs, ids.at(i));
    if (end < ids.length) {
      this.#sql.setDropDone.run(end, prefix);
      return;
    }
    this.#sql.remove.run(row.key);
    this.onRemoved(row.bytes);
    if (done > 0) this.#sql.setDropDone.run(0, prefix);
  }
}

function endOf(prefix: Uint8Array): Uint8Array {
  return prefixEnd(prefix) ?? new Uint8Array();
}
