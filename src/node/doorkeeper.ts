/**
 * Who may be connected, before anybody is known: connections have to say hello in time, and there are not more of them than the node has room for,
 * from one address or in all. What is turned away is told to the log now and then, with a count: whoever knocks a thousand times does not fill it.
 */
import { NodeError } from "../protocol/errors.ts";

/** A connection that has not said hello by then is closed: a client does so in its first packet. */
const HELLO_TIMEOUT_MS = 10_000;
/** A client process has up to 9 connections; a compute node some tens of processes, behind one address perhaps a whole rack. */
const CONNECTIONS_PER_ADDRESS_MAX = 2_048;
/** Some 30 KiB each. */
const CONNECTIONS_MAX = 16_384;
/** Of all connections, those that one tenant can have. */
const TENANT_PART = 0.75;
/** One line about a reason in this time. */
const LOG_EVERY_MS = 10_000;

interface DoorkeeperLimits {
  readonly helloTimeoutMs: number;
  readonly perAddress: number;
  readonly total: number;
}

/** "10.0.0.1:1234" without the port. */
function hostOf(remoteAddress: string): string {
  return remoteAddress.slice(0, remoteAddress.lastIndexOf(":"));
}

/** Those that are not said are the usual ones. */
export type PartialLimits = { readonly [K in keyof DoorkeeperLimits]?: DoorkeeperLimits[K] | undefined };

export class Doorkeeper {
  readonly #limits: DoorkeeperLimits;
  readonly #log: (fields: object, message: string) => void;
  readonly #byHost = new Map<string, number>();
  readonly #byTenant = new Map<string, number>();
  #total = 0;
  /** By reason: when a line was written, and how many came since. */
  readonly #told = new Map<string, { atMs: number; since: number }>();

  constructor(log: (fields: object, message: string) => void, limits: PartialLimits = {}) {
    this.#log = log;
    const total = Math.min(CONNECTIONS_MAX, limits.total ?? CONNECTIONS_MAX);
    // No address alone can take all that there is room for.
    const perAddress = limits.perAddress ?? Math.min(CONNECTIONS_PER_ADDRESS_MAX, Math.ceil(total / 2));
    this.#limits = { helloTimeoutMs: limits.helloTimeoutMs ?? HELLO_TIMEOUT_MS, perAddress, total };
  }

  get connections(): number {
    return this.#total;
  }

  /** A peer connects. Why it may not; null: it may, and `left` is called when it has gone. */
  refusal(remoteAddress: string): string | null {
    const host = hostOf(remoteAddress);
    const there = this.#byHost.get(host) ?? 0;
    if (this.#total >= this.#limits.total) return `${this.#limits.total} connections are there already`;
    if (there >= this.#limits.perAddress) return `${this.#limits.perAddress} connections of its address are there already`;
    this.#byHost.set(host, there + 1);
    this.#total++;
    return null;
  }

  left(remoteAddress: string): void {
    const host = hostOf(remoteAddress);
    const there = (this.#byHost.get(host) ?? 1) - 1;
    if (there === 0) this.#byHost.delete(host);
    else this.#byHost.set(host, there);
    this.#total--;
  }

  /** A connection is of this tenant now. @throws NodeError "too_many": it has as many as one tenant may have */
  greeted(tenant: string): void {
    const there = this.#byTenant.get(tenant) ?? 0;
    // One tenant alone does not keep the others out.
    const max = Math.ceil(TENANT_PART * this.#limits.total);
    if (there >= max) throw new NodeError("too_many", `tenant ${tenant} has ${there} connections`);
    this.#byTenant.set(tenant, there + 1);
  }

  tenantLeft(tenant: string): void {
    const there = (this.#byTenant.get(tenant) ?? 1) - 1;
    if (there === 0) this.#byTenant.delete(tenant);
    else this.#byTenant.set(tenant, there);
  }

  /** Calls `close` unless hello was said in time. Returns how to end the wait. */
  expectHello(hasGreeted: () => boolean, close: (reason: string) => void): () => void {
    const timer = setTimeout(() => {
      if (!hasGreeted()) close("no hello in time");
    }, this.#limits.helloTimeoutMs);
    timer.unref();
    return () => clearTimeout(timer);
  }

  /** Somebody was turned away. */
  turnedAway(remoteAddress: string, reason: string): void {
    const nowMs = performance.now();
    const told = this.#told.get(reason) ?? { atMs: Number.NEGATIVE_INFINITY, since: 0 };
    if (nowMs - told.atMs < LOG_EVERY_MS) {
      told.since++;
      this.#told.set(reason, told);
      return;
    }
    // Reasons are few, but for what peers' certificates say.
    if (this.#told.size > REASONS_MAX) this.#told.clear();
    this.#told.set(reason, { atMs: nowMs, since: 0 });
    this.#log({ remoteAddress, reason, ...(told.since > 0 ? { othersSince: told.since } : {}) }, "peer turned away");
  }
}

/** Reasons that are told apart. */
const REASONS_MAX = 256;
