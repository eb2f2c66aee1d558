/** When the open transaction is to be committed: how much has come together, how long ago, and whether the last attempt went well. */
import { toNodeError } from "./sqlite-errors.ts";

/** A transaction is committed when it has this many deltas, rows or bytes: some 20 ms of work for each of commit and replay. */
const COMMIT_DELTAS = 4_096;
const COMMIT_ROWS = 16_384;
const COMMIT_JOURNAL_BYTES = 4 * 1024 * 1024;
/** ... or when no delta has come for, or it has been open for, so long. */
const COMMIT_IDLE_MS = 50;
const COMMIT_AGE_MS = 1_000;
/** A commit that failed is tried again after this: each failure costs a replay. */
const COMMIT_RETRY_MS = 1_000;

export class CommitPace {
  #openedMs = 0;
  #writtenMs = 0;
  #deltas = 0;
  #rows = 0;
  #failedMs = Number.NEGATIVE_INFINITY;
  #error: unknown = null;

  /** A transaction has begun. */
  opened(): void {
    this.#openedMs = performance.now();
    this.#deltas = 0;
    this.#rows = 0;
  }

  /** A delta that changes so many rows is in the transaction. */
  count(rows: number): void {
    this.#deltas++;
    this.#rows += rows;
  }

  /** What has come together is answered now. */
  written(): void {
    this.#writtenMs = performance.now();
  }

  /** A commit has failed. */
  failed(error: unknown): void {
    this.#failedMs = performance.now();
    this.#error = error;
  }

  /** Since the last write. */
  get idleMs(): number {
    return performance.now() - this.#writtenMs;
  }

  isFull(journalBytes: number): boolean {
    return this.#deltas >= COMMIT_DELTAS || this.#rows >= COMMIT_ROWS || journalBytes >= COMMIT_JOURNAL_BYTES;
  }

  get isDue(): boolean {
    return this.idleMs >= COMMIT_IDLE_MS || performance.now() - this.#openedMs >= COMMIT_AGE_MS;
  }

  get mayTry(): boolean {
    return performance.now() - this.#failedMs >= COMMIT_RETRY_MS;
  }

  /** @throws NodeError with the last failure, while it is too early to try again */
  checkMayTry(): void {
    if (!this.mayTry) throw toNodeError(this.#error);
  }
}
