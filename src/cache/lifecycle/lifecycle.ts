/**
 * When what a client has cached must go: no node has answered for too long, or the tenant's keys were destroyed. Whoever keeps something
 * registers how to wipe it. The state of the connection comes into this folder; "wipe now", and whether anything may still be served, go out.
 */
import type { WrappedKey } from "../../crypto/key-ring.ts";
import { ConnectionWatch, type WatchedNode } from "./connection-watch.ts";
import { type AskedNode, KeyHealth } from "./key-health.ts";

export type WipeReason = "disconnected" | "revoked" | "requested";
/** What it throws is logged. */
export type Wiper = (reason: WipeReason) => Promise<void> | void;

export interface LifecycleLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface LifecycleOptions {
  readonly node: WatchedNode & AskedNode;
  readonly maxDisconnectMs: number;
  readonly keyHealthIntervalMs: number;
  /** The tenant's keys as the node has them, once in each interval. */
  readonly onKeys: (keys: readonly WrappedKey[]) => void;
  readonly log: LifecycleLog;
}

export class Lifecycle implements Disposable {
  readonly watch: ConnectionWatch;
  readonly #health: KeyHealth;
  readonly #log: LifecycleLog;
  readonly #wipers: Wiper[] = [];
  /** Wipes so far. */
  readonly wipes: Record<WipeReason, number> = { disconnected: 0, revoked: 0, requested: 0 };
  #revoked = false;
  #wiping: Promise<void> = Promise.resolve();

  constructor({ node, maxDisconnectMs, keyHealthIntervalMs, onKeys, log }: LifecycleOptions) {
    this.#log = log;
    this.#health = new KeyHealth(node, keyHealthIntervalMs, onKeys, () => this.revoke());
    this.watch = new ConnectionWatch({
      node,
      maxDisconnectMs,
      onExpired: (silentMs) => {
        log.warn({ seconds: Math.floor(silentMs / 1_000) }, "no storage node has answered for too long: wiping the caches");
        this.#wipe("disconnected");
      },
      onBack: () => log.info({}, "a storage node answers again: the caches start anew"),
    });
  }

  /** Wipers are called in this order, and all that they begin at once has begun when the next one is called. */
  onWipe(wiper: Wiper): void {
    this.#wipers.push(wiper);
  }

  get isRevoked(): boolean {
    return this.#revoked;
  }

  /** No node has answered for too long: nothing that is asked now is worth waiting for. */
  get isExpired(): boolean {
    return this.watch.isExpired;
  }

  /** The tenant's keys were destroyed: nothing of it may be served from here any more. */
  revoke(): void {
    if (this.#revoked) return;
    this.#revoked = true;
    this.stop();
    this.#log.error({}, "the tenant was shredded, its keys are destroyed: wiping the caches, and every request fails with EKEYREVOKED");
    this.#wipe("revoked");
  }

  /** A user wants everything gone (kiseki cache wipe). Resolves when it is. */
  async wipe(): Promise<void> {
    this.#wipe("requested");
    await this.#wiping;
  }

  /** Resolves when nothing is being wiped. */
  async wiped(): Promise<void> {
    await this.#wiping;
  }

  stop(): void {
    this.watch.stop();
    this.#health.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #wipe(reason: WipeReason): void {
    this.wipes[reason]++;
    const wipes = this.#wipers.map(async (wiper) => {
      try {
        await wiper(reason);
      } catch (error) {
        this.#log.error({ err: error, reason }, "a cache could not be wiped");
      }
    });
    this.#wiping = Promise.all([this.#wiping, ...wipes]).then(() => {
      this.#log.info({ reason }, "the caches are wiped");
    });
  }
}
