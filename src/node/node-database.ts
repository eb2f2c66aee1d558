/**
 * What the node itself remembers, in DIR/node.db: sessions, and the tenants' wrapped data keys. Every write is fsynced; there are few.
 * The database is locked as long as it is open: one folder has one process.
 */
import { Database, type Statement } from "bun:sqlite";
import { NodeError } from "../protocol/errors.ts";
import { KEY_EPOCHS_MAX } from "../protocol/limits.ts";
import { closeDatabase } from "./engines/sqlite-database.ts";
import { toNodeError } from "./engines/sqlite-errors.ts";

const SCHEMA = `
CREATE TABLE IF NOT EXISTS sessions(session BLOB PRIMARY KEY, tenant TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys(tenant TEXT NOT NULL, epoch INTEGER NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY(tenant, epoch)) WITHOUT ROWID;
`;

export interface StoredSession {
  session: Uint8Array;
  tenant: string;
}

export class NodeDatabase {
  readonly #db: Database;
  readonly #sessions: Statement<StoredSession, []>;
  readonly #addSession: Statement<unknown, [Uint8Array, string]>;
  readonly #removeSession: Statement<unknown, [Uint8Array]>;
  readonly #keys: Statement<{ epoch: number; wrapped: Uint8Array }, [string]>;
  readonly #addKey: Statement<unknown, [string, number, Uint8Array]>;

  /** @throws Error when another process has the folder */
  constructor(path: string) {
    const db = new Database(path, { create: true, readwrite: true, strict: true });
    try {
      db.run("PRAGMA locking_mode=EXCLUSIVE");
      db.run("PRAGMA journal_mode=WAL");
      db.run("PRAGMA synchronous=FULL");
      db.run(SCHEMA);
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
    this.#sessions = db.prepare("SELECT session, tenant FROM sessions");
    this.#addSession = db.prepare("INSERT OR IGNORE INTO sessions(session, tenant) VALUES(?, ?)");
    this.#removeSession = db.prepare("DELETE FROM sessions WHERE session = ?");
    this.#keys = db.prepare("SELECT epoch, wrapped FROM keys WHERE tenant = ? ORDER BY epoch");
    this.#addKey = db.prepare("INSERT INTO keys(tenant, epoch, wrapped) VALUES(?, ?, ?)");
  }

  sessions(): StoredSession[] {
    return this.#guard(() => this.#sessions.all());
  }

  addSession(session: Uint8Array, tenant: string): void {
    this.#guard(() => this.#addSession.run(session, tenant));
  }

  removeSession(session: Uint8Array): void {
    this.#guard(() => this.#removeSession.run(session));
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

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw toNodeError(error);
    }
  }

  close(): void {
    closeDatabase(this.#db, [this.#sessions, this.#addSession, this.#removeSession, this.#keys, this.#addKey]);
  }
}
