/**
 * Fixed-size records named by small integers (slots), in pages that are never moved or copied: growing costs one page, at any size.
 */

/** 32-bit words of one record: 64 bytes, one cache line, so that a lookup that ends in a record costs one miss for all of it. */
const RECORD_WORDS = 16;
/** 16,384 records a page: 1 MiB, which the kernel brings zeroed and only as it is touched; the array objects of ten million fit the processor's caches. */
const PAGE_SHIFT = 14;
const PAGE_SLOTS = 1 << PAGE_SHIFT;
const PAGE_MASK = PAGE_SLOTS - 1;
/** Slots at most: what 26 bits of a hash table's entry can name, less one. 64 Mi blocks of 64 KiB are 4 TiB. */
const SLOTS_MAX = 2 ** 26 - 1;
const NONE = -1;
/** Word that chains free records. A record's owner sets all its words anew. */
const NEXT_FREE = 0;

export class SlotRecords {
  readonly #pages: Int32Array[] = [];
  #untouched = 0;
  #firstFree = NONE;

  /** The page that a slot stands in, for `at(slot)`. */
  page(slot: number): Int32Array {
    const page = this.#pages[slot >>> PAGE_SHIFT];
    if (page === undefined) throw new RangeError(`slot: expected less than ${this.#untouched}, got ${slot}`);
    return page;
  }

  /** Index of a slot's first word in its page. */
  at(slot: number): number {
    return (slot & PAGE_MASK) * RECORD_WORDS;
  }

  /** Slots ever given out: all that are in use are below. */
  get limit(): number {
    return this.#untouched;
  }

  get memoryBytes(): number {
    return this.#pages.length * PAGE_SLOTS * RECORD_WORDS * Int32Array.BYTES_PER_ELEMENT;
  }

  /** A slot, with whatever its record held before. Throws Error when there are SLOTS_MAX. */
  take(): number {
    const slot = this.#firstFree;
    if (slot !== NONE) {
      this.#firstFree = this.page(slot)[this.at(slot) + NEXT_FREE] as number;
      return slot;
    }
    if (this.#untouched === SLOTS_MAX) throw new Error(`more than ${SLOTS_MAX} entries`);
    if (this.#untouched >>> PAGE_SHIFT === this.#pages.length) this.#pages.push(new Int32Array(PAGE_SLOTS * RECORD_WORDS));
    return this.#untouched++;
  }

  give(slot: number): void {
    this.page(slot)[this.at(slot) + NEXT_FREE] = this.#firstFree;
    this.#firstFree = slot;
  }
}
