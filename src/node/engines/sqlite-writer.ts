/**
 * What changes a shard: the journal, and one SQLite transaction that stays open over many deltas.
 *
 *   apply        deltas are written in the open transaction, whose connection serves the reads too; one append puts all of them into the
 *                journal. A commit of SQLite's for each turn would cost two system calls for every page touched, 60 us for a create.
 *                The records of the last delta are written once it is answered, or before the next read.
 *   commit       in an idle moment, or when much has come together; then the journal's files take turns, and the WAL is synced aside
 *   rebuild      any failure in between rolls the transaction back and applies the journal's entries again: what was answered is
 *                in the journal, what failed is not. It is also what a start does.
 *
 * With cache_spill off an open transaction is in memory only, so a full disk shows itself where a journal file grows (before
 * anything is applied) or in a commit (after which everything is still in the journal).
 */
import type { Database } from "bun:sqlite";
import { dirname } from "node:path";
import { NodeError } from "../../protocol/errors.ts";
import { AppliedDeltas } from "./applied-deltas.ts";
import { CommitPace } from "./commit-pace.ts";
import { CommitTimer } from "./commit-timer.ts";
import { Drops } from "./drops.ts";
import type { CommitOutcome, CommitRequest, ShardUsage } from "./engine.ts";
import { syncFolder } from "./file-sync.ts";
import { Journal } from "./journal.ts";
import { EntryWriter } from "./journal-entry.ts";
import { journalMark } from "./journal-mark.ts";
import { SequenceNumbers } from "./sequence-numbers.ts";
import { DeltaApplier } from "./sqlite-apply.ts";
import { closeDatabase, openShardDatabase, prepareStatements, type Statements } from "./sqlite-database.ts";
import { toNodeError } from "./sqlite-errors.ts";
import { ShardWal } from "./sqlite-wal.ts";

/** While commits fail, the journal takes no more than this. */
const JOURNAL_MAX_BYTES = 64 * 1024 * 1024;
/** A checkpoint waits for this long without a delta. */
const CHECKPOINT_IDLE_MS = 200;

export class ShardWriter {
  readonly db: Database;
  readonly sql: Statements;
  readonly drops: Drops;
  /** Random bytes that were made with the shard. */
  readonly mark: Uint8Array;
  readonly #applied: AppliedDeltas;
  readonly #applier: DeltaApplier;
  readonly #journal: Journal;
  readonly #entries: EntryWriter;
  readonly #wal: ShardWal;
  readonly #pace = new CommitPace();
  readonly #timer: CommitTimer;
  readonly #timed: <T>(work: () => T) => T;
  readonly #numbers: SequenceNumbers;

  /** That of the last delta applied. Numbers are skipped by restarts and failures. */
  #lastSeq = 0;
  /** What the database says if the open transaction is lost. */
  #committedSeq = 0;
  #committedInodes = 0;
  #committedBytes = 0;

  #open = false;
  /** The transaction was lost and could not be rebuilt: nobody may read. */
  #lost = false;
  /** The disk was full at start: new deltas wait until the inherited ones are in the database. */
  #unsettled = true;
  /** The WAL is being synced; then the journal's other file is free. */
  #releasing: Promise<void> | null = null;
  #closed = false;

