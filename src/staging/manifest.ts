/**
 * The manifest of a staged dataset, `staging/<dataset_id>.manifest`: an SQLite database with the snapshot's records as the node has them
 * (sealed: attributes, extents with small files' data, extended attributes, entries), the folders' counters, and one row for each inode that
 * says how far its data has come. One that is being made is called `<dataset_id>.next` and takes the other's place when it is complete.
 *
 * It must survive the end of the process at any moment (WAL), not of the machine: a pool does not outlive that (synchronous = OFF).
 */
import { Database, type SQLQueryBindings, type Statement } from "bun:sqlite";
import type { InodeAttributes } from "../fs/records/inode-record.ts";
import type { Counters, InodeBundle, ListEntry, StoredRecord } from "../protocol/messages.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix, NAME_HASH_BYTES, prefixEnd, regionKey } from "../protocol/record-keys.ts";
import type { Canonical } from "./canonical.ts";
import { FileWarmer } from "./file-warmer.ts";

const MANIFEST_VERSION = 3;
/** SQLite's own memory for one manifest; the rest is left to the kernel's cache. */
const PAGE_CACHE_KIB = 4_096;
const PAGE_BYTES = 16_384;
/** Rows asked for at once in a range. */
const RANGE_STEP = 128;
const INODES_AT_ONCE = 1_024;

/** Where the data of an inode is. */
export const DataKind = {
  /** It has none: symbolic links, empty files. */
  none: 0,
  /** In its region records. */
  inline: 1,
  /** In `files/`, contiguous. */
  image: 2,
  /** In pinned chunk files. */
  chunks: 3,
  folder: 4,
} as const;

export const StageState = {
  pending: 0,
  staged: 1,
  /** This client has changed it since: it is read from the node. */
  left: 2,
} as const;

/** Whether an inode's data stands outside of its records. */
export function hasDataOutside(kind: number): boolean {
  return kind === DataKind.image || kind === DataKind.chunks;
}

export interface InodeRow {
  ino: number;
  /** Of the attribute record. */
  version: number;
  /** Bytes of the disk that its data needs. */
  bytes: number;
  kind: number;
  state: number;
  /** `version` when the image was made; greater ones with the same content go on using it. */
  imageVersion: number;
  /** Of the content: stands still while only attributes change. */
  generation: number;
  /** CRC32 of the image's table of sums; 0 while there is none. */
  tableSum: number;
}

interface RecordRow {
  version: number;
  link: number;
  /** Of the value: the database has none of its own for its pages. */
  crc: number;
  value: Uint8Array;
}
type KeyedRow = RecordRow & { key: Uint8Array };
type AboveRow = Omit<KeyedRow, "crc">;

/** A manifest can't be read, or is not what was written: the dataset is not to be used any more. */
export class ManifestError extends Error {
  override readonly name = "ManifestError";
  readonly manifest: Manifest;

  constructor(manifest: Manifest, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.manifest = manifest;
  }
}

const SCHEMA = `
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (key BLOB NOT NULL UNIQUE, version INTEGER NOT NULL, link INTEGER NOT NULL, crc INTEGER NOT NULL,
  value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS folder (ino INTEGER PRIMARY KEY, links INTEGER NOT NULL, entries INTEGER NOT NULL, mtimeSec INTEGER NOT NULL,
  mtimeNsec INTEGER NOT NULL, bumps INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS inode (ino INTEGER PRIMARY KEY, version INTEGER NOT NULL, bytes INTEGER NOT NULL, kind INTEGER NOT NULL,
  state INTEGER NOT NULL, imageVersion INTEGER NOT NULL, generation REAL NOT NULL, tableSum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS above (key BLOB PRIMARY KEY, version INTEGER NOT NULL, link INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS above_folder (ino INTEGER PRIMARY KEY, links INTEGER NOT NULL, entries INTEGER NOT NULL,
  mtimeSec INTEGER NOT NULL, mtimeNsec INTEGER NOT NULL, bumps INTEGER NOT NULL);
`;

/** Which dataset it is. */
export interface DatasetName {
  readonly namespace: string;
  /** In the tree of the mount: with several namespaces it begins with the namespace's name. */
  readonly path: string;
  /** The same from the namespace's root. */
  readonly inNamespace: string;
}

export interface Totals {
  files: number;
  bytes: number;
}

