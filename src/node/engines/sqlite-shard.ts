/**
 * A shard in one SQLite file.
 *
 * Deltas wait in a queue until the event loop has delivered everything of this turn; then all of them become one transaction, in the
 * order of their arrival, each seeing those before it. A lone delta waits for no timer: setImmediate runs as soon as the turn's
 * sockets are read. The transaction itself is not fsynced; durable deltas wait for an fdatasync of the WAL on the thread pool, and
 * those that came meanwhile share the next one.
 */
import type { Database } from "bun:sqlite";
import { dirname } from "node:path";
import { NodeError } from "../../protocol/errors.ts";
import { INO_MAX, ROOT_INO } from "../../protocol/limits.ts";
import type { Counters, Delta, InodeBundle, ListEntry, StoredRecord } from "../../protocol/messages.ts";
import { AppliedDeltas } from "./applied-deltas.ts";
import type { CommitOutcome, CommitRequest, RangeAnswer, Shard, ShardEvent } from "./engine.ts";
import { DeltaApplier, newChunksOf } from "./sqlite-apply.ts";
import { closeDatabase, openShardDatabase, prepareStatements, type Statements } from "./sqlite-database.ts";
import { isDiskFailure, toNodeError } from "./sqlite-errors.ts";
import { ShardReads } from "./sqlite-reads.ts";
import { verifyShard } from "./sqlite-verify.ts";
import { inosOfDelta } from "./touched-inos.ts";
import { syncFolder, WalSync } from "./wal-sync.ts";

/** Deltas in one transaction at most: some 20 ms of work. */
const BATCH_MAX = 1_024;
/** Sequence and inode numbers are reserved on disk in runs of this many; a restart skips the rest of its run. */
const SEQ_RUN = 2 ** 24;
const INO_RUN = 2 ** 18;
/** A checkpoint waits for this long without a delta. */
const IDLE_MS = 200;
/** Bytes written since the last checkpoint from which an idle moment is used for one. */
const CHECKPOINT_IDLE_BYTES = 1024 * 1024;
/** From here on it is done at once: the WAL must not grow without end. Some 100 ms. */
const CHECKPOINT_FORCED_BYTES = 128 * 1024 * 1024;
/** Under load the WAL is brought to disk in steps of this many bytes, so that a checkpoint's own fsync finds little to do. */
const WRITE_BACK_BYTES = 16 * 1024 * 1024;
/** What one changed row adds to the WAL, roughly: a page. */
const ROW_WAL_BYTES = 4_096;

interface Waiting {
  request: CommitRequest;
  resolve: (outcome: CommitOutcome) => void;
  reject: (error: unknown) => void;
}

export class SqliteShard implements Shard {
  readonly #db: Database;
  readonly #sql: Statements;
  readonly #reads: ShardReads;
  readonly #applied: AppliedDeltas;
  readonly #applier: DeltaApplier;
  readonly #wal: WalSync;
  readonly #listeners = new Set<(event: ShardEvent) => void>();
  #queue: Waiting[] = [];
  #scheduled = false;
  #seq = 0;
  #seqReserved = 0;
  #inoNext = ROOT_INO + 1;
  #inoReserved = ROOT_INO + 1;
  #grant: Promise<unknown> = Promise.resolve();
  #bytesInWal = 0;
  #bytesWrittenBack = 0;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  /** An fdatasync has failed: the kernel may have dropped what it could not write. Nothing is promised until a checkpoint went well. */
  #walSuspect = false;
  #closed = false;

