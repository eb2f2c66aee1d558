/**
 * A shard in one SQLite file and its journal: who wants what done, and who waits for it. How it is done: sqlite-writer.ts.
 *
 * Deltas wait in a queue until the event loop has delivered everything of this turn; then all of them are applied together, in the
 * order of their arrival, each seeing those before it. A lone delta waits for no timer: setImmediate runs as soon as the turn's
 * sockets are read. Durable deltas wait for an fdatasync of the journal on the thread pool, and those that came meanwhile share
 * the next one.
 */
import { NodeError } from "../../protocol/errors.ts";
import { INO_MAX, ROOT_INO } from "../../protocol/limits.ts";
import type { Counters, Delta, InodeBundle, ListEntry, StoredRecord } from "../../protocol/messages.ts";
import type { Lane } from "../../transport/lanes.ts";
import type { CommitOutcome, CommitRequest, NewChunks, RangeAnswer, Shard, ShardEvent, ShardState, ShardUsage } from "./engine.ts";
import { entryBytes } from "./journal-entry.ts";
import { newChunksOf } from "./sqlite-apply.ts";
import { isDiskFailure, toNodeError } from "./sqlite-errors.ts";
import { ShardReads } from "./sqlite-reads.ts";
import { verifyShard } from "./sqlite-verify.ts";
import { ShardWriter } from "./sqlite-writer.ts";
import { inosOfDelta } from "./touched-inos.ts";

/** Deltas, records and bytes that are applied together at most, unless one delta alone has more: a few milliseconds of work. */
const BATCH_MAX = 256;
const BATCH_ROWS = 1_024;
const BATCH_BYTES = 1024 * 1024;
/** A slice of a delete that failed (the disk is full) is tried again after this. */
const DROP_RETRY_MS = 1_000;
/** Inode numbers are reserved on disk in runs of this many; a restart skips the rest of its run. */
const INO_RUN = 2 ** 18;

/**
 * What is left out when a backup was restored: what the data that it replaces may have handed out since the backup was made. 2^32 inodes are
 * five days of 10,000 new files a second, 2^44 deltas 200 days of a million. More than that is no harm: what is bound to a file is bound to its
 * file id, and mounts from before the restore are refused. It is for who reads logs, and for caches by number.
 */
const SKIPPED_INOS = 2 ** 32;
const SKIPPED_SEQS = 2 ** 44;

interface Waiting {
  request: CommitRequest;
  resolve: (outcome: CommitOutcome) => void;
  reject: (error: unknown) => void;
}

/** How many of the first deltas are applied together. */
function batchLength(queue: readonly Waiting[]): number {
  let rows = 0;
  let bytes = 0;
  for (const [i, { request }] of queue.entries()) {
    const { puts, deletes, checks } = request.delta;
    rows += puts.length + deletes.length + checks.length + 1;
    for (const put of puts) bytes += put.value.length;
    if (i > 0 && (rows > BATCH_ROWS || bytes > BATCH_BYTES || i >= BATCH_MAX)) return i;
  }
  return queue.length;
}

