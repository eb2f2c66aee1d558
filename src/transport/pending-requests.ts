/**
 * A client's requests that have no answer yet: those sent on the present link, those that wait to be sent, and the deadlines of both,
 * which one timer looks at.
 */
import type { BodySink } from "../protocol/frame.ts";
import type { OpName, RequestOf } from "../protocol/messages.ts";
import type { CallResult } from "./node-client-options.ts";
import { HELLO_REQUEST_ID } from "./node-link.ts";

/** Deadlines are this coarse. */
const DEADLINE_SWEEP_MS = 20;

export interface Pending {
  readonly id: number;
  readonly op: OpName;
  /** What the answer is held against. */
  readonly request: RequestOf<OpName>;
  readonly parts: Uint8Array[];
  /** The client's own ping or bye: it does not outlive the link. */
  readonly own: boolean;
  readonly hasBody: boolean;
  readonly bodyInto: Uint8Array | BodySink | undefined;
  readonly timeoutMs: number;
  readonly deadlineMs: number;
  readonly resolve: (result: CallResult<OpName>) => void;
  readonly reject: (error: Error) => void;
  readonly signal: AbortSignal | undefined;
  onAbort: (() => void) | undefined;
  sentAtMs: number;
  /** Where the request ends in the connection's stream. */
  sentEndBytes: number;
}

export class PendingRequests {
  readonly #onExpired: (pending: Pending) => void;
  readonly #sent = new Map<number, Pending>();
  /** First come first. */
  #waiting = new Set<Pending>();
  #lastId = 0;
  #sweepTimer: ReturnType<typeof setTimeout> | null = null;
  #stopped = false;

  /** `onExpired` settles the request whose deadline has passed. */
  constructor(onExpired: (pending: Pending) => void) {
    this.#onExpired = onExpired;
  }

  get sentCount(): number {
    return this.#sent.size;
  }
  get waitingCount(): number {
    return this.#waiting.size;
  }
  /** Requests may be sent and settled while this is gone through. */
  get waiting(): Iterable<Pending> {
    return this.#waiting;
  }

  newId(): number {
    do this.#lastId = this.#lastId >= HELLO_REQUEST_ID - 1 ? 1 : this.#lastId + 1;
    while (this.#sent.has(this.#lastId));
    return this.#lastId;
  }

  sentWith(id: number): Pending | undefined {
    return this.#sent.get(id);
  }

  addSent(pending: Pending): void {
    this.#waiting.delete(pending);
    this.#sent.set(pending.id, pending);
    this.#watchDeadlines();
  }

  /** Behind all that wait already. */
  addWaiting(pending: Pending): void {
    this.#sent.delete(pending.id);
    this.#waiting.add(pending);
    this.#watchDeadlines();
  }

  /** Forgets a request; null when that has happened before. */
  settle(pending: Pending): Pending | null {
    if (!this.#sent.delete(pending.id) && !this.#waiting.delete(pending)) return null;
    if (pending.onAbort !== undefined) pending.signal?.removeEventListener("abort", pending.onAbort);
    return pending;
  }

  /** The link is gone: what was sent waits again, before all others. Forgets, and returns, the client's own requests. */
  takeBack(): Pending[] {
    const sent = [...this.#sent.values()];
    this.#sent.clear();
    this.#waiting = new Set([...sent.filter((pending) => !pending.own), ...this.#waiting]);
    return sent.filter((pending) => pending.own);
  }

  /** Settles all, and returns them; deadlines are watched no more. */
  settleAll(): Pending[] {
    this.#stopped = true;
    if (this.#sweepTimer !== null) clearTimeout(this.#sweepTimer);
    return [...this.#sent.values(), ...this.#waiting].filter((pending) => this.settle(pending) !== null);
  }

  #watchDeadlines(): void {
    if (!this.#stopped) this.#sweepTimer ??= setTimeout(this.#sweep, DEADLINE_SWEEP_MS);
  }

  readonly #sweep = (): void => {
    this.#sweepTimer = null;
    const nowMs = performance.now();
    for (const pending of this.#sent.values()) if (pending.deadlineMs <= nowMs) this.#onExpired(pending);
    for (const pending of this.#waiting) if (pending.deadlineMs <= nowMs) this.#onExpired(pending);
    if (this.#sent.size + this.#waiting.size > 0) this.#watchDeadlines();
  };
}
