/**
 * One thread serves everybody, so who asks much must not take the thread from who asks little. Each tenant has a lane. What is done for it is timed,
 * and takes credit from its lane; a lane without credit waits, with all that is still to be done in it, for its next turn. Turns go round the lanes
 * that wait, a millisecond each, and between two turns the event loop takes in what has arrived: who has credit is served at once, and the others
 * are held back for a moment then, until its next request is there.
 */
import { MIB } from "../protocol/limits.ts";

/** Who has had the thread for itself for so long is alone, and may go on this much longer before it has to let the event loop look for others. */
const ALONE_AFTER_MS = 20;
const ALONE_MS = 8;
/** Of one turn. Short against what a client notices, long against what a turn costs (some 50 us). */
const TURN_MS = 1;
/**
 * What a lane took beyond its turn (one large request) is time that others have waited: while there are others, it waits as long. At most this
 * much, so that a lane comes on whatever was charged to it.
 */
const DEBT_MAX_MS = 100;
/**
 * Who asks little asks again soon: an operation of a client is several requests, one after the other. After each the heavy lanes are held back for
 * a moment, so that all of them wait for one turn together and not for one each; but no longer than this since the last turn.
 */
const HOLD_MS = 1;
const HELD_MAX_MS = 4;
/** Debts are looked at this often at least: when the others have gone, nobody needs to wait. */
const LOOK_MS = 10;
/** What a timer can be trusted with; what is due sooner is done after the sockets were read. */
const TIMER_MIN_MS = 0.5;
/** What it costs the thread to take in a MiB, or to send one that the socket did not take at once, by TLS. Measured: 0.6 to 1.2 ms on one core. */
const TLS_MS_PER_MIB = 0.8;

/** Requests of one tenant that arrive, wait or are being answered: 64 chunks. Beyond it, its connections are not read. */
const HELD_MAX_BYTES = 256 * 1024 * 1024;

/** Goes on with what waits, as far as lane.mayRun; returns whether more is left. */
export type LaneWork = () => boolean;

/** A connection whose reading can be stopped for a moment. */
export interface LaneReader {
  setSpent(spent: boolean): void;
}

export class Lanes {
  readonly #lanes = new Map<string, Lane>();
  /** Without credit, in the order of their turns. */
  readonly #spent = new Set<Lane>();
  #immediate = false;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #roundMs = Number.NEGATIVE_INFINITY;
  /** What something was done for last, and the one before it that was another. */
  #last: Lane | null = null;
  #lastMs = Number.NEGATIVE_INFINITY;
  #otherMs = Number.NEGATIVE_INFINITY;

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
    if (this.#last !== lane) {
      // Of the first nobody knows whether it is alone.
      this.#otherMs = this.#last === null ? nowMs : this.#lastMs;
      this.#last = lane;
    }
    this.#lastMs = nowMs;
  }

  /** For Lane: nothing was done for another one of late. */
  isAlone(lane: Lane): boolean {
    return performance.now() - (this.#last === lane ? this.#otherMs : this.#lastMs) > ALONE_AFTER_MS;
  }

  /** For Lane: it has no credit left. */
  spent(lane: Lane): void {
    this.#spent.add(lane);
    this.#schedule(lane.dueInMs);
  }

  #schedule(inMs: number): void {
    if (this.#immediate) return;
    if (inMs < TIMER_MIN_MS) {
      this.#immediate = true;
      setImmediate(() => {
        this.#immediate = false;
        this.#round();
      });
    } else {
      this.#timer ??= setTimeout(
        () => {
          this.#timer = null;
          this.#round();
        },
        Math.ceil(Math.min(inMs, LOOK_MS)),
      );
    }
  }

  #round(): void {
    const nowMs = performance.now();
    const last = this.#last;
    if (last !== null && !this.#spent.has(last) && nowMs - this.#lastMs < HOLD_MS && nowMs - this.#roundMs < HELD_MAX_MS) {
      this.#schedule(HOLD_MS);
      return;
    }
    this.#roundMs = nowMs;
    for (const lane of [...this.#spent]) {
      this.#spent.delete(lane);
      lane.turn(nowMs, this.isAlone(lane));
      if (lane.mayRun && !lane.waits) continue;
      this.spent(lane);
    }
  }
}

export class Lane {
  readonly #lanes: Lanes;
  #creditMs = TURN_MS;
  /** Until when its debt is less by the time that has gone by. */
  #repaidMs = 0;
  /** Connections that are read while it has credit. */
  readonly #readers = new Set<LaneReader>();
  #readersWait = false;
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
    return this.#waiting.size > 0 || this.#readersWait;
  }

  /** In how many milliseconds it may have its turn, while there are others. */
  get dueInMs(): number {
    return -this.#creditMs - TURN_MS;
  }

  /** `reader` is told to stop when there is no credit left while others want something, and to go on. */
  addReader(reader: LaneReader): void {
    this.#readers.add(reader);
    if (this.#readersWait) reader.setSpent(true);
  }

  removeReader(reader: LaneReader): void {
    this.#readers.delete(reader);
  }

  /** Bytes have been received, or are still to be sent: what was or will be done for them outside of run(). */
  transferred(bytes: number): void {
    this.#lanes.ran(this, performance.now());
    this.#charge((bytes / MIB) * TLS_MS_PER_MIB);
    if (this.#readersWait || this.mayRun || this.#lanes.isAlone(this)) return;
    this.#readersWait = true;
    for (const reader of this.#readers) reader.setSpent(true);
  }

  #charge(ms: number): void {
    if (this.#creditMs > 0) this.#repaidMs = performance.now();
    this.#creditMs -= ms;
    if (this.#creditMs <= 0) this.#lanes.spent(this);
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
      this.#charge(performance.now() - begin);
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

  /** `alone`: nobody else wants anything. Otherwise what it took too much is repaid in time first. */
  turn(nowMs: number, alone: boolean): void {
    if (alone) {
      this.#creditMs = TURN_MS;
    } else {
      this.#creditMs = Math.max(this.#creditMs, -DEBT_MAX_MS) + (nowMs - this.#repaidMs);
      this.#creditMs = this.#creditMs > -TURN_MS ? Math.min(TURN_MS, this.#creditMs + TURN_MS) : this.#creditMs;
    }
    this.#repaidMs = nowMs;
    for (const work of [...this.#waiting]) {
      if (!this.mayRun) return;
      this.#waiting.delete(work);
      if (work()) this.#waiting.add(work);
    }
    if (!this.#readersWait || !this.mayRun) return;
    this.#readersWait = false;
    for (const reader of this.#readers) reader.setSpent(false);
  }
}
