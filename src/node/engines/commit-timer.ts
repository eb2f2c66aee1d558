/** Calls the writer back when no request does: after the answers of this turn, and in ticks while there is something to tidy up. */

const TICK_MS = 25;

export interface CommitTimerCallbacks {
  readonly settle: () => void;
  readonly commit: () => void;
  /** Whether it is to be called again. */
  readonly tick: () => boolean;
}

export class CommitTimer {
  readonly #callbacks: CommitTimerCallbacks;
  #settleScheduled = false;
  #scheduled = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  constructor(callbacks: CommitTimerCallbacks) {
    this.#callbacks = callbacks;
  }

  /** Not at once: the answers go out first. */
  scheduleSettle(): void {
    if (this.#settleScheduled) return;
    this.#settleScheduled = true;
    setImmediate(() => {
      this.#settleScheduled = false;
      if (!this.#stopped) this.#callbacks.settle();
    });
  }

  /** Likewise. */
  scheduleCommit(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (!this.#stopped) this.#callbacks.commit();
    });
  }

  startTicks(): void {
    if (this.#timer !== undefined || this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#callbacks.tick()) this.startTicks();
    }, TICK_MS);
    this.#timer.unref();
  }

  /** Nothing is called any more. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }
}