export class Manifest {
  readonly file: string;
  readonly name: DatasetName;
  /** The inode that the path leads to; 0 until it is known. */
  root = 0;
  /** ISO 8601; null until everything is there. */
  stagedAt: string | null = null;
  totals: Totals = { files: 0, bytes: 0 };
  readonly #db: Database;
  readonly #get: Statement<RecordRow, [Uint8Array]>;
  readonly #range: Statement<KeyedRow, [Uint8Array, Uint8Array, number]>;
  readonly #counters: Statement<Counters, [number]>;
  readonly #putRecord: Statement<unknown, [Uint8Array, number, number, number, Uint8Array]>;
  readonly #deleteRange: Statement<unknown, [Uint8Array, Uint8Array]>;
  readonly #putCounters: Statement<unknown, [number, number, number, number, number, number]>;
  readonly #putInode: Statement<unknown, [number, number, number, number, number, number, number, number]>;
  readonly #setState: Statement<unknown, [number, number]>;
  readonly #inodesAfter: Statement<InodeRow, [number, number]>;
  readonly #inode: Statement<InodeRow, [number]>;
  /** All that were made: a connection with statements left is not closed, and keeps its lock. */
  readonly #statements = new Map<string, Statement<unknown, SQLQueryBindings[]>>();
  readonly #warmer: FileWarmer;
  #closed = false;

