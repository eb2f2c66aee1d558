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
/** Words behind the positions: entries in use, and the number of hash bits that all of them share. */
const COUNT = POSITIONS;
const DEPTH = POSITIONS + 1;
const TABLE_WORDS = POSITIONS + 2;
const TAG_SHIFT = 26;
const SLOT_MASK = 2 ** TAG_SHIFT - 1;
const NONE = -1;

export class IdTable {
  readonly #records: SlotRecords;
  #directory: Int32Array[] = [new Int32Array(TABLE_WORDS)];
  #depth = 0;
  #tables = 1;

  constructor(records: SlotRecords) {
    this.#records = records;
  }

  get memoryBytes(): number {
    return this.#tables * TABLE_WORDS * Int32Array.BYTES_PER_ELEMENT + this.#directory.length * 8;
  }

  /** The slot whose record begins with these words, or -1. */
  find(id: Int32Array): number {
    const hash = id[0] as number;
    const table = this.#directory[(id[1] as number) & (this.#directory.length - 1)] as Int32Array;
    const tag = hash >>> TAG_SHIFT;
    for (let position = hash & POSITION_MASK; ; position = (position + 1) & POSITION_MASK) {
      const entry = table[position] as number;
      if (entry === 0) return NONE;
      if (entry >>> TAG_SHIFT !== tag) continue;
      const slot = (entry & SLOT_MASK) - 1;
      if (this.#isAt(slot, id)) return slot;
    }
  }

  /** Adds a slot, whose record is filled in and is not there yet. */
  add(slot: number): void {
    const records = this.#records.page(slot);
    const at = this.#records.at(slot);
    const which = records[at + 1] as number;
    let table = this.#directory[which & (this.#directory.length - 1)] as Int32Array;
    while (table[COUNT] === TABLE_ENTRIES_MAX) {
      this.#split(table, which);
      table = this.#directory[which & (this.#directory.length - 1)] as Int32Array;
    }
    place(table, records[at] as number, slot);
  }

  /** Removes a slot whose record is still filled in. */
  remove(slot: number): void {
    const records = this.#records.page(slot);
    const at = this.#records.at(slot);
    const table = this.#directory[(records[at + 1] as number) & (this.#directory.length - 1)] as Int32Array;
    let hole = (records[at] as number) & POSITION_MASK;
    while (((table[hole] as number) & SLOT_MASK) !== slot + 1) {
      if (table[hole] === 0) throw new Error(`slot ${slot} is not in the table`);
      hole = (hole + 1) & POSITION_MASK;
    }
    // Entries behind the hole move up as long as that brings them no further than their first position.
    for (let next = (hole + 1) & POSITION_MASK; ; next = (next + 1) & POSITION_MASK) {
      const entry = table[next] as number;
      if (entry === 0) break;
      const moved = (entry & SLOT_MASK) - 1;
      const home = (this.#records.page(moved)[this.#records.at(moved)] as number) & POSITION_MASK;
      if (((next - home) & POSITION_MASK) < ((next - hole) & POSITION_MASK)) continue;
      table[hole] = entry;
      hole = next;
    }
    table[hole] = 0;
    table[COUNT] = (table[COUNT] as number) - 1;
  }

  #isAt(slot: number, id: Int32Array): boolean {
    const records = this.#records.page(slot);
    const at = this.#records.at(slot);
    for (let i = 0; i < ID_WORDS; i++) if (records[at + i] !== id[i]) return false;
    return true;
  }

  /** Divides a table's entries, which are found at `which`, by one more bit of the hash. */
  #split(table: Int32Array, which: number): void {
    const depth = table[DEPTH] as number;
    if (depth === DEPTH_MAX) throw new Error("too many chunk ids that are alike");
    if (depth === this.#depth) {
      this.#directory = this.#directory.concat(this.#directory);
      this.#depth++;
    }
    const low = new Int32Array(TABLE_WORDS);
    const high = new Int32Array(TABLE_WORDS);
    low[DEPTH] = depth + 1;
    high[DEPTH] = depth + 1;
    const bit = 1 << depth;
    for (let position = 0; position < POSITIONS; position++) {
      const entry = table[position] as number;
      if (entry === 0) continue;
      const slot = (entry & SLOT_MASK) - 1;
      const records = this.#records.page(slot);
      const at = this.#records.at(slot);
      place(((records[at + 1] as number) & bit) === 0 ? low : high, records[at] as number, slot);
    }
    for (let i = which & (bit - 1); i < this.#directory.length; i += bit) this.#directory[i] = (i & bit) === 0 ? low : high;
    this.#tables++;
  }
}

function place(table: Int32Array, hash: number, slot: number): void {
  let position = hash & POSITION_MASK;
  while (table[position] !== 0) position = (position + 1) & POSITION_MASK;
  table[position] = ((hash >>> TAG_SHIFT) << TAG_SHIFT) | (slot + 1);
  table[COUNT] = (table[COUNT] as number) + 1;
}
