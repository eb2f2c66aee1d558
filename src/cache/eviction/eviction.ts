/**
 * Which chunks of an organic pool go when room is needed, and which may come in. Memory only; one for an index, which it observes:
 * nobody has to tell it what is added, removed or pinned. Reads and misses come into this folder; victims, and who may come in, go out.
 *
 * **Rounds.** Each chunk stands at a level: the present round plus one for each time that it was read, ROUNDS_MAX at most. Chunks
 * below the others go first, the oldest first among them; a round is over when as many bytes as the cache holds were missed. So a
 * chunk that was read N times outlives N rounds. A chunk that is not in the cache has a level too (GhostTable), and comes in only
 * when it is above the one that would have to go: of a loop that is larger than the cache, a part stays and is hit each time.
 *
 * **Window.** That alone would keep out what is new, however often it is read at short intervals. Chunks without a past go into a
 * window, first in, first out, of a hundredth of the cache; those that are read in it move up. Hits are compared with what a plain
 * LRU would have had: a miss that it would have hit makes the window larger, a hit that it would have missed makes it smaller.
 * At its smallest only one new chunk of ONE_IN comes in: a scan then costs the disk little, and is refused before it is written.
 *
 * Why this one: scripts/bench-cache.ts prints it beside LRU, 2Q, S3-FIFO, W-TinyLFU and the best possible.
 */
import { MIB } from "../../protocol/limits.ts";
import type { ChunkIndex, ChunkIndexObserver } from "../index/chunk-index.ts";
import { GhostTable, LEVELS, TIMES } from "./ghost-table.ts";
import { RecentMisses } from "./recent-misses.ts";

/** Rounds that a chunk can have before it at most: an old favourite has to make room for something new in the end. */
const ROUNDS_MAX = 15;
/** The window's least and greatest share of the cache. */
const WINDOW_MIN = 0.01;
const WINDOW_MAX = 0.9;
/** While the window is at its least, one chunk without a past in so many comes in: enough to notice that such chunks are read again. */
const ONE_IN = 8;
/** Part of it that the window loses with each miss that a plain LRU would have had too: a scan's few chance meetings should not keep it open. */
const LEAK = 1 / 64;
/** A plain LRU would have what was used this part of the cache's bytes ago; below 1, because the clock does not see what moves within it. */
const NEAR = 0.8;
/** Ticks of the clock for the bytes of a whole cache. */
const TICKS = 16;
/** Chunks that are not there are remembered as many as there are chunks, and half as many again. */
const GHOSTS_PER_CHUNK = 1.5;
/** The least that a cache is taken to hold: a round should not be over with a few chunks. */
const CACHE_MIN_BYTES = 16 * MIB;
/** Chunks that `victim` looks at before it gives up: bounds its time to about a millisecond. */
const LOOKS_MAX = 2048;
/** Levels below the present round that are told apart: levels are counted modulo LEVELS. */
const LAG_MAX = LEVELS - 1 - ROUNDS_MAX;
/** From this lag on, chunks are lifted from the lowest level, so many a miss: all of them in the rounds that are left before LAG_MAX. */
const LAG_LIFTED = LAG_MAX - 16;
const LIFTS = 16;
/** Calls that sweep the ghosts once: fewer than rounds after which levels come round again. */
const SWEEP_PARTS = 16;

/** Lists: LEVELS for the main part, then the window. */
const WINDOW = LEVELS;
const NONE = -1;

/** A chunk's mark: its list + 1 (7 bits), reads in the window (4), blocks read towards the next use (7), when it was used (10). */
const LIST_MASK = 127;
const READS_SHIFT = 7;
const READS_MASK = 15;
const CREDIT_SHIFT = 11;
const CREDIT_MASK = 127;
const TIME_SHIFT = 18;

export class Eviction implements ChunkIndexObserver {
  readonly #index: ChunkIndex;
  readonly #ghosts = new GhostTable();
  readonly #recent = new RecentMisses();
  readonly #first = new Int32Array(LEVELS + 1).fill(NONE);
  readonly #last = new Int32Array(LEVELS + 1).fill(NONE);
  /** Stored bytes of each list's chunks. */
  readonly #listBytes = new Float64Array(LEVELS + 1);
  #totalBytes = 0;
  /** What the cache held when room was first, and last, needed; 0: never yet. */
  #cacheBytes = 0;
  #windowShare = WINDOW_MIN;
  #round = 0;
  /** No chunk of the main part is below this level. */
  #lowest = 0;
  /** Part of this round that is over. */
  #roundPart = 0;
  /** Ticks: bytes that a plain LRU would have missed. */
  #clock = 0;
  #newcomers = 0;

