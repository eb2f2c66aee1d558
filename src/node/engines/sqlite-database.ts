/**
 * One shard's SQLite file: pragmas, schema, prepared statements.
 *
 * The connection is exclusive (no other process, no shared-memory index), which saves the file locks around each statement:
 * a point read costs 2 us instead of 4. WAL frames are written without fsync (synchronous=NORMAL): durable is what the
 * journal has on disk, see sqlite-writer.ts. Checkpoints sync by themselves. No mmap: a disk error must be an error, not SIGBUS.
 *
 * `records` has rowids on purpose: its keys then have a B-tree of their own. In one WITHOUT ROWID, every search reads the overflow pages of
 * the large values (inline data) that it passes, to compare keys: listing 4,000 small files took 39,900 reads of the file, and now none.
 */
import { Database, type Statement } from "bun:sqlite";

/** Page cache of one shard, KiB. */
const CACHE_KIB = 32_768;
/** Application id in the file's header: "kski". */
const APPLICATION_ID = 0x6b736b69;
const SCHEMA_VERSION = 2;

const SCHEMA = `
CREATE TABLE records(key BLOB PRIMARY KEY, version INTEGER NOT NULL, link INTEGER NOT NULL, crc INTEGER NOT NULL, chunks BLOB, value BLOB NOT NULL);
CREATE TABLE counters(ino INTEGER PRIMARY KEY, links INTEGER NOT NULL, entries INTEGER NOT NULL, mtimeSec INTEGER NOT NULL,
  mtimeNsec INTEGER NOT NULL, bumps INTEGER NOT NULL);
CREATE TABLE sessions(s INTEGER PRIMARY KEY, session BLOB NOT NULL UNIQUE);
CREATE TABLE applied(s INTEGER NOT NULL, id INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(s, id)) WITHOUT ROWID;
CREATE TABLE chunk_refs(id BLOB PRIMARY KEY, refs INTEGER NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE drops(prefix BLOB PRIMARY KEY, timeMs INTEGER NOT NULL, done INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX loose_chunks ON chunk_refs(since) WHERE refs = 0;
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
`;

export interface RecordRow {
  version: number;
  link: number;
  crc: number;
  value: Uint8Array;
}
export interface KeyedRecordRow extends RecordRow {
  key: Uint8Array;
}
/** A delete that runs in slices: drops.ts. */
export interface DropRow {
  prefix: Uint8Array;
  timeMs: number;
  /** References of its first record that have been counted down. */
  done: number;
}
export interface CountersRow {
  links: number;
  entries: number;
  mtimeSec: number;
  mtimeNsec: number;
  bumps: number;
}

type Blob = Uint8Array;

export interface Statements {
  begin: Statement<unknown, []>;
  commit: Statement<unknown, []>;
  rollback: Statement<unknown, []>;
  get: Statement<RecordRow, [Blob]>;
  version: Statement<{ version: number }, [Blob]>;
  chunks: Statement<{ chunks: Blob | null; bytes: number }, [Blob]>;
  anyInRange: Statement<{ one: number }, [Blob, Blob]>;
  range: Statement<KeyedRecordRow, [Blob, Blob, number]>;
  rangeOpen: Statement<KeyedRecordRow, [Blob, number]>;
  put: Statement<unknown, [Blob, number, number, number, Blob | null, Blob]>;
  remove: Statement<unknown, [Blob]>;
  rangeChunks: Statement<{ key: Blob; chunks: Blob | null; bytes: number }, [Blob, Blob]>;
  removeRange: Statement<unknown, [Blob, Blob]>;
  counters: Statement<CountersRow, [number]>;
  bump: Statement<CountersRow, [number, number, number, number, number]>;
  removeCounters: Statement<unknown, [number]>;
  refs: Statement<{ refs: number; since: number }, [Blob]>;
  addRef: Statement<unknown, [Blob]>;
  dropRef: Statement<unknown, [number, Blob]>;
  looseRefs: Statement<{ id: Blob }, [number, number]>;
  forgetRef: Statement<unknown, [Blob]>;
  allDrops: Statement<{ prefix: Blob }, []>;
  firstDrop: Statement<DropRow, []>;
  dropOf: Statement<DropRow, [Blob]>;
  addDrop: Statement<unknown, [Blob, number]>;
  setDropDone: Statement<unknown, [number, Blob]>;
  removeDrop: Statement<unknown, [Blob]>;
  firstChunks: Statement<{ key: Blob; chunks: Blob | null; bytes: number }, [Blob, Blob]>;
  chunkBytes: Statement<{ bytes: number | null }, [Blob, Blob]>;
  sessionOf: Statement<{ s: number }, [Blob]>;
  addSession: Statement<{ s: number }, [Blob]>;
  removeSession: Statement<unknown, [number]>;
  appliedOf: Statement<{ id: number; seq: number }, [number]>;
  addApplied: Statement<unknown, [number, number, number]>;
  pruneApplied: Statement<unknown, [number, number]>;
  removeApplied: Statement<unknown, [number]>;
  setMeta: Statement<unknown, [string, number]>;
  getMeta: Statement<{ value: number }, [string]>;
}

