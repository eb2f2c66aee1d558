/**
 * How long ago a storage node last did what it was asked, and what follows from that:
 *
 *     outage     the connection is lost, and nobody has answered for some seconds: what is known is used beyond its time, and what is
 *                cached goes on being served
 *     expired    no answer for the policy's max_disconnect_seconds: caches are wiped, once; reading fails until a node is back
 *
 * A node that is only slow is neither: requests wait for it. Heartbeats (transport/heartbeat.ts) ask when nobody else does.
 */
import { uptime } from "node:os";

/** A node that restarts is back by then, and requests wait for it. Leases of 5 seconds are over, too: others may change files. */
const OUTAGE_AFTER_MS = 5_000;
/** Of max_disconnect, where that is shorter. */
const OUTAGE_AFTER_PART = 0.5;
const TICK_MAX_MS = 500;
const TICKS_PER_LIMIT = 10;
/** Heartbeats come every second or two: too seldom for the shortest limits. */
const PINGS_PER_LIMIT = 3;
/** The clock that stands still while the machine sleeps, and the one that does not, differ by rounding up to this much. */
const CLOCK_SLACK_MS = 2_000;

/** The part of NodeClient (transport/node-client.ts) that is watched. */
export interface WatchedNode {
  readonly connected: boolean;
  /** performance.now() */
  readonly lastAnswerAtMs: number;
  call(op: "ping", request: Record<string, never>, options: { timeoutMs: number }): Promise<unknown>;
}

export interface ConnectionWatchOptions {
  readonly node: WatchedNode;
  readonly maxDisconnectMs: number;
  /** Once for each time that the limit is reached. */
  readonly onExpired: (silentMs: number) => void;
  /** A node has answered after that. */
  readonly onBack: () => void;
}

export class ConnectionWatch implements Disposable {
  readonly #options: ConnectionWatchOptions;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #outageAfterMs: number;
  readonly #listeners = new Set<() => void>();
  readonly #startedAtMs = performance.now();
  /** The newest answer that a tick has seen, and uptime() then: that clock goes on while the machine sleeps. */
  #seen: { answerAtMs: number; uptimeMs: number };
  /** The newest answer when the limit was reached. */
  #expiredSince: number | null = null;
  #pinging = false;

  constructor(options: ConnectionWatchOptions) {
    this.#options = options;
    const { maxDisconnectMs } = options;
    this.#outageAfterMs = Math.min(OUTAGE_AFTER_MS, maxDisconnectMs * OUTAGE_AFTER_PART);
    this.#seen = { answerAtMs: this.#answerAtMs, uptimeMs: uptime() * 1_000 };
    this.#timer = setInterval(() => this.#tick(), Math.min(TICK_MAX_MS, maxDisconnectMs / TICKS_PER_LIMIT));
    // A process that has nothing else to do may end.
    this.#timer.unref();
  }

  get #answerAtMs(): number {
    return Math.max(this.#options.node.lastAnswerAtMs, this.#startedAtMs);
  }

  /** No node can be reached: what is known may be used whatever its age. */
  get isOn(): boolean {
    return !this.#options.node.connected && performance.now() - this.#answerAtMs > this.#outageAfterMs;
  }

  /** No node has answered for max_disconnect: nothing is served from here any more. */
  get isExpired(): boolean {
    return this.#expiredSince === this.#answerAtMs;
  }

  /** Called once, when the next outage begins, unless the function that this returns was called before. */
  onBegin(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#listeners.clear();
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #tick(): void {
    const { maxDisconnectMs, onExpired, onBack } = this.#options;
    const answerAtMs = this.#answerAtMs;
    if (answerAtMs !== this.#seen.answerAtMs) this.#seen = { answerAtMs, uptimeMs: uptime() * 1_000 };
    if (this.#expiredSince !== null && this.#expiredSince !== answerAtMs) {
      this.#expiredSince = null;
      onBack();
    }
    const awakeMs = performance.now() - answerAtMs;
    const silentMs = Math.max(awakeMs, uptime() * 1_000 - this.#seen.uptimeMs - CLOCK_SLACK_MS);
    if (silentMs > maxDisconnectMs / PINGS_PER_LIMIT) this.#ping();
    if (this.isOn) {
      for (const listener of [...this.#listeners]) listener();
      this.#listeners.clear();
    }
    if (silentMs < maxDisconnectMs || this.#expiredSince !== null) return;
    this.#expiredSince = answerAtMs;
    onExpired(silentMs);
  }

  #ping(): void {
    const { node, maxDisconnectMs } = this.#options;
    if (this.#pinging || !node.connected) return;
    this.#pinging = true;
    node
      .call("ping", {}, { timeoutMs: maxDisconnectMs })
      .catch(() => {})
      .finally(() => {
        this.#pinging = false;
      });
  }
}