  /** @throws NodeError */
  constructor(path: string) {
    try {
      this.#db = openShardDatabase(path);
    } catch (error) {
      throw toNodeError(error);
    }
    let statements: Statements | null = null;
    try {
      statements = prepareStatements(this.#db);
      this.#sql = statements;
      this.#reads = new ShardReads(this.#sql);
      this.#applied = new AppliedDeltas(this.#sql);
      this.#applier = new DeltaApplier(this.#sql, this.#applied);
      const last = this.#sql.lastApplied.get();
      this.#applier.inodes = last !== null && last.seq > this.#meta("inodesSeq") ? last.inodes : this.#meta("inodes");
      // Numbers handed out before a power loss may have been lost with their deltas, yet be remembered by clients: never use them again.
      this.#seq = this.#meta("seqReserved");
      this.#inoNext = Math.max(ROOT_INO + 1, this.#meta("inoReserved"));
      this.#inoReserved = this.#inoNext;
      this.#reserveSeqs();
      this.#wal = new WalSync(`${path}-wal`);
      this.#checkpoint();
      syncFolder(dirname(path));
    } catch (error) {
      closeDatabase(this.#db, statements === null ? [] : Object.values(statements));
      throw toNodeError(error);
    }
  }

  get(keys: readonly Uint8Array[]): (StoredRecord | null)[] {
    return this.#read(() => keys.map((key) => this.#reads.record(key)));
  }
  range(from: Uint8Array, to: Uint8Array | null, limit: number, maxBytes: number): RangeAnswer {
    return this.#read(() => this.#reads.range(from, to, limit, maxBytes));
  }
  inode(ino: number, region0MaxBytes: number): InodeBundle {
    return this.#read(() => this.#reads.inode(ino, region0MaxBytes));
  }
  lookup(key: Uint8Array, region0MaxBytes: number): { dentry: StoredRecord | null; inode: InodeBundle | null } {
    return this.#read(() => this.#reads.lookup(key, region0MaxBytes));
  }
  list(
    dir: number,
    after: Uint8Array,
    limit: number,
    maxBytes: number,
    region0MaxBytes: number | null,
  ): { entries: ListEntry[]; more: boolean; counters: Counters } {
    return this.#read(() => this.#reads.list(dir, after, limit, maxBytes, region0MaxBytes));
  }
  newChunks(puts: Delta["puts"]): Uint8Array[] {
    return this.#read(() => newChunksOf(this.#sql, puts));
  }
  holdsChunk(id: Uint8Array, graceMs: number): boolean {
    const row = this.#read(() => this.#sql.refs.get(id));
    return row !== null && (row.refs > 0 || row.since > Date.now() - graceMs);
  }
  get inodeCount(): number {
    return this.#applier.inodes;
  }

  #read<T>(read: () => T): T {
    if (this.#closed) throw new NodeError("not_found", "the namespace was deleted, or the node stops");
    try {
      return read();
    } catch (error) {
      throw toNodeError(error);
    }
  }

  commit(request: CommitRequest): Promise<CommitOutcome> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw new NodeError("not_found", "the namespace was deleted, or the node stops");
      this.#queue.push({ request, resolve, reject });
      if (!this.#scheduled) {
        this.#scheduled = true;
        setImmediate(() => this.#flush());
      }
    });
  }

  watch(listener: (event: ShardEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #flush(): void {
    this.#scheduled = false;
    let batch = this.#queue;
    if (batch.length > BATCH_MAX) {
      this.#queue = batch.slice(BATCH_MAX);
      batch = batch.slice(0, BATCH_MAX);
      this.#scheduled = true;
      setImmediate(() => this.#flush());
    } else {
      this.#queue = [];
    }
    if (batch.length > 0) this.#applyBatch(batch);
  }

  #applyBatch(batch: Waiting[]): void {
    let results: (CommitOutcome | NodeError)[];
    try {
      results = this.#transaction(() => batch.map(({ request }) => this.#applyOne(request)));
    } catch (error) {
      // One delta may have spoiled it for the others, unless the disk did.
      if (batch.length > 1 && !isDiskFailure(error)) {
        for (const waiting of batch) this.#applyBatch([waiting]);
      } else {
        for (const { reject } of batch) reject(toNodeError(error));
      }
      return;
    }
    const durable: (Waiting & { outcome: CommitOutcome })[] = [];
    batch.forEach((waiting, index) => {
      const outcome = results[index];
      if (outcome === undefined || outcome instanceof NodeError) {
        waiting.reject(outcome);
        return;
      }
      if (outcome.ok) this.#announce(waiting.request, outcome);
      if (outcome.ok && waiting.request.delta.durable) {
        durable.push({ ...waiting, outcome });
      } else {
        waiting.resolve(outcome);
      }
    });
    if (durable.length > 0) {
      this.sync().then(
        () => {
          for (const { resolve, outcome } of durable) resolve(outcome);
        },
        (error: unknown) => {
          for (const { reject } of durable) reject(error);
        },
      );
    }
    this.#afterWrite();
  }

  #announce(request: CommitRequest, outcome: CommitOutcome & { ok: true }): void {
    request.onApplied?.();
    if (outcome.replayed || this.#listeners.size === 0) return;
    const event = { seq: outcome.seq, inos: inosOfDelta(request.delta) };
    for (const listener of this.#listeners) listener(event);
  }

  #applyOne({ session, delta }: CommitRequest): CommitOutcome | NodeError {
    try {
      const outcome = this.#applier.apply(session, delta, this.#seq + 1);
      if (outcome.ok && !outcome.replayed) {
        this.#seq++;
        this.#bytesInWal += ROW_WAL_BYTES;
        for (const put of delta.puts) this.#bytesInWal += ROW_WAL_BYTES + put.value.length;
      }
      return outcome;
    } catch (error) {
      // A NodeError comes before the first write: this delta alone is refused. Anything else spoils the transaction.
      if (error instanceof NodeError && error.code === "bad_request") return error;
      throw error;
    }
  }

  /** @throws SQLite's errors, with everything undone */
  #transaction<T>(work: () => T): T {
    const seq = this.#seq;
    const reserved = this.#seqReserved;
    const inodes = this.#applier.inodes;
    this.#sql.begin.run();
    try {
      const result = work();
      // Half a run early: the reservation is long on disk when its first number is used.
      if (this.#seq > this.#seqReserved - SEQ_RUN / 2) this.#reserveSeqs();
      this.#sql.commit.run();
      this.#applied.settled();
      return result;
    } catch (error) {
      // SQLite rolls back by itself on SQLITE_FULL and SQLITE_IOERR (lang_transaction.html, section 2.1).
      if (this.#db.inTransaction) this.#sql.rollback.run();
      this.#applied.undo();
      this.#seq = seq;
      this.#seqReserved = reserved;
      this.#applier.inodes = inodes;
      throw error;
    }
  }

  #reserveSeqs(): void {
    const reserved = this.#seq + SEQ_RUN;
    this.#sql.setMeta.run("seqReserved", reserved);
    this.#seqReserved = reserved;
  }

  #meta(name: string): number {
    return this.#sql.getMeta.get(name)?.value ?? 0;
  }