  /** `timed` runs what is done later for deltas that were answered, so that it counts as their work. @throws NodeError */
  constructor(path: string, timed: <T>(work: () => T) => T = (work) => work()) {
    this.#timed = timed;
    this.#timer = new CommitTimer({
      settle: () => timed(() => this.#trySettle()),
      commit: () => timed(() => this.#tryCommit()),
      tick: () => timed(() => this.#tick()),
    });
    let statements: Statements | null = null;
    let journal: Journal | null = null;
    try {
      this.db = openShardDatabase(path);
    } catch (error) {
      throw toNodeError(error);
    }
    try {
      this.#wal = new ShardWal(this.db, path);
      statements = prepareStatements(this.db);
      this.sql = statements;
      this.#applied = new AppliedDeltas(this.sql);
      this.drops = new Drops(this.sql);
      this.#applier = new DeltaApplier(this.sql, this.#applied, this.drops);
      this.mark = journalMark(this.sql);
      this.#entries = new EntryWriter(this.mark);
      journal = new Journal(`${path}-journal`, this.mark);
      this.#journal = journal;
      this.#committedSeq = this.meta("lastSeq");
      this.#committedInodes = this.meta("inodes");
      this.#committedBytes = this.meta("bytes");
      this.#rebuild();
      this.#numbers = new SequenceNumbers(this.sql, this.#lastSeq);
      try {
        this.#settle();
      } catch (error) {
        if (toNodeError(error).code !== "no_space") throw error;
        this.#pace.failed(error);
        // New deltas are refused until it goes well, so nobody else syncs what was inherited.
        this.#journal.syncInherited();
      }
      syncFolder(dirname(path));
    } catch (error) {
      journal?.close();
      closeDatabase(this.db, statements === null ? [] : Object.values(statements));
      throw toNodeError(error);
    }
  }

  get usage(): ShardUsage {
    return { inodes: this.#applier.inodes, bytes: this.#applier.bytes };
  }
  get lastSeq(): number {
    return this.#lastSeq;
  }
  /** Of the newest delta that is known to be on disk. */
  get syncedSeq(): number {
    return Math.max(this.#committedSeq === this.#lastSeq && this.#releasing === null ? this.#committedSeq : 0, this.#journal.syncedSeq);
  }

  meta(name: string): number {
    return this.sql.getMeta.get(name)?.value ?? 0;
  }

  /** To be called before anything is read. @throws NodeError */
  checkReadable(): void {
    this.#trySettle();
    if (!this.#lost) return;
    try {
      this.#rebuild();
    } catch (error) {
      throw toNodeError(error);
    }
  }

  /** Records that are still to be written are in the journal, so a failure loses none. */
  #trySettle(): void {
    if (this.#lost) return;
    try {
      this.#applier.settle();
    } catch {
      this.#tryRebuild();
    }
  }

  /**
   * Makes sure that an append of `bytes` will find room. A Promise: room may be there when it has settled, ask again.
   * @throws NodeError "no_space"
   */
  makeRoom(bytes: number): Promise<void> | null {
    try {
      this.checkReadable();
      if (this.#unsettled) {
        this.#pace.checkMayTry();
        this.#settle();
      }
      if (this.#journal.length + bytes > JOURNAL_MAX_BYTES && this.#journal.length > 0) {
        if (this.#releasing !== null) return this.#releasing;
        this.#pace.checkMayTry();
        this.#commit();
      }
      try {
        this.#journal.reserve(bytes);
      } catch (error) {
        // A commit lets the other file take over, which may have room.
        if (this.#releasing !== null) return this.#releasing;
        if (!this.#open) throw error;
        this.#pace.checkMayTry();
        this.#commit();
        this.#journal.reserve(bytes);
      }
      return null;
    } catch (error) {
      throw toNodeError(error);
    }
  }

  /**
   * Applies the deltas, each seeing those before it, and appends them to the journal: they survive the end of the process. Call makeRoom
   * before. In the result a NodeError stands for a delta that was refused alone.
   * @throws the disk's and SQLite's errors, with nothing applied
   */
  apply(batch: readonly CommitRequest[]): (CommitOutcome | NodeError)[] {
    try {
      this.#begin();
      this.#entries.clear();
      const timeMs = Date.now();
      const results = batch.map((request) => this.#applyOne(request, timeMs));
      if (this.#entries.bytes.length > 0) {
        this.#journal.append(this.#entries, this.#lastSeq);
        this.#afterWrite();
        this.#timer.scheduleSettle();
      }
      return results;
    } catch (error) {
      // Numbers that were used stay used: the journal tells refused deltas from later ones by them.
      this.#tryRebuild();
      throw error;
    }
  }

  #applyOne({ session, delta }: CommitRequest, timeMs: number): CommitOutcome | NodeError {
    try {
      const outcome = this.#applier.check(session, delta);
      if (outcome !== null) return outcome;
    } catch (error) {
      // It comes before the first write: this delta alone is refused. Anything else spoils the transaction.
      if (error instanceof NodeError && error.code === "bad_request") return error;
      throw error;
    }
    const seq = this.#numbers.next();
    const entry = { session, delta, seq, previousSeq: this.#lastSeq, syncedSeq: this.#journal.syncedSeq, timeMs };
    const counters = this.#applier.writeLater(entry);
    this.#entries.add(entry);
    this.#lastSeq = seq;
    this.#count(entry);
    return { ok: true, seq, counters, replayed: false };
  }

  #count({ delta }: { delta: Pick<CommitRequest["delta"], "puts" | "deletes" | "bumps"> }): void {
    const rows = 1 + delta.puts.length + delta.deletes.length + delta.bumps.length;
    let bytes = 0;
    for (const put of delta.puts) bytes += put.value.length + put.chunks.length;
    this.#pace.count(rows);
    this.#wal.count(rows, bytes);
  }

  /** Runs `work` in the transaction, but not through the journal: what it does may be lost with the process. @throws NodeError */
  run(work: () => void): void {
    try {
      this.checkReadable();
      this.#begin();
      work();
      this.#afterWrite();
    } catch (error) {
      this.#tryRebuild();
      throw toNodeError(error);
    }
  }

  /** Runs `work` in the transaction and commits it; resolves when it survives power loss. @throws NodeError */
  async runDurably(work: () => void): Promise<void> {
    while (this.#releasing !== null) await this.#releasing;
    this.run(work);
    try {
      this.#commit();
    } catch (error) {
      throw toNodeError(error);
    }
    while (this.#releasing !== null) await this.#releasing;
    if (!this.#journal.canTurn) throw new NodeError("io", "the node's disk failed");
  }

  /** Leaves out `count` sequence numbers; resolves when that survives power loss. @throws NodeError */
  async skipNumbers(count: number): Promise<void> {
    this.#numbers.skip(count);
    await this.runDurably(() => undefined);
  }

  /** Drops the cached deltas of a session together with its rows. */
  forgetSession(session: Uint8Array): Promise<void> {
    return this.runDurably(() => this.#applied.forget(session));
  }

  #begin(): void {
    if (this.#open) return;
    this.sql.begin.run();
    this.#open = true;
    this.#pace.opened();
  }

  #tryRebuild(): void {
    try {
      this.#rebuild();
    } catch {
      // #lost says so, and the next to come tries again.
    }
  }

  /** The transaction again, from what the database and the journal hold. @throws with `#lost` set */
  #rebuild(): void {
    this.#lost = true;
    // SQLite rolls back by itself on SQLITE_FULL and SQLITE_IOERR (lang_transaction.html, section 2.1).
    if (this.db.inTransaction) this.sql.rollback.run();
    this.#open = false;
    this.#applier.forgetPending();
    this.#applied.reset();
    this.#applier.inodes = this.#committedInodes;
    this.#applier.bytes = this.#committedBytes;
    this.#lastSeq = this.#committedSeq;
    this.drops.reload();
    const entries = this.#journal.entriesAfter(this.#committedSeq);
    if (entries.length > 0) this.#begin();
    for (const entry of entries) {
      this.#applier.write(entry);
      this.#lastSeq = entry.seq;
      this.#count(entry);
    }
    this.#lost = false;
  }

  /** @throws SQLite's errors, with the transaction open again */
  #commitDatabase(): void {
    try {
      this.#begin();
      this.#applier.settle();
      this.#numbers.reserve();
      this.sql.setMeta.run("lastSeq", this.#lastSeq);
      this.sql.setMeta.run("inodes", this.#applier.inodes);
      this.sql.setMeta.run("bytes", this.#applier.bytes);
      this.sql.commit.run();
      this.#numbers.committed();
    } catch (error) {
      this.#pace.failed(error);
      this.#tryRebuild();
      throw error;
    }
    this.#open = false;
    this.#committedSeq = this.#lastSeq;
    this.#committedInodes = this.#applier.inodes;
    this.#committedBytes = this.#applier.bytes;
  }

  /** After a start: both journal files are inherited, and become free together. @throws SQLite's and the system's errors */
  #settle(): void {
    this.#commitDatabase();
    this.#wal.tryCheckpoint();
    this.#wal.syncNow();
    this.#journal.clear();
    this.#unsettled = false;
  }

  /** Only while #releasing is null. @throws SQLite's and the system's errors */
  #commit(): void {
    if (this.#unsettled) {
      this.#settle();
      return;
    }
    if (!this.#journal.canTurn) {
      // The last sync of the WAL has failed: the kernel may have dropped what it could not write.
      this.#recover();
      return;
    }
    this.#commitDatabase();
    this.#journal.turn();
    this.#release();
    if (this.#wal.needsCheckpoint) this.#wal.tryCheckpoint();
  }

  #release(): void {
    this.#releasing = this.#wal.sync().then(
      () => {
        this.#journal.release();
        this.#releasing = null;
        if (this.#pace.isFull(this.#journal.length)) this.#timer.scheduleCommit();
      },
      (error: unknown) => {
        this.#releasing = null;
        this.#pace.failed(error);
      },
    );
  }

  #afterWrite(): void {
    this.#pace.written();
    if (this.#pace.isFull(this.#journal.length)) this.#timer.scheduleCommit();
    this.#timer.startTicks();
  }

  #tryCommit(): void {
    if (this.#lost || !this.#open || this.#releasing !== null) return;
    if (!this.#pace.mayTry) return;
    try {
      this.#commit();
    } catch {
      // Everything is in the journal: the timer tries again.
    }
  }

  /** Brings everything into the database file itself: then neither WAL nor journal is needed. @throws SQLite's and the system's errors */
  #recover(): void {
    this.#commitDatabase();
    this.#wal.checkpoint();
    this.#wal.syncNow();
    this.#journal.clear();
  }

  /** Whether there is more to come. */
  #tick(): boolean {
    if (this.#open && this.#pace.isDue) this.#tryCommit();
    if (!this.#open && this.#releasing === null && this.#wal.wantsCheckpoint && this.#pace.idleMs >= CHECKPOINT_IDLE_MS) {
      // The WAL is on disk already: the checkpoint's own fsync of it returns at once.
      this.#wal.tryCheckpoint();
    }
    return this.#open || this.#wal.wantsCheckpoint;
  }

  /** Resolves, with the last sequence number, when every delta applied before survives power loss. @throws NodeError */
  async sync(): Promise<number> {
    const seq = this.#lastSeq;
    try {
      await this.#journal.sync();
    } catch (error) {
      // The kernel may have dropped what it could not write. The database holds it too.
      try {
        this.checkReadable();
        this.#recover();
      } catch {
        throw toNodeError(error);
      }
    }
    return seq;
  }

  /** Commits and closes. What the disk has no room for stays in the journal. */
  async close(): Promise<void> {
    if (this.#closed) return;
    while (this.#releasing !== null) await this.#releasing;
    this.#closed = true;
    this.#timer.stop();
    try {
      this.#timed(() => {
        this.checkReadable();
        this.#recover();
      });
    } catch {
      // Acknowledged deltas are in the journal, and the next start finds them there.
    }
    if (this.db.inTransaction) this.sql.rollback.run();
    await this.#journal.sync().catch(() => {});
    this.#wal.close();
    this.#journal.close();
    closeDatabase(this.db, Object.values(this.sql));
  }
}
