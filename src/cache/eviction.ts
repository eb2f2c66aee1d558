/**
 * Which chunks of an organic pool go when room is needed, and which may come in. Memory only; one for an index, which it observes:
 * nobody has to tell it what is added, removed or pinned.
 */
import type { ChunkIndex, ChunkIndexObserver } from "./chunk-index.ts";

/** Rounds that a chunk can have before it at most: an old favourite has to make room for something new in the end. */
const ROUNDS_MAX = 7;
const NONE = -1;
/** Held chunks that `victim` passes over before it gives up. */
const HELD_PASSED_MAX = 1024;

export class Eviction implements ChunkIndexObserver {
  readonly #index: ChunkIndex;
  #first = NONE;
  #last = NONE;

  constructor(index: ChunkIndex) {
    this.#index = index;
    index.observe(this);
    for (const slot of index.entries()) this.onAdd(slot);
  }

  /** `blocks` blocks of a chunk were read from L2. */
  onRead(slot: number, blocks: number = this.#index.blockCount(slot)): void {
    void blocks;
    this.#index.setMark(slot, Math.min(ROUNDS_MAX, this.#index.mark(slot) + 1));
  }

  /** `bytes` bytes of a chunk were asked for and are not in L2, whether it is put there or not. */
  onMiss(_id: Uint8Array, _bytes: number): void {}

  /** There is no room for `bytes` bytes of this chunk: is it worth more than what would have to go? Asked after `onMiss`. */
  admits(_id: Uint8Array, _bytes: number): boolean {
    return true;
  }

  /** The chunk that goes next, or -1 when none may go now. The caller removes it from the index, before it asks again. */
  victim(): number {
    for (let passed = 0; this.#first !== NONE && passed < HELD_PASSED_MAX; passed++) {
      const slot = this.#first;
      const rounds = this.#index.mark(slot);
      if (rounds === 0 && !this.#index.isHeld(slot)) return slot;
      this.#unlink(slot);
      this.#append(slot);
      if (rounds > 0) this.#index.setMark(slot, rounds - 1);
    }
    return NONE;
  }

  onAdd(slot: number): void {
    if (!this.#index.pinned(slot)) this.#append(slot);
  }

  onRemove(slot: number): void {
    if (!this.#index.pinned(slot)) this.#unlink(slot);
  }

  onStored(_slot: number, _deltaBytes: number): void {}

  onPinned(slot: number, pinned: boolean): void {
    if (pinned) this.#unlink(slot);
    else this.#append(slot);
  }

  #append(slot: number): void {
    this.#index.setNext(slot, NONE);
    this.#index.setPrevious(slot, this.#last);
    if (this.#last === NONE) this.#first = slot;
    else this.#index.setNext(this.#last, slot);
    this.#last = slot;
  }

  #unlink(slot: number): void {
    const next = this.#index.next(slot);
    const previous = this.#index.previous(slot);
    if (previous === NONE) this.#first = next;
    else this.#index.setNext(previous, next);
    if (next === NONE) this.#last = previous;
    else this.#index.setPrevious(next, previous);
  }
}
