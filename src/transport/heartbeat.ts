/** Pings the node over one link, which keeps the session's leases, and cuts the link when the node is silent. */
import type { NodeLink } from "./node-link.ts";

/** Requests in flight, and for this many leases not a byte in either direction: the node is gone, whatever TCP thinks. */
const SILENCE_LEASES = 3;

export interface HeartbeatOptions {
  readonly link: NodeLink;
  /** Pings also while no request is in flight. */
  readonly whenIdle: boolean;
  readonly inFlight: () => number;
  /** Sends one; nobody waits for the answer. */
  readonly ping: (timeoutMs: number) => void;
}

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #timer: ReturnType<typeof setInterval>;
  #progressBytes = 0;
  #progressAtMs = performance.now();
  #backlog = false;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#timer = setInterval(this.#beat, Math.max(1, options.link.hello.leaseMs / 3));
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  readonly #beat = (): void => {
    const { link, whenIdle, inFlight, ping } = this.#options;
    const leaseMs = link.hello.leaseMs;
    const nowMs = performance.now();
    const { acceptedBytes, writtenBytes } = link.connection;
    // A long upload that moves is a sign of life; a ping that the kernel has taken is none.
    if (inFlight() === 0 || (this.#backlog && writtenBytes !== this.#progressBytes)) this.#progressAtMs = nowMs;
    this.#progressBytes = writtenBytes;
    this.#backlog = acceptedBytes > writtenBytes;
    if (nowMs - Math.max(this.#progressAtMs, link.receivedAtMs) > SILENCE_LEASES * leaseMs) {
      link.connection.destroy("the node is silent");
    } else if (whenIdle || inFlight() > 0) {
      ping(SILENCE_LEASES * 2 * leaseMs);
    }
  };
}
