/** Keeps a rewrite to so many bytes a second, so that mounts beside it have the rest of the node. */

/** Shorter waits are saved up: a timer is not more exact. */
const WAIT_MIN_MS = 10;

export class Pace {
  readonly #bytesPerMs: number;
  #freeAtMs = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1_000;
  }

  /** Resolves when so many bytes more may be moved. */
  async spend(bytes: number): Promise<void> {
    const nowMs = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + bytes / this.#bytesPerMs;
    const waitMs = this.#freeAtMs - nowMs;
    if (waitMs >= WAIT_MIN_MS) await Bun.sleep(waitMs);
  }
}
