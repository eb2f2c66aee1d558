/**
 * One client process, over all its connections and reconnections.
 *
 * Its leases are over LEASE_MS after the node last heard of it: the client counts the same time from when it sent its last answered
 * request, which is earlier, so it stops trusting its cache first. A client that says hello on a new connection has dropped all it
 * cached, for recalls may have been lost with the old one: that, too, ends its leases.
 */

import { LEASE_INOS_MAX, LEASE_MS } from "../protocol/limits.ts";
import type { FrameSession } from "../transport/frame-server.ts";
import type { LeaseHolder } from "./leases.ts";

/** Clocks of two machines run differently by far less. */
const LEASE_MARGIN_MS = 200;
/** A client that talks but does not acknowledge a recall for this long is disconnected, so that others can go on. */
const RECALL_PATIENCE_MS = 10_000;

export class Session implements LeaseHolder {
  readonly id: Uint8Array;
  readonly tenant: string;
  leaseCount = 0;
  /** Where it has changed something. */
  readonly namespaces = new Set<string>();
  lastHeardMs = performance.now();
  ended = false;
  /** All connections; `meta` is the one that recalls go to. */
  readonly connections = new Set<FrameSession>();
  meta: FrameSession | null = null;
  readonly #void = new Set<() => void>();

  constructor(id: Uint8Array, tenant: string) {
    this.id = id;
    this.tenant = tenant;
  }

  /** Ends all recalls that wait for this session: it has let go of everything. */
  letGo(): void {
    for (const resolve of [...this.#void]) resolve();
  }

  recall(namespace: string, inos: number[]): Promise<void> {
    return new Promise((resolve) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const finish = () => {
        clearTimeout(timer);
        this.#void.delete(finish);
        resolve();
      };
      const waitForEnd = () => {
        const leftMs = this.lastHeardMs + LEASE_MS + LEASE_MARGIN_MS - performance.now();
        if (leftMs <= 0) finish();
        else timer = setTimeout(waitForEnd, leftMs);
      };
      this.#void.add(finish);
      waitForEnd();
      this.#ask(namespace, inos).then(finish, () => {});
    });
  }

  async #ask(namespace: string, inos: number[]): Promise<void> {
    const meta = this.meta;
    if (meta === null) throw new Error("not connected");
    const asks: Promise<unknown>[] = [];
    for (let i = 0; i < inos.length; i += LEASE_INOS_MAX) {
      asks.push(meta.call("recall", { ns: namespace, inos: inos.slice(i, i + LEASE_INOS_MAX) }, RECALL_PATIENCE_MS));
    }
    try {
      await Promise.all(asks);
    } catch (error) {
      // Whatever it said, it did not say that it has let go: without a connection its leases run out.
      meta.close("a recall was not acknowledged");
      throw error;
    }
  }
}
