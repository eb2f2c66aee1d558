/** Reads of a shard. Synchronous: what they return is the state of one moment, and a point read costs 2 us. */
import type { Counters, InodeBundle, ListEntry, StoredRecord } from "../../protocol/messages.ts";
import { dentryKey, dentryPrefix, inodeKey, inodeOfKey, NAME_HASH_BYTES, prefixEnd, regionKey } from "../../protocol/record-keys.ts";
import type { Drops } from "./drops.ts";
import type { RangeAnswer } from "./engine.ts";
import { type KeyedRecordRow, type RecordRow, recordCrc, type Statements } from "./sqlite-database.ts";

/** Rows asked of SQLite at once, to begin with and at most: large values are not read far beyond the byte limit. */
const RANGE_STEP_MIN = 16;
const RANGE_STEP_MAX = 512;
/** What a record costs in an answer beside its value. */
const RECORD_OVERHEAD_BYTES = 64;

export const NO_COUNTERS: Readonly<Counters> = Object.freeze({ links: 0, entries: 0, mtimeSec: 0, mtimeNsec: 0, bumps: 0 });

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** The value of a record that fails its checksum: no sealed record is so short, so a client takes it for damaged, and only it. */
const DAMAGED_VALUE = new Uint8Array();
/** Damaged records that are remembered as told of; beyond it all may be told again. */
const TOLD_MAX = 4_096;

function incremented(key: Uint8Array): Uint8Array {
  const next = new Uint8Array(key.length + 1);
  next.set(key);
  return next;
}

export class ShardReads {
  readonly #sql: Statements;

  readonly #drops: Drops;

  readonly #onDamaged: (record: string) => void;
  readonly #told = new Set<string>();

  /** `onDamaged` is told of each record that fails its checksum, once: key (hexadecimal) and inode. */
  constructor(sql: Statements, drops: Drops, onDamaged: (record: string) => void = () => {}) {
    this.#sql = sql;
    this.#drops = drops;
    this.#onDamaged = onDamaged;
  }

  #record(key: Uint8Array, row: RecordRow): StoredRecord {
    const { version, link, value } = row;
    if (recordCrc(key, version, link, value) === row.crc) return { version, link, value };
    const name = `${hex(key)} (inode ${inodeOfKey(key)})`;
    if (!this.#told.has(name)) {
      if (this.#told.size >= TOLD_MAX) this.#told.clear();
      this.#told.add(name);
      this.#onDamaged(name);
    }
    return { version, link, value: DAMAGED_VALUE };
  }

  record(key: Uint8Array): StoredRecord | null {
    if (this.#drops.has(key)) return null;
    const row = this.#sql.get.get(key);
    return row === null ? null : this.#record(key, row);
  }

  counters(ino: number): Counters | null {
    return this.#sql.counters.get(ino);
  }

  range(from: Uint8Array, to: Uint8Array | null, limit: number, maxBytes: number): RangeAnswer {
    const records: RangeAnswer["records"] = [];
    let bytes = 0;
    let at = from;
    for (let rowsAtOnce = RANGE_STEP_MIN; ; rowsAtOnce = Math.min(RANGE_STEP_MAX, 2 * rowsAtOnce)) {
      const step = Math.min(rowsAtOnce, limit + 1 - records.length);
      const rows: KeyedRecordRow[] = to === null ? this.#sql.rangeOpen.all(at, step) : this.#sql.range.all(at, to, step);
      for (const row of rows) {
        if (this.#drops.has(row.key)) continue;
        // The first record always goes out, or a reader would never get past a large one.
        if (records.length === limit || (records.length > 0 && bytes >= maxBytes)) return { records, more: true };
        records.push({ key: row.key, record: this.#record(row.key, row) });
        bytes += row.key.length + row.value.length + RECORD_OVERHEAD_BYTES;
      }
      const last = rows.at(-1);
      if (last === undefined || rows.length < step) return { records, more: false };
      at = incremented(last.key);
    }
  }

  inode(ino: number, region0MaxBytes: number): InodeBundle {
    const attr = this.record(inodeKey(ino));
    if (attr === null) return { ino, attr, counters: null, region0: null, leased: false };
    const counters = this.#sql.counters.get(ino);
    let region0: StoredRecord | null = null;
    // A folder (one that was ever bumped) has no regions.
    if (region0MaxBytes > 0 && counters === null) {
      region0 = this.record(regionKey(ino, 0));
      if (region0 !== null && region0.value.length > region0MaxBytes) region0 = null;
    }
    return { ino, attr, counters, region0, leased: false };
  }

  lookup(key: Uint8Array, region0MaxBytes: number): { dentry: StoredRecord | null; inode: InodeBundle | null } {
    const dentry = this.record(key);
    return { dentry, inode: dentry === null || dentry.link === 0 ? null : this.inode(dentry.link, region0MaxBytes) };
  }

  list(
    dir: number,
    after: Uint8Array,
    limit: number,
    maxBytes: number,
    region0MaxBytes: number | null,
  ): { entries: ListEntry[]; more: boolean; counters: Counters } {
    const prefix = dentryPrefix(dir);
    const from = after.length === 0 ? prefix : incremented(dentryKey(dir, after));
    const end = prefixEnd(prefix);
    const { records, more } = this.range(from, end, limit, maxBytes);
    const entries: ListEntry[] = [];
    let bytes = 0;
    for (const { key, record } of records) {
      if (entries.length > 0 && bytes >= maxBytes) return { entries, more: true, counters: this.counters(dir) ?? { ...NO_COUNTERS } };
      const inode = region0MaxBytes === null || record.link === 0 ? null : this.inode(record.link, region0MaxBytes);
      entries.push({ hash: key.subarray(prefix.length, prefix.length + NAME_HASH_BYTES), dentry: record, inode });
      bytes += key.length + record.value.length + RECORD_OVERHEAD_BYTES;
      if (inode !== null) bytes += (inode.attr?.value.length ?? 0) + (inode.region0?.value.length ?? 0) + 2 * RECORD_OVERHEAD_BYTES;
    }
    return { entries, more, counters: this.counters(dir) ?? { ...NO_COUNTERS } };
  }
}