  async sync(): Promise<number> {
    const seq = this.#seq;
    if (this.#walSuspect) this.#recoverWal();
    try {
      await this.#wal.sync();
    } catch (error) {
      this.#walSuspect = true;
      throw toNodeError(error);
    }
    return seq;
  }

  /** Copies all of the WAL into the database and fsyncs that: what the failed fdatasync had promised is then there. */
  #recoverWal(): void {
    try {
      this.#checkpoint();
      this.#walSuspect = false;
    } catch (error) {
      throw toNodeError(error);
    }
  }

  #afterWrite(): void {
    clearTimeout(this.#idleTimer);
    if (this.#bytesInWal - this.#bytesWrittenBack >= WRITE_BACK_BYTES) {
      this.#bytesWrittenBack = this.#bytesInWal;
      this.sync().catch(() => {});
    }
    if (this.#bytesInWal >= CHECKPOINT_FORCED_BYTES) this.#tryCheckpoint();
    else if (this.#bytesInWal >= CHECKPOINT_IDLE_BYTES) {
      this.#idleTimer = setTimeout(() => this.#idleCheckpoint(), IDLE_MS);
      this.#idleTimer.unref();
    }
  }

  #idleCheckpoint(): void {
    // With the WAL on disk already, the checkpoint's own fsync of it returns at once.
    this.#wal.sync().then(
      () => {
        if (!this.#closed && this.#queue.length === 0) this.#tryCheckpoint();
      },
      () => {
        this.#walSuspect = true;
      },
    );
  }

  #tryCheckpoint(): void {
    try {
      this.#checkpoint();
    } catch {
      // A full disk: the WAL stays and the next idle moment tries again. Durable answers do not depend on checkpoints.
    }
  }

  #checkpoint(): void {
    this.#db.run("PRAGMA wal_checkpoint(PASSIVE)");
    this.#bytesInWal = 0;
    this.#bytesWrittenBack = 0;
  }

  grantInos(count: number): Promise<{ first: number; count: number }> {
    const granted = this.#grant.then(() => this.#grantInos(count));
    this.#grant = granted.catch(() => {});
    return granted;
  }

  async #grantInos(count: number): Promise<{ first: number; count: number }> {
    if (this.#closed) throw new NodeError("not_found", "the namespace was deleted, or the node stops");
    if (this.#inoNext + count > this.#inoReserved) {
      const reserved = this.#inoNext + count + INO_RUN;
      if (reserved > INO_MAX) throw new NodeError("no_space", "the namespace has used up its inode numbers");
      try {
        this.#transaction(() => this.#sql.setMeta.run("inoReserved", reserved));
      } catch (error) {
        throw toNodeError(error);
      }
      await this.sync();
      this.#inoReserved = reserved;
    }
    const first = this.#inoNext;
    this.#inoNext += count;
    return { first, count };
  }

  async pruneChunks(graceMs: number): Promise<void> {
    this.#read(() => this.#transaction(() => this.#sql.pruneRefs.run(Date.now() - graceMs)));
  }

  async forgetSession(session: Uint8Array): Promise<void> {
    this.#read(() =>
      this.#transaction(() => {
        // The rows that go may be those that hold the present number of inodes.
        this.#sql.setMeta.run("inodes", this.#applier.inodes);
        this.#sql.setMeta.run("inodesSeq", this.#seq);
        this.#applied.forget(session);
      }),
    );
  }

  verify(onChunk: (id: Uint8Array) => void): AsyncIterable<string> {
    return verifyShard(this.#db, onChunk);
  }

  /** Applies what is queued and closes the file. */
  async close(): Promise<void> {
    if (this.#closed) return;
    clearTimeout(this.#idleTimer);
    while (this.#queue.length > 0) this.#flush();
    await this.#grant;
    this.#closed = true;
    // Durable deltas wait for a sync in flight; it must not lose its descriptor.
    await this.#wal.sync().catch(() => {});
    this.#wal.close();
    this.#tryCheckpoint();
    closeDatabase(this.#db, Object.values(this.#sql));
  }
}
