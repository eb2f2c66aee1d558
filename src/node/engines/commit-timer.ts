/** Calls the writer back when no request does: after the answers of this turn, and in ticks while there is something to tidy up. */

const TICK_MS = 25;

export interface CommitTimerCallbacks {
  readonly settle: () => void;
  readonly commit: () => void;
  /** Whether it is to be called again. */
  readonly tick: () => boolean;
}

/** A function that has `call` called once the answers of this turn have gone out, however often it is asked to meanwhile. */
function afterThisTurn(call: () => void): () => void {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      call();
    });
  };
}

export class CommitTimer {
  readonly #callbacks: CommitTimerCallbacks;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;
  readonly scheduleSettle = afterThisTurn(() => {
    if (!this.#stopped) this.#callbacks.settle();
  });
  readonly scheduleCommit = afterThisTurn(() => {
    if (!this.#stopped) this.#callbacks.commit();
  });

  constructor(callbacks: CommitTimerCallbacks) {
    this.#callbacks = callbacks;
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
