/** Which deltas of which session a shard has applied: in memory for the asking, in the shard's tables for the restart. */
import { NodeError } from "../../protocol/errors.ts";
import type { Statements } from "./sqlite-database.ts";

/** Ids that a client may leave unanswered: far above what it may have in flight; beyond it, memory would grow with it. */
const REMEMBERED_MAX = 16_384;
/** Forgotten ids are deleted from the table in runs of this many. */
const PRUNE_RUN = 256;

interface SessionDeltas {
  /** 0: to be read from the tables. */
  row: number;
  readonly seqs: Map<number, number>;
  /** Ids below it are forgotten. */
  floor: number;
  /** Ids below it are gone from the table as well. */
  prunedTo: number;
}

function name(session: Uint8Array): string {
  return Buffer.from(session.buffer, session.byteOffset, session.byteLength).toString("latin1");
}

/** All calls stand inside a transaction of the shard. */
export class AppliedDeltas {
  readonly #sql: Statements;
  readonly #sessions = new Map<string, SessionDeltas>();

  constructor(sql: Statements) {
    this.#sql = sql;
  }

  #open(session: Uint8Array): SessionDeltas {
    const key = name(session);
    let deltas = this.#sessions.get(key);
    if (deltas === undefined) {
      deltas = { row: 0, seqs: new Map(), floor: 0, prunedTo: 0 };
      this.#sessions.set(key, deltas);
    }
    if (deltas.row !== 0) return deltas;
    const row = this.#sql.sessionOf.get(session)?.s ?? this.#sql.addSession.get(session)?.s ?? 0;
    for (const { id, seq } of this.#sql.appliedOf.all(row)) deltas.seqs.set(id, seq);
    deltas.row = row;
    return deltas;
  }

  /** The sequence number under which the delta was applied, or undefined. @throws NodeError "bad_request" for a forgotten id */
  find(session: Uint8Array, id: number): number | undefined {
    const deltas = this.#open(session);
    if (id < deltas.floor) throw new NodeError("bad_request", `delta ${id} was answered and forgotten (answeredBelow ${deltas.floor})`);
    return deltas.seqs.get(id);
  }

  /** @throws NodeError "bad_request" when the session has too many that it never marked as answered */
  checkRoom(session: Uint8Array): void {
    if (this.#open(session).seqs.size < REMEMBERED_MAX) return;
    throw new NodeError("bad_request", `more than ${REMEMBERED_MAX} deltas that were never marked as answered`);
  }

  add(session: Uint8Array, id: number, seq: number, answeredBelow: number): void {
    const deltas = this.#open(session);
    this.#sql.addApplied.run(deltas.row, id, seq);
    deltas.seqs.set(id, seq);
    if (answeredBelow > deltas.floor) deltas.floor = Math.min(answeredBelow, id);
    if (deltas.floor - deltas.prunedTo >= PRUNE_RUN) this.#prune(deltas);
  }

  #prune(deltas: SessionDeltas): void {
    this.#sql.pruneApplied.run(deltas.row, deltas.floor);
    deltas.prunedTo = deltas.floor;
    // Ids rise, so those to forget stand first, but for the few that were retried.
    for (const id of deltas.seqs.keys()) {
      if (id < deltas.floor) deltas.seqs.delete(id);
    }
  }

  forget(session: Uint8Array): void {
    const row = this.#sql.sessionOf.get(session)?.s;
    this.#sessions.delete(name(session));
    if (row === undefined) return;
    this.#sql.removeApplied.run(row);
    this.#sql.removeSession.run(row);
  }

  /** The transaction was rolled back: what counts is in the tables. What clients have marked as answered stays so. */
  reset(): void {
    for (const deltas of this.#sessions.values()) {
      deltas.row = 0;
      deltas.seqs.clear();
      deltas.prunedTo = 0;
    }
  }
}
