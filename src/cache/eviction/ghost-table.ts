/**
 * What is remembered of chunks that are not in L2: how far ahead of eviction each would be, and when it was last asked for. One
 * 32-bit cell a chunk: 16 bits of its id, 6 of its level, 10 of the time. In buckets of 8, so a new chunk takes the place of the
 * one in its bucket that would have been evicted first: memory is bounded, and history with it.
 *
 * The table grows by a page at a time (linear hashing, where a new page starts as a copy of the one that it is split from).
 */

/** Levels are counted modulo this. */
export const LEVELS = 64;
/** Times are counted modulo this. */
export const TIMES = 1024;
/** Cells of a bucket: two in 2^16 lookups of a chunk that is not there find another one's history. */
const WAYS = 8;
/** Cells of a page: 16 KiB. */
const PAGE_CELLS = 4096;
const PAGE_BUCKETS = PAGE_CELLS / WAYS;
const LEVEL_SHIFT = 10;
const TAG_SHIFT = 16;
const NONE = -1;

/** What is known of a chunk. */
export interface Ghost {
  /** Modulo LEVELS. */
  level: number;
  /** Modulo TIMES. */
  time: number;
}

export class GhostTable {
  readonly #pages: Int32Array[] = [new Int32Array(PAGE_CELLS)];
  #swept = 0;

  get memoryBytes(): number {
    return this.#pages.length * PAGE_CELLS * Int32Array.BYTES_PER_ELEMENT;
  }

  /** Makes room for about so many chunks, by one page at most. */
  growTowards(chunks: number): void {
    const pages = this.#pages;
    if (pages.length * PAGE_CELLS >= chunks) return;
    // The page that is split is this one without its leading bit.
    const from = pages.length & ~(1 << (31 - Math.clz32(pages.length)));
    pages.push((pages[from] as Int32Array).slice());
  }

  get(id: Uint8Array): Ghost | null {
    const page = this.#page(id);
    const at = find(page, id);
    if (at === NONE) return null;
    const cell = page[at] as number;
    return { level: (cell >>> LEVEL_SHIFT) & (LEVELS - 1), time: cell & (TIMES - 1) };
  }

  /** Notes a chunk. `floor`: cells at this level (modulo LEVELS) are the first whose place is taken. */
  set(id: Uint8Array, level: number, time: number, floor: number): void {
    const page = this.#page(id);
    let at = find(page, id);
    if (at === NONE) at = lowest(page, id, floor);
    page[at] = (tagOf(id) << TAG_SHIFT) | ((level & (LEVELS - 1)) << LEVEL_SHIFT) | (time & (TIMES - 1));
  }

  delete(id: Uint8Array): void {
    const page = this.#page(id);
    const at = find(page, id);
    if (at !== NONE) page[at] = 0;
  }

  /** Empties cells below level `floor` in one of `parts` parts of the table: all of it after so many calls, before levels come round again. */
  sweep(floor: number, parts: number): void {
    const count = Math.ceil(this.#pages.length / parts);
    for (let i = 0; i < count; i++) {
      this.#swept = (this.#swept + 1) % this.#pages.length;
      const page = this.#pages[this.#swept] as Int32Array;
      for (let at = 0; at < PAGE_CELLS; at++) {
        const cell = page[at] as number;
        if (cell !== 0 && (((cell >>> LEVEL_SHIFT) - floor) & (LEVELS - 1)) >= LEVELS / 2) page[at] = 0;
      }
    }
  }

  #page(id: Uint8Array): Int32Array {
    const hash = ((id[16] as number) | ((id[17] as number) << 8) | ((id[18] as number) << 16) | ((id[19] as number) << 24)) >>> 0;
    const bits = 32 - Math.clz32(this.#pages.length);
    const number = hash & (2 ** bits - 1);
    return this.#pages[number < this.#pages.length ? number : number & (2 ** (bits - 1) - 1)] as Int32Array;
  }
}

function bucketOf(id: Uint8Array): number {
  return (((id[20] as number) | ((id[21] as number) << 8)) % PAGE_BUCKETS) * WAYS;
}

/** Never 0, so that no cell in use is. */
function tagOf(id: Uint8Array): number {
  return (id[24] as number) | ((id[25] as number) << 8) || 1;
}

function find(page: Int32Array, id: Uint8Array): number {
  const tag = tagOf(id);
  const bucket = bucketOf(id);
  for (let at = bucket; at < bucket + WAYS; at++) if ((page[at] as number) >>> TAG_SHIFT === tag) return at;
  return NONE;
}

/** An empty cell, or the one at the lowest level. */
function lowest(page: Int32Array, id: Uint8Array, floor: number): number {
  const bucket = bucketOf(id);
  let best = bucket;
  let bestLevel = LEVELS;
  for (let at = bucket; at < bucket + WAYS; at++) {
    const cell = page[at] as number;
    if (cell === 0) return at;
    const level = ((cell >>> LEVEL_SHIFT) - floor) & (LEVELS - 1);
    if (level >= bestLevel) continue;
    best = at;
    bestLevel = level;
  }
  return best;
}