export class SqliteShard implements Shard {
  readonly #writer: ShardWriter;
  readonly #recoveredSeq: number;
  readonly #reads: ShardReads;
  readonly #listeners = new Set<(event: ShardEvent) => void>();
  readonly #lane: Lane | null;
  /** It is this shard's turn in its lane. */
  readonly #turn = (): boolean => {
    this.#lane?.run(() => this.#flush());
    return false;
  };
  #queue: Waiting[] = [];
  #scheduled = false;
  #inoNext: number;
  #inoReserved: number;
  #dropping = false;
  #grant: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** `lane`: whose turns its deltas wait for. @throws NodeError */
  constructor(path: string, lane: Lane | null = null, onDamaged?: (record: string) => void) {
    this.#lane = lane;
    this.#writer = new ShardWriter(path, (work) => (lane === null ? work() : lane.run(work)));
    this.#recoveredSeq = this.#writer.lastSeq;
    this.#reads = new ShardReads(this.#writer.sql, this.#writer.drops, onDamaged);
    // What is left of the last run may have been granted.
    this.#inoNext = Math.max(ROOT_INO + 1, this.#writer.meta("inoReserved"));
    this.#inoReserved = this.#inoNext;
    this.#dropLater();
  }

  /** Deletes in slices are under way. */
  get isBusy(): boolean {
    return !this.#writer.drops.isEmpty;
  }

  /** Goes on with them, when the lane has its turn. */
  #dropLater(afterMs = 0): void {
    if (this.#dropping || this.#closed || !this.isBusy) return;
    this.#dropping = true;
    const turn = (): boolean => {
      this.#dropping = false;
      this.#dropLater(this.#dropSlice() ? 0 : DROP_RETRY_MS);
      return false;
    };
    const begin = (): void => {
      if (this.#lane === null || this.#lane.mayRun) turn();
      else this.#lane.wait(turn);
    };
    if (afterMs === 0) setImmediate(begin);
    else setTimeout(begin, afterMs).unref();
  }

  /** False: it failed, and is to be tried again later. */
  #dropSlice(): boolean {
    if (this.#closed) return true;
    const work = (): void => this.#writer.run(() => void this.#writer.drops.slice());
    try {
      if (this.#lane === null) work();
      else this.#lane.run(work);
      return true;
    } catch {
      return false;
    }
  }

  get(keys: readonly Uint8Array[], maxBytes = Number.POSITIVE_INFINITY): (StoredRecord | null)[] | null {
    return this.#read(() => {
      const records: (StoredRecord | null)[] = [];
      let bytes = 0;
      for (const key of keys) {
        const record = this.#reads.record(key);
        bytes += record?.value.length ?? 0;
        if (bytes > maxBytes) return null;
        records.push(record);
      }
      return records;
    });
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
  newChunks(puts: Delta["puts"]): NewChunks {
    return this.#read(() => newChunksOf(this.#writer.sql, this.#writer.drops, puts));
  }
  holdsChunk(id: Uint8Array, graceMs: number): boolean {
    const row = this.#read(() => this.#writer.sql.refs.get(id));
    return row !== null && (row.refs > 0 || row.since > Date.now() - graceMs);
  }
  looseChunks(graceMs: number, limit: number): Uint8Array[] {
    return this.#read(() => this.#writer.sql.looseRefs.all(Date.now() - graceMs, limit)).map(({ id }) => id);
  }
  usage(): ShardUsage {
    return this.#read(() => this.#writer.usage);
  }

  #read<T>(read: () => T): T {
    if (this.#closed) throw new NodeError("not_found", "the namespace was deleted, or the node stops");
    this.#writer.checkReadable();
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
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      if (this.#lane === null) this.#flush();
      else if (this.#lane.mayRun) this.#lane.run(() => this.#flush());
      else this.#lane.wait(this.#turn);
    });
  }

  watch(listener: (event: ShardEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #flush(): void {
    this.#scheduled = false;
    const batch = this.#queue.splice(0, batchLength(this.#queue));
    try {
      const wait = this.#writer.makeRoom(batch.reduce((sum, { request }) => sum + entryBytes(request.delta), 0));
      if (wait !== null) {
        this.#queue = [...batch, ...this.#queue];
        this.#scheduled = true;
        wait.then(() => this.#flush());
        return;
      }
      this.#applyBatch(batch);
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
    if (this.#queue.length > 0) this.#schedule();
  }

  #applyBatch(batch: Waiting[]): void {
    let results: (CommitOutcome | NodeError)[];
    try {
      results = this.#writer.apply(batch.map(({ request }) => request));
    } catch (error) {
      // One delta may have spoiled it for the others, unless the disk did.
      if (batch.length > 1 && !isDiskFailure(error)) {
        for (const waiting of batch) this.#applyBatch([waiting]);
      } else {
        for (const { reject } of batch) reject(toNodeError(error));
      }
      return;
    }
    this.#dropLater();
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
  }

  #announce(request: CommitRequest, outcome: CommitOutcome & { ok: true }): void {
    request.onApplied?.();
    if (outcome.replayed || this.#listeners.size === 0) return;
    const event = { seq: outcome.seq, inos: inosOfDelta(request.delta) };
    for (const listener of this.#listeners) listener(event);
  }

  async sync(): Promise<number> {
    return await this.#writer.sync();
  }

  state(): ShardState {
    const { lastSeq, syncedSeq } = this.#writer;
    return { id: this.#writer.mark, seq: lastSeq, durableSeq: Math.min(lastSeq, syncedSeq), recoveredSeq: this.#recoveredSeq };
  }

  async skipNumbers(): Promise<void> {
    await this.#writer.skipNumbers(SKIPPED_SEQS);
    const skipped = this.#inoNext + SKIPPED_INOS;
    if (skipped > INO_MAX) throw new NodeError("no_space", "the namespace has used up its inode numbers");
    await this.#writer.runDurably(() => this.#writer.sql.setMeta.run("inoReserved", skipped));
    this.#inoNext = skipped;
    this.#inoReserved = skipped;
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
      await this.#writer.runDurably(() => this.#writer.sql.setMeta.run("inoReserved", reserved));
      this.#inoReserved = reserved;
    }
    const first = this.#inoNext;
    this.#inoNext += count;
    return { first, count };
  }

  async forgetChunks(ids: readonly Uint8Array[]): Promise<void> {
    if (this.#closed || ids.length === 0) return;
    this.#writer.run(() => {
      for (const id of ids) this.#writer.sql.forgetRef.run(id);
    });
  }

  async forgetSession(session: Uint8Array): Promise<void> {
    if (!this.#closed) await this.#writer.forgetSession(session);
  }

  verify(onChunk: (id: Uint8Array) => void): AsyncIterable<string> {
    while (this.isBusy) this.#writer.run(() => void this.#writer.drops.slice());
    return verifyShard(this.#writer.db, onChunk);
  }

  /** Applies what is queued and closes the files. */
  async close(): Promise<void> {
    if (this.#closed) return;
    while (this.#queue.length > 0) {
      this.#flush();
      await new Promise((resolve) => setImmediate(resolve));
    }
    await this.#grant;
    this.#closed = true;
    try {
      // The rest of the run was not handed out: it need not be skipped.
      this.#writer.run(() => this.#writer.sql.setMeta.run("inoReserved", this.#inoNext));
    } catch {
      // It is skipped.
    }
    await this.#writer.close();
  }
}