  /** Opens a manifest; with `create`, makes it where there is none. @throws Error: no manifest, or one of another version */
  constructor(file: string, create?: DatasetName) {
    this.file = file;
    this.#warmer = new FileWarmer(file);
    const db = new Database(file, create === undefined ? { readwrite: true } : { create: true });
    this.#db = db;
    try {
      // One process has it, for the pool is one process's: no shared memory file. secure_delete: what is deleted is zeroes at once.
      db.run("PRAGMA locking_mode = EXCLUSIVE");
      // A small file's data and attributes are in one page, mostly: one read of the disk.
      db.run(`PRAGMA page_size = ${PAGE_BYTES}`);
      db.run("PRAGMA journal_mode = WAL");
      db.run("PRAGMA synchronous = OFF");
      db.run("PRAGMA secure_delete = ON");
      db.run(`PRAGMA cache_size = -${PAGE_CACHE_KIB}`);
      db.run(SCHEMA);
      if (create !== undefined && this.#meta("version") === null) {
        this.transaction(() => {
          this.#setMeta("namespace", create.namespace);
          this.#setMeta("path", create.path);
          this.#setMeta("inNamespace", create.inNamespace);
          this.#setMeta("version", String(MANIFEST_VERSION));
        });
      }
      if (this.#meta("version") !== String(MANIFEST_VERSION)) throw new Error(`${file}: not a manifest of version ${MANIFEST_VERSION}`);
      this.name = {
        namespace: this.#meta("namespace") ?? "",
        path: this.#meta("path") ?? "",
        inNamespace: this.#meta("inNamespace") ?? "",
      };
      this.root = Number(this.#meta("root") ?? 0);
      this.stagedAt = this.#meta("stagedAt");
      this.totals = { files: Number(this.#meta("files") ?? 0), bytes: Number(this.#meta("bytes") ?? 0) };
      this.#get = this.#sql("SELECT version, link, crc, value FROM record WHERE key = ?");
      this.#range = this.#sql("SELECT key, version, link, crc, value FROM record WHERE key >= ? AND key < ? ORDER BY key LIMIT ?");
      this.#counters = this.#sql("SELECT links, entries, mtimeSec, mtimeNsec, bumps FROM folder WHERE ino = ?");
      this.#putRecord = this.#sql("INSERT OR REPLACE INTO record (key, version, link, crc, value) VALUES (?, ?, ?, ?, ?)");
      this.#deleteRange = this.#sql("DELETE FROM record WHERE key >= ? AND key < ?");
      this.#putCounters = this.#sql("INSERT OR REPLACE INTO folder VALUES (?, ?, ?, ?, ?, ?)");
      this.#putInode = this.#sql("INSERT OR REPLACE INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
      this.#setState = this.#sql("UPDATE inode SET state = ? WHERE ino = ?");
      this.#inodesAfter = this.#sql("SELECT * FROM inode WHERE ino > ? ORDER BY ino LIMIT ?");
      this.#inode = this.#sql("SELECT * FROM inode WHERE ino = ?");
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #sql<R, P extends SQLQueryBindings[] = SQLQueryBindings[]>(text: string): Statement<R, P> {
    let statement = this.#statements.get(text);
    if (statement === undefined) {
      statement = this.#db.prepare<unknown, SQLQueryBindings[]>(text);
      this.#statements.set(text, statement);
    }
    return statement as unknown as Statement<R, P>;
  }

  get isComplete(): boolean {
    return this.stagedAt !== null;
  }

  #meta(name: string): string | null {
    return this.#sql<{ value: string }, [string]>("SELECT value FROM meta WHERE name = ?").get(name)?.value ?? null;
  }

  #setMeta(name: string, value: string): void {
    this.#sql("INSERT OR REPLACE INTO meta VALUES (?, ?)").run(name, value);
  }

  transaction(work: () => void): void {
    this.#db.run("BEGIN IMMEDIATE");
    try {
      work();
      this.#db.run("COMMIT");
    } catch (error) {
      this.#db.run("ROLLBACK");
      throw error;
    }
  }

  // ---- reading, as the node's shard answers ----

  record(key: Uint8Array): StoredRecord | null {
    const startedMs = performance.now();
    const row = this.#reading(() => this.#get.get(key));
    this.#warmer.onRead(performance.now() - startedMs);
    return row === null ? null : this.#checked(row);
  }

  /** @throws ManifestError when it can't be done */
  #reading<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      throw new ManifestError(this, `${this.file}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }

  #checked({ version, link, crc, value }: RecordRow): StoredRecord {
    if (Bun.hash.crc32(value) !== crc) throw new ManifestError(this, `${this.file}: a record fails its checksum`);
    return { version, link, value };
  }

  counters(ino: number): Counters | null {
    return this.#reading(() => this.#counters.get(ino));
  }

  /** Records with from <= key < to; stops after `limit` of them, or when they have `maxBytes`. */
  range(
    from: Uint8Array,
    to: Uint8Array,
    limit: number,
    maxBytes: number,
  ): { records: { key: Uint8Array; record: StoredRecord }[]; more: boolean } {
    const records: { key: Uint8Array; record: StoredRecord }[] = [];
    let bytes = 0;
    for (let at = from; ; ) {
      const step = Math.min(RANGE_STEP, limit + 1 - records.length);
      const rows = this.#reading(() => this.#range.all(at, to, step));
      for (const row of rows) {
        if (records.length === limit || (records.length > 0 && bytes >= maxBytes)) return { records, more: true };
        records.push({ key: row.key, record: this.#checked(row) });
        bytes += row.key.length + row.value.length;
      }
      const last = rows.at(-1);
      if (last === undefined || rows.length < step) return { records, more: false };
      at = Buffer.concat([last.key, new Uint8Array(1)]);
    }
  }

  /** Leased: while it stands in the snapshot, nothing changes it. */
  bundle(ino: number, kind: number, region0MaxBytes: number): InodeBundle {
    const attr = this.record(inodeKey(ino));
    if (attr === null) return { ino, attr, counters: null, region0: null, leased: false };
    const counters = kind === DataKind.folder ? this.counters(ino) : null;
    let region0: StoredRecord | null = null;
    if (region0MaxBytes > 0 && kind !== DataKind.none && kind !== DataKind.folder) {
      region0 = this.record(regionKey(ino, 0));
      if (region0 !== null && region0.value.length > region0MaxBytes) region0 = null;
    }
    return { ino, attr, counters, region0, leased: true };
  }

  /** Entries of a folder after a hash; without their inodes. */
  list(dir: number, after: Uint8Array, limit: number, maxBytes: number): { entries: ListEntry[]; more: boolean } {
    const prefix = dentryPrefix(dir);
    const from = after.length === 0 ? prefix : Buffer.concat([dentryKey(dir, after), new Uint8Array(1)]);
    const { records, more } = this.range(from, prefixEnd(prefix) ?? prefix, limit, maxBytes);
    const at = prefix.length;
    return {
      entries: records.map(({ key, record }) => ({ hash: key.slice(at, at + NAME_HASH_BYTES), dentry: record, inode: null })),
      more,
    };
  }

  /** All records under a prefix, in order. */
  *all(prefix: Uint8Array): Generator<{ key: Uint8Array; record: StoredRecord }> {
    const to = prefixEnd(prefix) ?? prefix;
    for (let from = prefix, more = true; more; ) {
      const page = this.range(from, to, RANGE_STEP, Number.POSITIVE_INFINITY);
      yield* page.records;
      from = Buffer.concat([page.records.at(-1)?.key ?? prefix, new Uint8Array(1)]);
      ({ more } = page);
    }
  }

  /** The attributes of an inode that it has. */
  attributes(canonical: Pick<Canonical, "attributes">, ino: number): InodeAttributes {
    const record = this.record(inodeKey(ino));
    if (record === null) throw new Error(`${this.file}: no inode ${ino}`);
    return canonical.attributes(ino, record);
  }

  inode(ino: number): InodeRow | null {
    return this.#reading(() => this.#inode.get(ino));
  }

  *inodes(): Generator<InodeRow> {
    // In pages: a statement in the middle of its rows would be in the way of whatever is done with them.
    for (let after = -1, more = true; more; ) {
      const from = after;
      const rows = this.#reading(() => this.#inodesAfter.all(from, INODES_AT_ONCE));
      yield* rows;
      more = rows.length === INODES_AT_ONCE;
      after = rows.at(-1)?.ino ?? after;
    }
  }

  /** Files whose data is not there. */
  pending(): InodeRow[] {
    return this.#sql<InodeRow, [number]>("SELECT * FROM inode WHERE state = ? ORDER BY ino").all(StageState.pending);
  }

  // ---- the folders above ----

  above(): { records: AboveRow[]; counters: (Counters & { ino: number })[] } {
    return {
      records: this.#sql<AboveRow, []>("SELECT key, version, link, value FROM above").all(),
      counters: this.#sql<Counters & { ino: number }, []>("SELECT * FROM above_folder").all(),
    };
  }

  putAbove(key: Uint8Array, { version, link, value }: StoredRecord): void {
    this.#sql("INSERT OR REPLACE INTO above VALUES (?, ?, ?, ?)").run(key, version, link, value);
  }

  putAboveCounters(ino: number, { links, entries, mtimeSec, mtimeNsec, bumps }: Counters): void {
    this.#sql("INSERT OR REPLACE INTO above_folder VALUES (?, ?, ?, ?, ?, ?)").run(ino, links, entries, mtimeSec, mtimeNsec, bumps);
  }

  clearAbove(): void {
    this.#db.run("DELETE FROM above");
    this.#db.run("DELETE FROM above_folder");
  }

  // ---- writing ----

  putRecord(key: Uint8Array, { version, link, value }: StoredRecord): void {
    this.#putRecord.run(key, version, link, Bun.hash.crc32(value), value);
  }

  putCounters(ino: number, { links, entries, mtimeSec, mtimeNsec, bumps }: Counters): void {
    this.#putCounters.run(ino, links, entries, mtimeSec, mtimeNsec, bumps);
  }

  putInode({ ino, version, bytes, kind, state, imageVersion, generation, tableSum }: InodeRow): void {
    this.#putInode.run(ino, version, bytes, kind, state, imageVersion, generation, tableSum);
  }

  /** The image of an inode has this table. */
  setTableSum(ino: number, sum: number): void {
    this.#sql("UPDATE inode SET tableSum = ? WHERE ino = ?").run(sum, ino);
  }

  setState(ino: number, state: number): void {
    this.#reading(() => this.#setState.run(state, ino));
  }

  deletePrefix(prefix: Uint8Array): void {
    this.#deleteRange.run(prefix, prefixEnd(prefix) ?? prefix);
  }

  /** The inode and all its records; of a folder its entries too. */
  deleteInode(ino: number): void {
    this.deletePrefix(inodePrefix(ino));
    this.deletePrefix(dentryPrefix(ino));
    this.#sql("DELETE FROM folder WHERE ino = ?").run(ino);
    this.#sql("DELETE FROM inode WHERE ino = ?").run(ino);
  }

  setRoot(ino: number): void {
    this.root = ino;
    this.#setMeta("root", String(ino));
  }

  setTotals(totals: Totals): void {
    this.totals = totals;
    this.#setMeta("files", String(totals.files));
    this.#setMeta("bytes", String(totals.bytes));
  }

  /** From now on the snapshot may be used. */
  complete(stagedAt: string): void {
    this.#setMeta("stagedAt", stagedAt);
    this.stagedAt = stagedAt;
  }

  /** Moves the journal into the file first, where that can be done: what is not moved now is moved when it is opened. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      // A full or failing disk, or a damaged file.
    }
    for (const statement of this.#statements.values()) statement.finalize();
    this.#db.close(true);
  }
}