/**
 * Opens or makes the file.
 * @throws the errors of bun:sqlite (SQLITE_BUSY where another process has it)
 */
export function openShardDatabase(path: string): Database {
  const db = new Database(path, { create: true, readwrite: true, strict: true });
  try {
    db.run("PRAGMA locking_mode=EXCLUSIVE");
    db.run("PRAGMA journal_mode=WAL");
    db.run("PRAGMA synchronous=NORMAL");
    db.run("PRAGMA wal_autocheckpoint=0");
    db.run("PRAGMA temp_store=MEMORY");
    // A transaction stays in memory until its commit: nothing of it can fail on a full disk before.
    db.run("PRAGMA cache_spill=OFF");
    db.run(`PRAGMA cache_size=-${CACHE_KIB}`);
    using userVersion = db.prepare<{ user_version: number }, []>("PRAGMA user_version");
    const version = userVersion.get()?.user_version ?? 0;
    if (version === 0) {
      db.transaction(() => {
        db.run(SCHEMA);
        db.run(`PRAGMA application_id=${APPLICATION_ID}`);
        db.run(`PRAGMA user_version=${SCHEMA_VERSION}`);
      })();
    } else if (version !== SCHEMA_VERSION) {
      throw new Error(`${path}: written by another version of kiseki (schema ${version}, this one reads ${SCHEMA_VERSION})`);
    }
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

export function prepareStatements(db: Database): Statements {
  return {
    begin: db.prepare("BEGIN IMMEDIATE"),
    commit: db.prepare("COMMIT"),
    rollback: db.prepare("ROLLBACK"),
    get: db.prepare("SELECT version, link, crc, value FROM records WHERE key = ?"),
    version: db.prepare("SELECT version FROM records WHERE key = ?"),
    chunks: db.prepare("SELECT chunks, length(value) AS bytes FROM records WHERE key = ?"),
    anyInRange: db.prepare("SELECT 1 AS one FROM records WHERE key >= ? AND key < ? LIMIT 1"),
    range: db.prepare("SELECT key, version, link, crc, value FROM records WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"),
    rangeOpen: db.prepare("SELECT key, version, link, crc, value FROM records WHERE key >= ? ORDER BY key LIMIT ?"),
    put: db.prepare(`INSERT INTO records(key, version, link, crc, chunks, value) VALUES(?, ?, ?, ?, ?, ?)
      ON CONFLICT(key) DO UPDATE SET version = excluded.version, link = excluded.link, crc = excluded.crc, chunks = excluded.chunks,
        value = excluded.value`),
    remove: db.prepare("DELETE FROM records WHERE key = ?"),
    rangeChunks: db.prepare("SELECT key, chunks, length(value) AS bytes FROM records WHERE key >= ? AND key < ?"),
    removeRange: db.prepare("DELETE FROM records WHERE key >= ? AND key < ?"),
    counters: db.prepare("SELECT links, entries, mtimeSec, mtimeNsec, bumps FROM counters WHERE ino = ?"),
    bump: db.prepare(`INSERT INTO counters(ino, links, entries, mtimeSec, mtimeNsec, bumps) VALUES(?, ?, ?, ?, ?, 1)
      ON CONFLICT(ino) DO UPDATE SET links = links + excluded.links, entries = entries + excluded.entries, bumps = bumps + 1,
        mtimeSec = max(mtimeSec, excluded.mtimeSec),
        mtimeNsec = CASE WHEN excluded.mtimeSec > mtimeSec THEN excluded.mtimeNsec
          WHEN excluded.mtimeSec = mtimeSec THEN max(mtimeNsec, excluded.mtimeNsec) ELSE mtimeNsec END
      RETURNING links, entries, mtimeSec, mtimeNsec, bumps`),
    removeCounters: db.prepare("DELETE FROM counters WHERE ino = ?"),
    refs: db.prepare("SELECT refs, since FROM chunk_refs WHERE id = ?"),
    addRef: db.prepare("INSERT INTO chunk_refs(id, refs, since) VALUES(?, 1, 0) ON CONFLICT(id) DO UPDATE SET refs = refs + 1"),
    dropRef: db.prepare("UPDATE chunk_refs SET refs = refs - 1, since = ? WHERE id = ?"),
    looseRefs: db.prepare("SELECT id FROM chunk_refs WHERE refs = 0 AND since <= ? ORDER BY since LIMIT ?"),
    forgetRef: db.prepare("DELETE FROM chunk_refs WHERE id = ? AND refs = 0"),
    allDrops: db.prepare("SELECT prefix FROM drops"),
    firstDrop: db.prepare("SELECT prefix, timeMs, done FROM drops LIMIT 1"),
    dropOf: db.prepare("SELECT prefix, timeMs, done FROM drops WHERE prefix = ?"),
    addDrop: db.prepare("INSERT OR IGNORE INTO drops(prefix, timeMs, done) VALUES(?, ?, 0)"),
    setDropDone: db.prepare("UPDATE drops SET done = ? WHERE prefix = ?"),
    removeDrop: db.prepare("DELETE FROM drops WHERE prefix = ?"),
    firstChunks: db.prepare("SELECT key, chunks, length(value) AS bytes FROM records WHERE key >= ? AND key < ? ORDER BY key LIMIT 1"),
    // length() of a blob does not read it.
    chunkBytes: db.prepare("SELECT sum(length(chunks)) AS bytes FROM records WHERE key >= ? AND key < ?"),
    sessionOf: db.prepare("SELECT s FROM sessions WHERE session = ?"),
    addSession: db.prepare("INSERT INTO sessions(session) VALUES(?) RETURNING s"),
    removeSession: db.prepare("DELETE FROM sessions WHERE s = ?"),
    appliedOf: db.prepare("SELECT id, seq FROM applied WHERE s = ?"),
    addApplied: db.prepare("INSERT INTO applied(s, id, seq) VALUES(?, ?, ?)"),
    pruneApplied: db.prepare("DELETE FROM applied WHERE s = ? AND id < ?"),
    removeApplied: db.prepare("DELETE FROM applied WHERE s = ?"),
    setMeta: db.prepare("INSERT OR REPLACE INTO meta(name, value) VALUES(?, ?)"),
    getMeta: db.prepare("SELECT value FROM meta WHERE name = ?"),
  };
}

/** Closes the file. A statement left open would keep it, and its lock. */
export function closeDatabase(db: Database, statements: Iterable<Pick<Statement, "finalize">>): void {
  for (const statement of statements) statement.finalize();
  db.close();
}

/** Checksum of what a record row says, chunks aside (they carry their own). */
export function recordCrc(key: Uint8Array, version: number, link: number, value: Uint8Array): number {
  return Bun.hash.crc32(value, Bun.hash.crc32(key, ((version >>> 0) ^ Math.imul(link >>> 0, 0x9e3779b1)) >>> 0));
}
