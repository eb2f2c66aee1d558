/**
 * What the node itself remembers, in DIR/node.db: sessions, and the tenants' wrapped data keys. Every write is fsynced; there are few.
 * The database is locked as long as it is open: one folder has one process.
 *
 * Shredding a tenant is one transaction: its keys go, and its name stays as one that is shredded. From then on the keys count as destroyed,
 * whatever happens; what is left of their bytes in free space of the files is overwritten next, or by the next start when the node dies
 * between.
 */
import { Database, type Statement } from "bun:sqlite";
import { randomBytes } from "node:crypto";
import { dirname } from "node:path";
import { NodeError } from "../protocol/errors.ts";
import { INSTANCE_ID_BYTES, KEY_EPOCHS_MAX } from "../protocol/limits.ts";
import { closeDatabase } from "./engines/sqlite-database.ts";
import { toNodeError } from "./engines/sqlite-errors.ts";
import { overwriteFile } from "./overwrite-file.ts";

/**
 * Of everything in the data folder, as user_version of node.db. 1 (no user_version): records and chunks without file ids. 2: the present one. A
 * format that this program does not read is refused before anything is changed.
 */
const FORMAT_VERSION = 2;
const SCHEMA = `
CREATE TABLE IF NOT EXISTS sessions(session BLOB PRIMARY KEY, tenant TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_namespaces(session BLOB NOT NULL, namespace TEXT NOT NULL, PRIMARY KEY(session, namespace)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys(tenant TEXT NOT NULL, epoch INTEGER NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY(tenant, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instance(id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS starts(number INTEGER PRIMARY KEY, id BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS recovered(start INTEGER NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY(tenant, namespace, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shredded(tenant TEXT PRIMARY KEY, overwritten INTEGER NOT NULL) WITHOUT ROWID;
`;

export interface StoredSession {
  session: Uint8Array;
  tenant: string;
}

/** Starts that are remembered: a client that was away for longer ones has to drop what it has cached. */
const STARTS_KEPT = 4_096;

/** Of so many starts it is remembered how far namespaces were. */
const STARTS_RECOVERED_KEPT = 64;

/** Writes down that the node starts. */
function beginStart(db: Database, renew: boolean): Pick<NodeDatabase, "instance" | "start"> & { startIds: Map<string, number> } {
  return db.transaction(() => {
    if (renew) for (const table of ["instance", "starts", "recovered", "sessions", "session_namespaces"]) db.run(`DELETE FROM ${table}`);
    using known = db.prepare<{ id: Uint8Array }, []>("SELECT id FROM instance");
    let instance = known.get()?.id;
    if (instance === undefined) {
      instance = new Uint8Array(randomBytes(INSTANCE_ID_BYTES));
      db.run("INSERT INTO instance(id) VALUES(?)", [instance]);
    }
    using starts = db.prepare<{ number: number; id: Uint8Array }, []>("SELECT number, id FROM starts ORDER BY number");
    const before = starts.all();
    const start = { number: (before.at(-1)?.number ?? 0) + 1, id: new Uint8Array(randomBytes(INSTANCE_ID_BYTES)) };
    db.run("INSERT INTO starts(number, id) VALUES(?, ?)", [start.number, start.id]);
    db.run("DELETE FROM starts WHERE number <= ?", [start.number - STARTS_KEPT]);
    db.run("DELETE FROM recovered WHERE start <= ?", [start.number - STARTS_RECOVERED_KEPT]);
    return { instance, start, startIds: new Map([...before, start].map(({ number, id }) => [id.toHex(), number])) };
  })();
}

/** @throws Error when the folder's data has another format */
function requireFormat(db: Database, path: string): void {
  using tables = db.prepare<{ count: number }, []>("SELECT count(*) AS count FROM sqlite_master");
  if ((tables.get()?.count ?? 0) === 0) return;
  using userVersion = db.prepare<{ user_version: number }, []>("PRAGMA user_version");
  const version = Math.max(1, userVersion.get()?.user_version ?? 0);
  if (version === FORMAT_VERSION) return;
  const remedy =
    version < FORMAT_VERSION
      ? "mount it with the kiseki that wrote it, and copy the files into a new data folder of this one"
      : "use a newer kiseki";
  throw new Error(`${dirname(path)}: its data has format ${version}, and this kiseki reads format ${FORMAT_VERSION}: ${remedy}`);
}

