/**
 * From chunk id to slot: extendible hashing. The ids are HMACs, so their own bits are the hash: bits of word 1 choose a small
 * open-addressed table, bits of word 0 the position in it. A table that fills up is split in two, which is all that growth ever
 * costs at once; there is no moment at which everything is hashed anew.
 *
 * An entry is one word: 26 bits of slot + 1 (0: empty) under 6 bits of the hash, which spare 63 of 64 looks at a wrong record.
 */
import type { SlotRecords } from "./slot-records.ts";

/** Words of an id; each record begins with its id. */
export const ID_WORDS = 8;
const POSITIONS = 1024;
const POSITION_MASK = POSITIONS - 1;
/** Entries at which a table is split: probes stay short (about 2 for what is there, 7 for what is not), a split takes some 30 us. */
const TABLE_ENTRIES_MAX = 768;
/** Bits of word 1 that choose a table, at most: real ids need 17 of them for SLOTS_MAX entries, only made-up ones more. */
const DEPTH_MAX = 22;
/** Tables of one slab: 1 MiB, so that few array objects stand between a hash and its table, and the processor has them at hand. */
const SLAB_SHIFT = 8;
const SLAB_TABLES = 1 << SLAB_SHIFT;
/** Behind a slab's tables, for each of them: entries in use, and the number of hash bits that all of them share. */
const COUNTS = SLAB_TABLES * POSITIONS;
const DEPTHS = COUNTS + SLAB_TABLES;
const SLAB_WORDS = DEPTHS + SLAB_TABLES;
const TAG_SHIFT = 26;
const SLOT_MASK = 2 ** TAG_SHIFT - 1;
const NONE = -1;

export class IdTable {
  readonly #records: SlotRecords;
  readonly #slabs: Int32Array[] = [new Int32Array(SLAB_WORDS)];
  /** Number of the table for each value of the chosen bits. */
  #directory = new Int32Array(1);
  #tables = 1;
  /** A table while it is being split. */
  readonly #old = new Int32Array(POSITIONS);

  constructor(records: SlotRecords) {
    this.#records = records;
  }

  get memoryBytes(): number {
    return (this.#slabs.length * SLAB_WORDS + this.#directory.length) * Int32Array.BYTES_PER_ELEMENT;
  }

  /** The slot whose record begins with these words, or -1. */
  find(id: Int32Array): number {
    const hash = id[0] as number;
    const table = this.#tableOf(id[1] as number);
    const slab = this.#slab(table);
    const at = positionsOf(table);
    const tag = hash >>> TAG_SHIFT;
    for (let position = hash & POSITION_MASK; ; position = (position + 1) & POSITION_MASK) {
      const entry = slab[at + position] as number;
      if (entry === 0) return NONE;
      if (entry >>> TAG_SHIFT !== tag) continue;
      const slot = (entry & SLOT_MASK) - 1;
      if (this.#isAt(slot, id)) return slot;
    }
  }

  /** Adds a slot, whose record is filled in and is not there yet. Throws Error, and adds nothing, when ids are so alike that they were made up. */
  add(slot: number): void {
    const records = this.#records.page(slot);
    const at = this.#records.at(slot);
    const which = records[at + 1] as number;
    while (this.#slab(this.#tableOf(which))[COUNTS + indexOf(this.#tableOf(which))] === TABLE_ENTRIES_MAX) this.#split(which);
    const table = this.#tableOf(which);
    this.#place(table, records[at] as number, slot);
  }

  /** Removes a slot whose record is still filled in. */
  remove(slot: number): void {
    const records = this.#records.page(slot);
    const recordAt = this.#records.at(slot);
    const table = this.#tableOf(records[recordAt + 1] as number);
    const slab = this.#slab(table);
    const at = positionsOf(table);
    let hole = (records[recordAt] as number) & POSITION_MASK;
    while (((slab[at + hole] as number) & SLOT_MASK) !== slot + 1) {
      if (slab[at + hole] === 0) throw new Error(`slot ${slot} is not in the table`);
      hole = (hole + 1) & POSITION_MASK;
    }
    // Entries behind the hole move up as long as that brings them no further than their first position.
    for (let next = (hole + 1) & POSITION_MASK; ; next = (next + 1) & POSITION_MASK) {
      const entry = slab[at + next] as number;
      if (entry === 0) break;
      const moved = (entry & SLOT_MASK) - 1;
      const home = (this.#records.page(moved)[this.#records.at(moved)] as number) & POSITION_MASK;
      if (((next - home) & POSITION_MASK) < ((next - hole) & POSITION_MASK)) continue;
      slab[at + hole] = entry;
      hole = next;
    }
    slab[at + hole] = 0;
    slab[COUNTS + indexOf(table)] = (slab[COUNTS + indexOf(table)] as number) - 1;
  }

  #tableOf(which: number): number {
    return this.#directory[which & (this.#directory.length - 1)] as number;
  }

  #slab(table: number): Int32Array {
    return this.#slabs[table >>> SLAB_SHIFT] as Int32Array;
  }

  #isAt(slot: number, id: Int32Array): boolean {
    const records = this.#records.page(slot);
    const at = this.#records.at(slot);
    for (let i = 0; i < ID_WORDS; i++) if (records[at + i] !== id[i]) return false;
    return true;
  }

  #place(table: number, hash: number, slot: number): void {
    const slab = this.#slab(table);
    const at = positionsOf(table);
    let position = hash & POSITION_MASK;
    while (slab[at + position] !== 0) position = (position + 1) & POSITION_MASK;
    slab[at + position] = ((hash >>> TAG_SHIFT) << TAG_SHIFT) | (slot + 1);
    slab[COUNTS + indexOf(table)] = (slab[COUNTS + indexOf(table)] as number) + 1;
  }

  /** Divides the entries of the table at `which` by one more bit of the hash. */
  #split(which: number): void {
    const low = this.#tableOf(which);
    const slab = this.#slab(low);
    const depth = slab[DEPTHS + indexOf(low)] as number;
    if (depth === DEPTH_MAX) throw new Error("too many chunk ids that are alike");
    const bit = 1 << depth;
    if (bit === this.#directory.length) {
      const doubled = new Int32Array(2 * bit);
      doubled.set(this.#directory);
      doubled.set(this.#directory, bit);
      this.#directory = doubled;
    }
    const high = this.#tables++;
    if (high >>> SLAB_SHIFT === this.#slabs.length) this.#slabs.push(new Int32Array(SLAB_WORDS));
    slab[DEPTHS + indexOf(low)] = depth + 1;
    this.#slab(high)[DEPTHS + indexOf(high)] = depth + 1;
    const at = positionsOf(low);
    this.#old.set(slab.subarray(at, at + POSITIONS));
    slab.fill(0, at, at + POSITIONS);
    slab[COUNTS + indexOf(low)] = 0;
    for (const entry of this.#old) {
      if (entry === 0) continue;
      const slot = (entry & SLOT_MASK) - 1;
      const records = this.#records.page(slot);
      const recordAt = this.#records.at(slot);
      this.#place(((records[recordAt + 1] as number) & bit) === 0 ? low : high, records[recordAt] as number, slot);
    }
    for (let i = (which & (bit - 1)) | bit; i < this.#directory.length; i += 2 * bit) this.#directory[i] = high;
  }
}

/** Index of a table in its slab. */
function indexOf(table: number): number {
  return table & (SLAB_TABLES - 1);
}

/** Index of a table's first position in its slab. */
function positionsOf(table: number): number {
  return indexOf(table) * POSITIONS;
}
