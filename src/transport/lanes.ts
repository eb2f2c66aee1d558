/**
 * One thread serves everybody, so who asks much must not take the thread from who asks little. Each tenant has a lane. What is done for it is timed,
 * and takes credit from its lane; a lane without credit waits, with all that is still to be done in it, for its next turn. Turns go round the lanes
 * that wait, a few milliseconds each, and between two turns the event loop takes in what has arrived: who has credit is served at once.
 */

/** Who has had the thread for itself for so long is alone, and may go on this much longer before it has to let the event loop look for others. */
const ALONE_AFTER_MS = 20;
const ALONE_MS = 8;
/** Of one turn. Short against what a client notices, long against what a turn costs (some 50 us). */
const TURN_MS = 2;
/** A lane that took far more than its turn (one large request) is owed for at most so many turns: the others have had theirs long before. */
const DEBT_MAX_TURNS = 50;

/** Requests of one tenant that arrive, wait or are being answered: 64 chunks. Beyond it, its connections are not read. */
const HELD_MAX_BYTES = 256 * 1024 * 1024;

/** Goes on with what waits, as far as lane.mayRun; returns whether more is left. */
export type LaneWork = () => boolean;

export class Lanes {
  readonly #lanes = new Map<string, Lane>();
  /** Without credit, in the order of their turns. */
  readonly #spent = new Set<Lane>();
  #scheduled = false;
  #last: Lane | null = null;
  /** When something was done for another lane than `last`. */
  #sinceMs = 0;
  /** Lanes that something was done for since the last round. */
  readonly #active = new Set<Lane>();

  lane(name: string): Lane {
    let lane = this.#lanes.get(name);
    if (lane === undefined) {
      lane = new Lane(this);
      this.#lanes.set(name, lane);
    }
    return lane;
  }

  /** For Lane: something is done for it now. */
  ran(lane: Lane, nowMs: number): void {
    this.#active.add(lane);
    if (this.#last === lane) return;
    this.#last = lane;
    this.#sinceMs = nowMs;
  }

  /** For Lane: nothing was done for another one of late. */
  isAlone(lane: Lane): boolean {
    return this.#last === lane && performance.now() - this.#sinceMs > ALONE_AFTER_MS;
  }

  /** For Lane: it has no credit left. */
  spent(lane: Lane): void {
    this.#spent.add(lane);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#round());
  }

  #round(): void {
    this.#scheduled = false;
    const alone = this.#active.size <= 1;
    this.#active.clear();
    for (const lane of [...this.#spent]) {
      this.#spent.delete(lane);
      lane.turn(TURN_MS, alone);
      if (lane.mayRun && !lane.waits) continue;
      this.spent(lane);
    }
  }
}

export class Lane {
  readonly #lanes: Lanes;
  #creditMs = TURN_MS;
  /** Connections and shards that have something to do, in their order. */
  readonly #waiting = new Set<LaneWork>();
  #depth = 0;
  #heldBytes = 0;
  /** Connections that read on when there is memory. */
  readonly #lacking = new Set<() => void>();

  constructor(lanes: Lanes) {
    this.#lanes = lanes;
  }

  get mayRun(): boolean {
    return this.#creditMs > 0 || (this.#creditMs > -ALONE_MS && this.#lanes.isAlone(this));
  }

  get waits(): boolean {
    return this.#waiting.size > 0;
  }

  /** Does something now, and times it. */
  run<T>(work: () => T): T {
    // What is timed already is not timed twice.
    if (this.#depth > 0) return work();
    this.#depth++;
    const begin = performance.now();
    this.#lanes.ran(this, begin);
    try {
      return work();
    } finally {
      this.#depth--;
      this.#creditMs -= performance.now() - begin;
      if (this.#creditMs <= 0) this.#lanes.spent(this);
    }
  }

  /** Resolves when it may run. */
  async ready(): Promise<void> {
    while (!this.mayRun) {
      await new Promise<void>((resolve) => {
        const work = () => {
          resolve();
          return false;
        };
        this.wait(work);
      });
    }
  }

  hold(bytes: number): void {
    this.#heldBytes += bytes;
  }

  get hasMemory(): boolean {
    return this.#heldBytes <= HELD_MAX_BYTES;
  }

  /** `go` is called when there is memory again. */
  waitForMemory(go: () => void): void {
    this.#lacking.add(go);
  }

  /** `leaving`: does not wait for memory any more. */
  release(bytes: number, leaving?: () => void): void {
    this.#heldBytes -= bytes;
    if (leaving !== undefined) this.#lacking.delete(leaving);
    for (const go of this.#lacking) {
      if (!this.hasMemory) return;
      this.#lacking.delete(go);
      go();
    }
  }

  /** `work` is called when it is this lane's turn. */
  wait(work: LaneWork): void {
    this.#waiting.add(work);
    this.#lanes.spent(this);
  }

  cancel(work: LaneWork): void {
    this.#waiting.delete(work);
  }

  /** `alone`: nobody else wants anything. */
  turn(turnMs: number, alone: boolean): void {
    this.#creditMs = alone ? turnMs : Math.min(turnMs, Math.max(this.#creditMs, -DEBT_MAX_TURNS * turnMs) + turnMs);
    for (const work of [...this.#waiting]) {
      if (!this.mayRun) return;
      this.#waiting.delete(work);
      if (work()) this.#waiting.add(work);
    }
  }
}