export class NodeDatabase {
  readonly #db: Database;
  readonly #sessions: Statement<StoredSession, []>;
  readonly #addSession: Statement<unknown, [Uint8Array, string]>;
  readonly #removeSession: Statement<unknown, [Uint8Array]>;
  readonly #keys: Statement<{ epoch: number; wrapped: Uint8Array }, [string]>;
  readonly #addKey: Statement<unknown, [string, number, Uint8Array]>;
  readonly #path: string;
  /** Numbers of the starts that are remembered, by their ids in hexadecimal. */
  readonly #startIds: ReadonlyMap<string, number>;
  readonly #recovered: Statement<{ seq: number | null }, [string, string, number]>;
  readonly #recordRecovered: Statement<unknown, [number, string, string, number]>;
  readonly #namespacesOfSession: Statement<{ namespace: string }, [Uint8Array]>;
  readonly #addNamespace: Statement<unknown, [Uint8Array, string]>;
  readonly #removeNamespaces: Statement<unknown, [Uint8Array]>;
  /** Random bytes that name this data; others from each `renew()` on. */
  readonly instance: Uint8Array;
  /** Of this start: its number, one more than the one before, and random bytes. */
  readonly start: { readonly number: number; readonly id: Uint8Array };
  /** Tenants that were shredded. */
  readonly #shredded: Set<string>;