  constructor(index: ChunkIndex) {
    this.#index = index;
    index.observe(this);
    for (const slot of index.entries()) this.onAdd(slot);
  }

  /** Memory beside the index's own, in bytes. */
  get memoryBytes(): number {
    return this.#ghosts.memoryBytes;
  }

  /** `blocks` blocks of a chunk were read from L2. Reading all of its blocks that are there, at once or in turn, is one use. */
  onRead(slot: number, blocks: number): void {
    const mark = this.#index.mark(slot);
    const list = (mark & LIST_MASK) - 1;
    if (list < 0) return;
    const stored = this.#index.storedBlocks(slot);
    const credit = ((mark >>> CREDIT_SHIFT) & CREDIT_MASK) + blocks;
    if (credit < stored) {
      this.#index.setMark(slot, (mark & ~(CREDIT_MASK << CREDIT_SHIFT)) | (credit << CREDIT_SHIFT));
      return;
    }
    const bytes = this.#index.storedBytes(slot);
    if (!this.#isNear(mark >>> TIME_SHIFT)) {
      this.#resizeWindow(-bytes);
      this.#tick(bytes);
    }
    const rest = Math.min(credit - stored, stored - 1);
    const reads = (mark >>> READS_SHIFT) & READS_MASK;
    const windowReads = list === WINDOW ? Math.min(reads + 1, ROUNDS_MAX) : 0;
    this.#index.setMark(slot, makeMark(list, windowReads, rest, this.#clock));
    if (list !== WINDOW) this.#moveToLevel(slot, list, Math.min(Math.max(this.#levelOf(list), this.#round) + 1, this.#round + ROUNDS_MAX));
  }

  /**
   * `bytes` bytes of a chunk were asked for that are not in L2, whether they will be put there or not. As with reads, so many misses as
   * bring all of the chunk are one use.
   * @param chunkBytes of the whole chunk
   */
  onMiss(id: Uint8Array, bytes: number, chunkBytes: number): void {
    if (this.#cacheBytes === 0) return;
    const recent = this.#recent.find(id, this.#now);
    if (recent !== null && recent.leftBytes > 0) {
      recent.leftBytes -= bytes;
      this.#onMissed(recent.near, bytes);
    } else if (this.#index.find(id) !== NONE) {
      // Some of its other blocks are there: it has a level.
      this.#pass(bytes);
    } else {
      const ghost = this.#ghosts.get(id);
      const rounds = ghost === null ? 0 : this.#roundsLeft(ghost.level);
      const near = ghost !== null && this.#isNear(ghost.time);
      this.#recent.set(id, { leftBytes: chunkBytes - bytes, since: this.#now, rounds, near });
      this.#remember(id, Math.min(rounds + 1, ROUNDS_MAX), this.#clock);
      this.#onMissed(near, bytes);
    }
  }

  #onMissed(near: boolean, bytes: number): void {
    this.#resizeWindow(near ? bytes : -bytes * LEAK);
    if (!near) this.#tick(bytes);
    this.#pass(bytes);
  }

