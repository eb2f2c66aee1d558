/** A shard's write-ahead log: how much is in it, syncing it, and the checkpoints that empty it into the database file. */
import type { Database } from "bun:sqlite";
import { fdatasyncSync, openSync } from "node:fs";
import { FileSync } from "./file-sync.ts";

/** Bytes written since the last checkpoint from which an idle moment is used for one. */
const CHECKPOINT_IDLE_BYTES = 1024 * 1024;
/** From here on it is done at once: the WAL must not grow without end. Some 100 ms. */
const CHECKPOINT_FORCED_BYTES = 256 * 1024 * 1024;
/** What one changed row adds to the WAL at most, roughly: a page. */
const ROW_WAL_BYTES = 4_096;

export class ShardWal {
  readonly #db: Database;
  readonly #path: string;
  #file: FileSync | null = null;
  /** Since the last checkpoint, roughly. */
  #bytes = 0;

  /** `path`: the database's. */
  constructor(db: Database, path: string) {
    this.#db = db;
    this.#path = `${path}-wal`;
  }

  /** A delta will add so many rows, with so many bytes in them. */
  count(rows: number, bytes: number): void {
    this.#bytes += rows * ROW_WAL_BYTES + bytes;
  }

  get wantsCheckpoint(): boolean {
    return this.#bytes >= CHECKPOINT_IDLE_BYTES;
  }
  get needsCheckpoint(): boolean {
    return this.#bytes >= CHECKPOINT_FORCED_BYTES;
  }

  get #opened(): FileSync {
    // SQLite makes it with the first commit.
    this.#file ??= new FileSync(openSync(this.#path, "r+"));
    return this.#file;
  }

  /** Resolves when what was committed survives power loss. @throws the system's errors, at once where the file cannot be opened */
  sync(): Promise<void> {
    return this.#opened.sync();
  }

  /** The same, blocking. @throws the system's errors */
  syncNow(): void {
    fdatasyncSync(this.#opened.fd);
  }

  /** Brings what was committed into the database file, and syncs both. @throws SQLite's errors */
  checkpoint(): void {
    this.#db.run("PRAGMA wal_checkpoint(PASSIVE)");
    this.#bytes = 0;
  }

  tryCheckpoint(): void {
    try {
      this.checkpoint();
    } catch {
      // A full disk: the WAL stays, and there will be another time.
      this.#bytes = 0;
    }
  }

  close(): void {
    this.#file?.close();
  }
}
