/**
 * Runs of words for chunks of several blocks: which blocks are there, and the CRC32 of each. Runs of one length share slabs, so
 * none is rounded up; a slab whose last run is given back is dropped, so memory that a different mix of lengths needs comes free again.
 */

/** Words of a slab: 16 KiB, room for 62 runs of a whole 4 MiB chunk. */
const SLAB_WORDS = 4096;
/** Bits of a handle that name a run in its slab; the others name the slab. */
const RUN_SHIFT = 11;
const RUN_MASK = (1 << RUN_SHIFT) - 1;
/** A run at least this long fits RUN_SHIFT bits: 2 blocks need 3 words. */
const RUN_WORDS_MIN = 3;
const NONE = -1;

interface Slab {
  readonly words: Int32Array;
  readonly runWords: number;
  /** First free run, each of which begins with the next one's number. */
  free: number;
  untouched: number;
  live: number;
  /** Place in the list of slabs of this length that have room; NONE when it is full. */
  place: number;
}

export class BlockSums {
  readonly #slabs: (Slab | null)[] = [];
  readonly #freeNumbers: number[] = [];
  /** For each run length, the numbers of the slabs that have room. */
  readonly #withRoom: number[][] = [];
  #slabCount = 0;

  get memoryBytes(): number {
    return this.#slabCount * SLAB_WORDS * Int32Array.BYTES_PER_ELEMENT + this.#slabs.length * 8;
  }

  /** A run of zeros. */
  take(runWords: number): number {
    if (runWords < RUN_WORDS_MIN || runWords > SLAB_WORDS) throw new RangeError(`run: got ${runWords} words`);
    let list = this.#withRoom[runWords];
    if (list === undefined) {
      list = [];
      this.#withRoom[runWords] = list;
    }
    const number = list.at(-1) ?? this.#newSlab(runWords, list);
    const slab = this.#slab(number);
    let run = slab.free;
    if (run === NONE) run = slab.untouched++;
    else slab.free = slab.words[run * runWords] as number;
    slab.words.fill(0, run * runWords, (run + 1) * runWords);
    slab.live++;
    if (slab.free === NONE && (slab.untouched + 1) * runWords > SLAB_WORDS) {
      list.pop();
      slab.place = NONE;
    }
    return (number << RUN_SHIFT) | run;
  }

  give(handle: number): void {
    const number = handle >>> RUN_SHIFT;
    const slab = this.#slab(number);
    const run = handle & RUN_MASK;
    const list = this.#withRoom[slab.runWords] as number[];
    slab.words[run * slab.runWords] = slab.free;
    slab.free = run;
    slab.live--;
    if (slab.place === NONE) {
      slab.place = list.length;
      list.push(number);
    }
    if (slab.live > 0) return;
    const last = list.pop() as number;
    if (last !== number) {
      list[slab.place] = last;
      this.#slab(last).place = slab.place;
    }
    this.#slabs[number] = null;
    this.#freeNumbers.push(number);
    this.#slabCount--;
  }

  /** The words that a run stands in, for `at(handle)`. */
  words(handle: number): Int32Array {
    return this.#slab(handle >>> RUN_SHIFT).words;
  }

  /** Index of a run's first word. */
  at(handle: number): number {
    return (handle & RUN_MASK) * this.#slab(handle >>> RUN_SHIFT).runWords;
  }

  #slab(number: number): Slab {
    const slab = this.#slabs[number];
    if (slab === null || slab === undefined) throw new RangeError(`no run in slab ${number}`);
    return slab;
  }

  #newSlab(runWords: number, list: number[]): number {
    const number = this.#freeNumbers.pop() ?? this.#slabs.length;
    this.#slabs[number] = { words: new Int32Array(SLAB_WORDS), runWords, free: NONE, untouched: 0, live: 0, place: list.length };
    list.push(number);
    this.#slabCount++;
    return number;
  }
}