  /** The round goes on by so many missed bytes. */
  #pass(bytes: number): void {
    this.#roundPart += bytes / this.#cacheBytes;
    if (this.#roundPart >= 1) this.#nextRound();
    if (this.#round - this.#lowest >= LAG_LIFTED) this.#lift();
  }

  /** There is no room for `bytes` bytes of this chunk: are they worth more than what would have to go? Asked after `onMiss`. */
  admits(id: Uint8Array, bytes: number): boolean {
    this.#full();
    let recent = this.#recent.find(id, this.#now);
    if (recent === null) {
      const slot = this.#index.find(id);
      const mark = slot === NONE ? 0 : this.#index.mark(slot);
      const list = (mark & LIST_MASK) - 1;
      // More blocks of a chunk that is there: at the expense of lesser ones, as far as it has shown its worth.
      if (list === WINDOW && ((mark >>> READS_SHIFT) & READS_MASK) > 0) return true;
      if (slot !== NONE && list !== WINDOW) return list < 0 || this.#bytesBelow(this.#levelOf(list)) >= bytes;
      const rounds = this.#roundsBefore(id);
      recent = this.#recent.set(id, { leftBytes: 0, since: this.#now, rounds, near: false });
    }
    recent.verdict ??= this.#judge(recent.rounds, recent.near, bytes);
    return recent.verdict !== "refused";
  }

  #judge(rounds: number, near: boolean, bytes: number): "main" | "window" | "refused" {
    // Ahead by more than the one level that a loop's chunks differ by, depending on where in it a round began.
    if (rounds > 0 && this.#bytesBelow(this.#round + rounds - 1) >= bytes) return "main";
    if (near) return "window";
    if (rounds > 0) return "refused";
    return this.#windowShare > WINDOW_MIN || this.#newcomers++ % ONE_IN === 0 ? "window" : "refused";
  }

  /** The chunk that goes next, or -1 when none may go now. The caller removes it from the index before it asks again. */
  victim(): number {
    this.#full();
    let looks = 0;
    while (this.#first[WINDOW] !== NONE && looks++ < LOOKS_MAX) {
      if ((this.#listBytes[WINDOW] as number) <= this.#windowShare * this.#totalBytes) break;
      const slot = this.#unheld(WINDOW);
      if (slot === NONE) break;
      const reads = (this.#index.mark(slot) >>> READS_SHIFT) & READS_MASK;
      const level = this.#round + Math.min(reads + 1, ROUNDS_MAX);
      if (reads === 0 || (level <= this.#lowestLevel() && this.#totalBytes > (this.#listBytes[WINDOW] as number))) return slot;
      this.#moveToLevel(slot, WINDOW, level);
    }
    for (let level = this.#lowestLevel(); level <= this.#round + ROUNDS_MAX; level++) {
      const slot = this.#unheld(level % LEVELS);
      if (slot !== NONE) return slot;
    }
    return this.#unheld(WINDOW);
  }

  onAdd(slot: number): void {
    if (this.#index.pinned(slot)) return;
    const id = this.#index.id(slot);
    const recent = this.#recent.find(id, this.#now);
    const rounds = recent?.rounds ?? this.#roundsBefore(id);
    this.#ghosts.delete(id);
    if (this.#cacheBytes > 0) this.#ghosts.growTowards(this.#index.size * GHOSTS_PER_CHUNK);
    this.#index.setMark(slot, makeMark(NONE, 0, 0, this.#clock));
    // Also what nobody asked for, because a victim was larger than what came in for it.
    if (this.#cacheBytes > 0 && recent?.verdict !== "main") this.#append(slot, WINDOW);
    else this.#appendToLevel(slot, this.#round + Math.min(rounds + 1, ROUNDS_MAX));
  }

  onRemove(slot: number): void {
    const mark = this.#index.mark(slot);
    const list = (mark & LIST_MASK) - 1;
    if (list < 0) return;
    this.#unlink(slot, list);
    // Emptied: there is room for everything again.
    if (this.#totalBytes === 0) this.#cacheBytes = 0;
    const rounds = list === WINDOW ? ((mark >>> READS_SHIFT) & READS_MASK) + 1 : this.#levelOf(list) - this.#round;
    this.#remember(this.#index.id(slot), Math.min(Math.max(rounds, 1), ROUNDS_MAX), mark >>> TIME_SHIFT);
  }

  onStored(slot: number, deltaBytes: number): void {
    const list = (this.#index.mark(slot) & LIST_MASK) - 1;
    if (list >= 0) this.#count(list, deltaBytes);
  }

  onPinned(slot: number, pinned: boolean): void {
    const list = (this.#index.mark(slot) & LIST_MASK) - 1;
    if (!pinned) {
      this.#index.setMark(slot, makeMark(NONE, 0, 0, this.#clock));
      this.#appendToLevel(slot, this.#round + 1);
    } else if (list >= 0) {
      this.#unlink(slot, list);
    }
  }

  /** In rounds. */
  get #now(): number {
    return this.#round + this.#roundPart;
  }

  /** Notes how much fits. */
  #full(): void {
    // What came in while there was room for all did so before the clock went: it is not near.
    if (this.#cacheBytes === 0) this.#clock = TICKS;
    this.#cacheBytes = Math.max(CACHE_MIN_BYTES, this.#totalBytes);
  }

  #tick(bytes: number): void {
    if (this.#cacheBytes > 0) this.#clock += (bytes / this.#cacheBytes) * TICKS;
  }

  #isNear(time: number): boolean {
    return ((Math.floor(this.#clock) - time) & (TIMES - 1)) < NEAR * TICKS;
  }

  #resizeWindow(deltaBytes: number): void {
    if (this.#cacheBytes === 0) return;
    this.#windowShare = Math.min(WINDOW_MAX, Math.max(WINDOW_MIN, this.#windowShare + deltaBytes / this.#cacheBytes));
  }

  #nextRound(): void {
    // A round lasts longer when those behind could not be lifted in time.
    if (this.#round - this.#lowestLevel() >= LAG_MAX) return;
    this.#roundPart = 0;
    this.#round++;
    this.#ghosts.sweep(this.#round - 1, SWEEP_PARTS);
  }

  /** Brings chunks that were left far behind, because nothing had to go, nearer to the present round. */
  #lift(): void {
    const list = this.#lowestLevel() % LEVELS;
    for (let i = 0; i < LIFTS; i++) {
      const slot = this.#first[list] as number;
      if (slot === NONE) return;
      this.#moveToLevel(slot, list, this.#round);
    }
  }

  /** Rounds that a remembered level is ahead, 0 when it is not. */
  #roundsLeft(level: number): number {
    const ahead = (level - this.#round) & (LEVELS - 1);
    return ahead <= ROUNDS_MAX ? ahead : 0;
  }

  /** Rounds that a chunk had before it when its present use began: the last one was noted already. */
  #roundsBefore(id: Uint8Array): number {
    const ghost = this.#ghosts.get(id);
    return ghost === null ? 0 : Math.max(0, this.#roundsLeft(ghost.level) - 1);
  }

  #remember(id: Uint8Array, rounds: number, time: number): void {
    this.#ghosts.set(id, this.#round + rounds, Math.floor(time), this.#round - 1);
  }

  /** Stored bytes of chunks below a level, with those that are too many in the window. */
  #bytesBelow(level: number): number {
    let bytes = Math.max(0, (this.#listBytes[WINDOW] as number) - this.#windowShare * this.#totalBytes);
    for (let below = this.#lowestLevel(); below < level; below++) bytes += this.#listBytes[below % LEVELS] as number;
    return bytes;
  }

  /** The lowest level at which there are chunks; past all of them when there are none. */
  #lowestLevel(): number {
    while (this.#lowest <= this.#round + ROUNDS_MAX && this.#first[this.#lowest % LEVELS] === NONE) this.#lowest++;
    return this.#lowest;
  }

  #levelOf(list: number): number {
    return this.#lowest + ((list - this.#lowest) & (LEVELS - 1));
  }

  /** The first chunk of a list that nobody holds. */
  #unheld(list: number): number {
    let slot = this.#first[list] as number;
    for (let looks = 0; slot !== NONE && this.#index.isHeld(slot); slot = this.#index.next(slot)) if (++looks === LOOKS_MAX) return NONE;
    return slot;
  }

  #moveToLevel(slot: number, list: number, level: number): void {
    if (list === level % LEVELS) return;
    this.#unlink(slot, list);
    this.#appendToLevel(slot, level);
  }

  #appendToLevel(slot: number, level: number): void {
    this.#lowest = Math.min(this.#lowestLevel(), level);
    this.#append(slot, level % LEVELS);
  }

  #append(slot: number, list: number): void {
    const last = this.#last[list] as number;
    this.#index.setNext(slot, NONE);
    this.#index.setPrevious(slot, last);
    if (last === NONE) this.#first[list] = slot;
    else this.#index.setNext(last, slot);
    this.#last[list] = slot;
    this.#index.setMark(slot, (this.#index.mark(slot) & ~LIST_MASK) | (list + 1));
    this.#count(list, this.#index.storedBytes(slot));
  }

  #unlink(slot: number, list: number): void {
    const next = this.#index.next(slot);
    const previous = this.#index.previous(slot);
    if (previous === NONE) this.#first[list] = next;
    else this.#index.setNext(previous, next);
    if (next === NONE) this.#last[list] = previous;
    else this.#index.setPrevious(next, previous);
    this.#index.setMark(slot, this.#index.mark(slot) & ~LIST_MASK);
    this.#count(list, -this.#index.storedBytes(slot));
  }

  #count(list: number, deltaBytes: number): void {
    this.#listBytes[list] = (this.#listBytes[list] as number) + deltaBytes;
    this.#totalBytes += deltaBytes;
  }
}

function makeMark(list: number, reads: number, credit: number, clock: number): number {
  return (list + 1) | (reads << READS_SHIFT) | (credit << CREDIT_SHIFT) | ((Math.floor(clock) & (TIMES - 1)) << TIME_SHIFT);
}
