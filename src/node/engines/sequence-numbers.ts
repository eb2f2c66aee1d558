/**
 * The numbers that a shard gives to its deltas. No number is used twice: those handed out before a power loss may have been lost with
 * their deltas, yet be remembered by clients. So they are reserved on disk in runs, and a start skips the rest of the last run.
 */
import { NodeError } from "../../protocol/errors.ts";
import type { Statements } from "./sqlite-database.ts";

/** Numbers in a run. */
const SEQ_RUN = 2 ** 24;

export class SequenceNumbers {
  readonly #sql: Pick<Statements, "getMeta" | "setMeta">;
  /** The last number given. */
  #last: number;
  #reserved = 0;
  #reserving = 0;

  /** Goes on behind what was reserved, and behind `lastSeq`. Numbers can be had after the first commit. */
  constructor(sql: Pick<Statements, "getMeta" | "setMeta">, lastSeq: number) {
    this.#sql = sql;
    this.#last = Math.max(sql.getMeta.get("seqReserved")?.value ?? 0, lastSeq);
  }

  /** @throws NodeError */
  next(): number {
    const seq = ++this.#last;
    if (seq > this.#reserved) throw new NodeError("io", "no sequence numbers are left: the database could not be written for long");
    return seq;
  }

  /** Leaves out `count` numbers. The next reserve() reserves those behind them. */
  skip(count: number): void {
    this.#last += count;
  }

  /** To be called in the transaction before its commit. @throws SQLite's errors */
  reserve(): void {
    this.#reserving = this.#reserved;
    // Half a run early: the reservation is long on disk when its first number is used.
    if (this.#last <= this.#reserved - SEQ_RUN / 2) return;
    this.#reserving = this.#last + SEQ_RUN;
    this.#sql.setMeta.run("seqReserved", this.#reserving);
  }

  /** The transaction of the last reserve() is committed. */
  committed(): void {
    this.#reserved = this.#reserving;
  }
}