  /**
   * Opens the database; this counts as a start of the node.
   * @param renew the data has gone back on purpose: it gets a new name, and its earlier starts and sessions are forgotten
   * @throws Error when another process has the folder
   */
  constructor(path: string, renew = false) {
    const db = new Database(path, { create: true, readwrite: true, strict: true });
    try {
      db.run("PRAGMA locking_mode=EXCLUSIVE");
      db.run("PRAGMA journal_mode=WAL");
      db.run("PRAGMA synchronous=FULL");
      // What is deleted is overwritten with zeros, and VACUUM's copy never touches a disk.
      db.run("PRAGMA secure_delete=ON");
      db.run("PRAGMA temp_store=MEMORY");
      requireFormat(db, path);
      db.run(SCHEMA);
      db.run(`PRAGMA user_version=${FORMAT_VERSION}`);
      // The lock is taken by the first write.
      db.run("BEGIN IMMEDIATE");
      db.run("COMMIT");
    } catch (error) {
      db.close();
      if (error instanceof Error && "code" in error && error.code === "SQLITE_BUSY") {
        throw new Error(`${path}: in use by another kiseki serve`, { cause: error });
      }
      throw error;
    }
    this.#db = db;
    this.#path = path;
    ({ instance: this.instance, start: this.start, startIds: this.#startIds } = beginStart(db, renew));
    this.#sessions = db.prepare("SELECT session, tenant FROM sessions");
    this.#addSession = db.prepare("INSERT OR IGNORE INTO sessions(session, tenant) VALUES(?, ?)");
    this.#removeSession = db.prepare("DELETE FROM sessions WHERE session = ?");
    this.#keys = db.prepare("SELECT epoch, wrapped FROM keys WHERE tenant = ? ORDER BY epoch");
    this.#recovered = db.prepare("SELECT MIN(seq) AS seq FROM recovered WHERE tenant = ? AND namespace = ? AND start > ?");
    this.#recordRecovered = db.prepare("INSERT OR REPLACE INTO recovered(start, tenant, namespace, seq) VALUES(?, ?, ?, ?)");
    this.#namespacesOfSession = db.prepare("SELECT namespace FROM session_namespaces WHERE session = ?");
    this.#addNamespace = db.prepare("INSERT OR IGNORE INTO session_namespaces(session, namespace) VALUES(?, ?)");
    this.#removeNamespaces = db.prepare("DELETE FROM session_namespaces WHERE session = ?");
    this.#addKey = db.prepare("INSERT INTO keys(tenant, epoch, wrapped) VALUES(?, ?, ?)");
    const shredded = db.query<{ tenant: string; overwritten: number }, []>("SELECT tenant, overwritten FROM shredded").all();
    this.#shredded = new Set(shredded.map(({ tenant }) => tenant));
    if (shredded.some(({ overwritten }) => overwritten === 0)) this.#overwriteRemains();
  }

  /** Whether this data was served under a start with this id. */
  knowsStart(id: Uint8Array): boolean {
    return this.#startIds.has(id.toHex());
  }

  /** Writes down how far a namespace was when it was opened for the first time since the node started. */
  recordRecovered(tenant: string, namespace: string, seq: number): void {
    this.#guard(() => this.#recordRecovered.run(this.start.number, tenant, namespace, seq));
  }

  /**
   * The least that a namespace had at a start after the one with this id, of those that it was opened in: what was there before and is not behind it
   * was never lost. 0 where that is not known; null: it was not opened since.
   */
  recoveredSince(id: Uint8Array, tenant: string, namespace: string): number | null {
    const start = this.#startIds.get(id.toHex());
    if (start === this.start.number) return null;
    if (start === undefined) return 0;
    const row = this.#guard(() => this.#recovered.get(tenant, namespace, start));
    // What is longer ago is not remembered.
    return this.start.number - start >= STARTS_RECOVERED_KEPT ? 0 : (row?.seq ?? null);
  }

  sessions(): StoredSession[] {
    return this.#guard(() => this.#sessions.all());
  }

  /** Sessions of the previous run may come back. */
  get hasSessions(): boolean {
    return this.sessions().length > 0;
  }

  addSession(session: Uint8Array, tenant: string): void {
    this.#guard(() => this.#addSession.run(session, tenant));
  }

  removeSession(session: Uint8Array): void {
    this.#guard(() =>
      this.#db.transaction(() => {
        this.#removeNamespaces.run(session);
        this.#removeSession.run(session);
      })(),
    );
  }

  /** The session is about to change something in the namespace: when it ends, that is where something of it may be left. */
  addSessionNamespace(session: Uint8Array, namespace: string): void {
    this.#guard(() => this.#addNamespace.run(session, namespace));
  }

  namespacesOfSession(session: Uint8Array): string[] {
    return this.#guard(() => this.#namespacesOfSession.all(session)).map(({ namespace }) => namespace);
  }

  keys(tenant: string): { epoch: number; wrapped: Uint8Array }[] {
    return this.#guard(() => this.#keys.all(tenant));
  }

  /** Never overwrites. @throws NodeError "exists" */
  addKey(tenant: string, epoch: number, wrapped: Uint8Array): void {
    const keys = this.keys(tenant);
    if (keys.some((key) => key.epoch === epoch)) throw new NodeError("exists", `key epoch ${epoch} exists`);
    if (keys.length >= KEY_EPOCHS_MAX) throw new NodeError("bad_request", `a tenant has at most ${KEY_EPOCHS_MAX} key epochs`);
    this.#guard(() => this.#addKey.run(tenant, epoch, wrapped));
  }

  /** The tenant's keys were destroyed: for good. */
  isShredded(tenant: string): boolean {
    return this.#shredded.has(tenant);
  }

  get shreddedTenants(): ReadonlySet<string> {
    return this.#shredded;
  }

  /**
   * Destroys the tenant's keys; on disk when it returns. Returns how many there were.
   * @throws NodeError: nothing is shredded, or (isShredded) all is but for what the disk did not let us overwrite
   */
  shred(tenant: string): number {
    const count = this.keys(tenant).length;
    this.#guard(() =>
      this.#db.transaction(() => {
        this.#db.run("INSERT INTO shredded(tenant, overwritten) VALUES(?, 0)", [tenant]);
        this.#db.run("DELETE FROM keys WHERE tenant = ?", [tenant]);
      })(),
    );
    this.#shredded.add(tenant);
    this.#guard(() => this.#overwriteRemains());
    return count;
  }

  /** No byte of what was deleted stays in the files: pages are built anew, and the write-ahead log is overwritten before it is cut. */
  #overwriteRemains(): void {
    const db = this.#db;
    db.run("VACUUM");
    db.run("PRAGMA wal_checkpoint(FULL)");
    overwriteFile(`${this.#path}-wal`);
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    db.run("UPDATE shredded SET overwritten = 1");
  }

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw toNodeError(error);
    }
  }

  close(): void {
    closeDatabase(this.#db, [
      this.#sessions,
      this.#addSession,
      this.#removeSession,
      this.#keys,
      this.#addKey,
      this.#recovered,
      this.#recordRecovered,
      this.#namespacesOfSession,
      this.#addNamespace,
      this.#removeNamespaces,
    ]);
  }
}
