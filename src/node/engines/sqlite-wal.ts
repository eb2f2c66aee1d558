/** A shard's write-ahead log: how much is in it, syncing it, and the checkpoints that empty it into the database file. */
import type { Database } from "bun:sqlite";
import { fdatasyncSync, openSync } from "node:fs";
import { FileSync } from "./file-sync.ts";
import { rewriteWal } from "./sqlite-wal-rewrite.ts";

/** Bytes written since the last checkpoint from which an idle moment is used for one. */
const CHECKPOINT_IDLE_BYTES = 1024 * 1024;
/** From here on it is done at once: the WAL must not grow without end. Some 100 ms. */
const CHECKPOINT_FORCED_BYTES = 256 * 1024 * 1024;
/** What one changed row adds to the WAL at most, roughly: a page. */
const ROW_WAL_BYTES = 4_096;

function isFull(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "SQLITE_FULL";
}

export class ShardWal {
  readonly #db: Database;
  readonly #path: string;
  #file: FileSync | null = null;
  /** Since the last checkpoint, roughly. */
  #bytes = 0;
  /**
   * Some of the file may not be on the disk though the kernel says so: each failure is told once, to whoever syncs first with a descriptor,
   * and what could not be written is clean then. It has to be written again.
   */
  #failed = false;

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
  async sync(): Promise<void> {
    try {
      await this.#opened.sync();
    } catch (error) {
      this.#failed = true;
      throw error;
    }
    // Of two that sync at once only one learns of a failure.
    if (this.#failed) throw new Error("the write-ahead log could not be synced");
  }

  /** The same, blocking. @throws SQLite's and the system's errors */
  syncNow(): void {
    if (this.#failed) this.checkpoint();
    try {
      fdatasyncSync(this.#opened.fd);
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }

  /** Brings what was committed into the database file, and syncs both. @throws SQLite's and the system's errors */
  checkpoint(): void {
    const renew = this.#failed;
    try {
      if (renew) this.#rewrite();
      // ext4 can lose, though it syncs, what is written where a sync has failed before: the file gets new blocks.
      this.#db.run(renew ? "PRAGMA wal_checkpoint(TRUNCATE)" : "PRAGMA wal_checkpoint(PASSIVE)");
      this.#failed = false;
    } catch (error) {
      // A failed sync is SQLITE_IOERR, whatever the system said.
      if (!isFull(error)) this.#failed = true;
      throw error;
    }
    this.#bytes = 0;
  }

  #rewrite(): void {
    using count = this.#db.prepare<{ log: number }, []>("PRAGMA wal_checkpoint(NOOP)");
    rewriteWal(this.#opened.fd, count.get()?.log ?? 0);
    this.#opened.forget();
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
