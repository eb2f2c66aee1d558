/**
 * What L2 holds: for each chunk its full id, which of its 64 KiB blocks are there with their CRC32, where it stands, whether it is
 * pinned, and how many use it now. Memory only, no I/O; one for a pool; made for ten million chunks.
 *
 * Into this folder come chunk ids and block numbers; slots, places and checksums go out.
 *
 * A chunk is named by its slot, a small integer that is its own until it is removed. Lookups touch one word of a hash table and
 * one cache line; nothing that grows is ever moved, so no call takes long.
 */
import { blockBytes, blockCount } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES, CHUNK_ID_BYTES, CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import { BlockSums } from "./block-sums.ts";
import { ID_WORDS, IdTable } from "./id-table.ts";
import { SlotRecords } from "./slot-records.ts";

/** Where a chunk's bytes stand. */
export interface ChunkPlace {
  /** Number of the image that holds it, or 0: a chunk file of its own. */
  readonly image: number;
  /** The block of the image at which the chunk begins. */
  readonly firstBlock: number;
}

/** Told what happens in an index, after it happened (removal: just before). */
export interface ChunkIndexObserver {
  onAdd(slot: number): void;
  onRemove(slot: number): void;
  /** A chunk's stored bytes changed by so much. */
  onStored(slot: number, deltaBytes: number): void;
  onPinned(slot: number, pinned: boolean): void;
}

/** Words of a record, behind the id. */
const META = ID_WORDS;
/** One block: its CRC32; more: the handle of a run [present 0..31, present 32..63 if there are so many, CRC32 of each block]. */
const SUMS = 9;
const HOLDS = 10;
const NEXT = 11;
const PREVIOUS = 12;
const IMAGE = 13;
const FIRST_BLOCK = 14;
const MARK = 15;

/** META: the chunk's bytes (23 bits) and flags. */
const BYTES_MASK = 2 ** 23 - 1;
const PINNED = 1 << 23;
/** The block of a one-block chunk is there. */
const PRESENT = 1 << 24;
const LIVE = 1 << 25;
/** Removed, but still held. */
const DOOMED = 1 << 26;
const NONE = -1;

export class ChunkIndex {
  readonly #records = new SlotRecords();
  readonly #table = new IdTable(this.#records);
  readonly #sums = new BlockSums();
  readonly #idBytes = new Uint8Array(CHUNK_ID_BYTES);
  readonly #idWords = new Int32Array(this.#idBytes.buffer);
  #observer: ChunkIndexObserver | null = null;
  #size = 0;
  #storedTotal = 0;
  #pinnedTotal = 0;

  /** Chunks. */
  get size(): number {
    return this.#size;
  }

  /** Bytes of all blocks that are there. */
  get totalBytes(): number {
    return this.#storedTotal;
  }

  /** Bytes of the blocks of pinned chunks. */
  get pinnedBytes(): number {
    return this.#pinnedTotal;
  }

  /** Memory that the index takes, in bytes. */
  get memoryBytes(): number {
    return this.#records.memoryBytes + this.#table.memoryBytes + this.#sums.memoryBytes;
  }

  /** The chunk's slot, or -1. */
  find(id: Uint8Array): number {
    this.#loadId(id);
    return this.#table.find(this.#idWords);
  }

  /** A slot for a chunk of `bytes` bytes, of which no block is there yet. Throws Error when the chunk has one already. */
  add(id: Uint8Array, bytes: number): number {
    if (!Number.isInteger(bytes) || bytes < 1 || bytes > CHUNK_MAX_BYTES)
      throw new RangeError(`bytes: expected 1 to ${CHUNK_MAX_BYTES}, got ${bytes}`);
    if (this.find(id) !== NONE) throw new Error("the chunk is in the index already");
    const slot = this.#records.take();
    const page = this.#records.page(slot);
    const at = this.#records.at(slot);
    page.set(this.#idWords, at);
    this.#table.add(slot);
    page[at + META] = bytes | LIVE;
    const blocks = blockCount(bytes);
    page[at + SUMS] = blocks === 1 ? 0 : this.#sums.take(presenceWords(blocks) + blocks);
    page.fill(0, at + HOLDS, at + MARK + 1);
    this.#size++;
    this.#observer?.onAdd(slot);
    return slot;
  }

  /** Forgets a chunk: nobody finds it any more. Its slot is used again after the last one who holds it has released it, and can be read until then. */
  remove(slot: number): void {
    const { page, at } = this.#record(slot);
    if (((page[at + META] as number) & DOOMED) !== 0) throw new Error(`slot ${slot} was removed before`);
    this.#observer?.onRemove(slot);
    const stored = this.storedBytes(slot);
    this.#storedTotal -= stored;
    if (this.pinned(slot)) this.#pinnedTotal -= stored;
    this.#table.remove(slot);
    this.#size--;
    if (page[at + HOLDS] === 0) this.#free(slot);
    else page[at + META] = (page[at + META] as number) | DOOMED;
  }

  /** A copy of the chunk's id. */
  id(slot: number): Uint8Array {
    const { page, at } = this.#record(slot);
    return new Uint8Array(page.buffer, page.byteOffset + at * 4, CHUNK_ID_BYTES).slice();
  }

  /** Bytes of the whole chunk. */
  bytes(slot: number): number {
    return this.#meta(slot) & BYTES_MASK;
  }

  /** Blocks of the whole chunk, 1 to 64. */
  blockCount(slot: number): number {
    return blockCount(this.bytes(slot));
  }

  /** All of blocks [first, first + count) are there. */
  hasBlocks(slot: number, first: number, count: number): boolean {
    const blocks = this.blockCount(slot);
    if (first < 0 || count < 1 || first + count > blocks) throw new RangeError(`blocks ${first}+${count}: expected some of ${blocks}`);
    for (let block = first; block < first + count; block++) if (!this.#hasBlock(slot, block)) return false;
    return true;
  }

  /** Notes that a block is there, and its CRC32. */
  setBlock(slot: number, block: number, crc: number): void {
    this.setBlocks(slot, block, [crc]);
  }

  /** Notes that blocks from `first` on are there, and the CRC32 of each. */
  setBlocks(slot: number, first: number, crcs: ArrayLike<number>): void {
    if (crcs.length === 0) return;
    this.#checkBlock(slot, first);
    this.#checkBlock(slot, first + crcs.length - 1);
    const { page, at } = this.#record(slot);
    const bytes = (page[at + META] as number) & BYTES_MASK;
    const blocks = blockCount(bytes);
    const before = this.storedBytes(slot);
    if (blocks === 1) {
      page[at + META] = (page[at + META] as number) | PRESENT;
      page[at + SUMS] = crcs[0] as number;
    } else {
      const handle = page[at + SUMS] as number;
      const words = this.#sums.words(handle);
      const run = this.#sums.at(handle);
      const sums = run + presenceWords(blocks) + first;
      for (let i = 0; i < crcs.length; i++) {
        const block = first + i;
        words[run + (block >>> 5)] = (words[run + (block >>> 5)] as number) | (1 << (block & 31));
        words[sums + i] = crcs[i] as number;
      }
    }
    const added = this.storedBytes(slot) - before;
    if (added > 0) this.#stored(slot, added);
  }

  /** Notes that a block is not there any more. */
  clearBlock(slot: number, block: number): void {
    this.#checkBlock(slot, block);
    if (!this.#hasBlock(slot, block)) return;
    const { page, at } = this.#record(slot);
    if (this.blockCount(slot) === 1) {
      page[at + META] = (page[at + META] as number) & ~PRESENT;
    } else {
      const handle = page[at + SUMS] as number;
      const words = this.#sums.words(handle);
      const word = this.#sums.at(handle) + (block >>> 5);
      words[word] = (words[word] as number) & ~(1 << (block & 31));
    }
    this.#stored(slot, -blockBytes(this.bytes(slot), block));
  }

  /** The CRC32 of a block that is there, unsigned. */
  blockCrc(slot: number, block: number): number {
    this.#checkBlock(slot, block);
    if (!this.#hasBlock(slot, block)) throw new Error(`block ${block} of slot ${slot} is not there`);
    const { page, at } = this.#record(slot);
    const sums = page[at + SUMS] as number;
    const blocks = this.blockCount(slot);
    if (blocks === 1) return sums >>> 0;
    return (this.#sums.words(sums)[this.#sums.at(sums) + presenceWords(blocks) + block] as number) >>> 0;
  }

  /** Every block is there. */
  isComplete(slot: number): boolean {
    return this.storedBlocks(slot) === this.blockCount(slot);
  }

  /** Blocks that are there. */
  storedBlocks(slot: number): number {
    const { page, at } = this.#record(slot);
    const meta = page[at + META] as number;
    const blocks = blockCount(meta & BYTES_MASK);
    if (blocks === 1) return (meta & PRESENT) === 0 ? 0 : 1;
    const handle = page[at + SUMS] as number;
    const words = this.#sums.words(handle);
    const run = this.#sums.at(handle);
    return popCount(words[run] as number) + (blocks > 32 ? popCount(words[run + 1] as number) : 0);
  }

  /** Bytes of the blocks that are there. */
  storedBytes(slot: number): number {
    const stored = this.storedBlocks(slot);
    if (stored === 0) return 0;
    const bytes = this.bytes(slot);
    const last = blockCount(bytes) - 1;
    return this.#hasBlock(slot, last) ? (stored - 1) * BLOCK_BYTES + blockBytes(bytes, last) : stored * BLOCK_BYTES;
  }

  /** Staged or held for good: never a victim. */
  pinned(slot: number): boolean {
    return (this.#meta(slot) & PINNED) !== 0;
  }

  setPinned(slot: number, pinned: boolean): void {
    const { page, at } = this.#record(slot);
    const meta = page[at + META] as number;
    if (((meta & PINNED) !== 0) === pinned) return;
    page[at + META] = pinned ? meta | PINNED : meta & ~PINNED;
    if ((meta & DOOMED) !== 0) return;
    this.#pinnedTotal += pinned ? this.storedBytes(slot) : -this.storedBytes(slot);
    this.#observer?.onPinned(slot, pinned);
  }

  place(slot: number): ChunkPlace {
    const { page, at } = this.#record(slot);
    return { image: (page[at + IMAGE] as number) >>> 0, firstBlock: (page[at + FIRST_BLOCK] as number) >>> 0 };
  }

  /** @param image 0: a chunk file of its own (as after `add`). */
  setPlace(slot: number, image: number, firstBlock: number): void {
    const { page, at } = this.#record(slot);
    page[at + IMAGE] = image;
    page[at + FIRST_BLOCK] = firstBlock;
  }

  /** Somebody reads or writes the chunk's bytes: until it is released as often, it is no victim and its slot is not used again. */
  hold(slot: number): void {
    const { page, at } = this.#record(slot);
    page[at + HOLDS] = (page[at + HOLDS] as number) + 1;
  }

  release(slot: number): void {
    const { page, at } = this.#record(slot);
    const holds = page[at + HOLDS] as number;
    if (holds === 0) throw new Error(`slot ${slot} is not held`);
    page[at + HOLDS] = holds - 1;
    if (holds === 1 && ((page[at + META] as number) & DOOMED) !== 0) this.#free(slot);
  }

  isHeld(slot: number): boolean {
    return this.#record(slot).page[this.#records.at(slot) + HOLDS] !== 0;
  }

  /** Was removed while somebody held it: what its holder reads may be gone. */
  isRemoved(slot: number): boolean {
    return (this.#meta(slot) & DOOMED) !== 0;
  }

  /** Slots of all chunks. Chunks that are added or removed meanwhile may or may not come. */
  *entries(): Generator<number> {
    for (let slot = 0; slot < this.#records.limit; slot++) {
      const meta = this.#records.page(slot)[this.#records.at(slot) + META] as number;
      if ((meta & (LIVE | DOOMED)) === LIVE) yield slot;
    }
  }

  /** One observer, which is told of every chunk from now on. */
  observe(observer: ChunkIndexObserver): void {
    if (this.#observer !== null) throw new Error("the index has an observer already");
    this.#observer = observer;
  }

  // For the observer (eviction order): a list that runs through the records, and a word that is 0 after `add`.

  next(slot: number): number {
    return this.#records.page(slot)[this.#records.at(slot) + NEXT] as number;
  }

  previous(slot: number): number {
    return this.#records.page(slot)[this.#records.at(slot) + PREVIOUS] as number;
  }

  setNext(slot: number, next: number): void {
    this.#records.page(slot)[this.#records.at(slot) + NEXT] = next;
  }

  setPrevious(slot: number, previous: number): void {
    this.#records.page(slot)[this.#records.at(slot) + PREVIOUS] = previous;
  }

  mark(slot: number): number {
    return this.#records.page(slot)[this.#records.at(slot) + MARK] as number;
  }

  setMark(slot: number, mark: number): void {
    this.#records.page(slot)[this.#records.at(slot) + MARK] = mark;
  }

  #loadId(id: Uint8Array): void {
    if (id.length !== CHUNK_ID_BYTES) throw new RangeError(`id: expected ${CHUNK_ID_BYTES} bytes, got ${id.length}`);
    this.#idBytes.set(id);
  }

  #record(slot: number): { page: Int32Array; at: number } {
    const page = this.#records.page(slot);
    const at = this.#records.at(slot);
    if (((page[at + META] as number) & LIVE) === 0) throw new Error(`slot ${slot} is free`);
    return { page, at };
  }

  #meta(slot: number): number {
    const { page, at } = this.#record(slot);
    return page[at + META] as number;
  }

  #free(slot: number): void {
    const { page, at } = this.#record(slot);
    if (blockCount((page[at + META] as number) & BYTES_MASK) > 1) this.#sums.give(page[at + SUMS] as number);
    page[at + META] = 0;
    this.#records.give(slot);
  }

  #checkBlock(slot: number, block: number): void {
    const blocks = this.blockCount(slot);
    if (!(block >= 0 && block < blocks)) throw new RangeError(`block: expected 0 to ${blocks - 1}, got ${block}`);
  }

  #hasBlock(slot: number, block: number): boolean {
    const { page, at } = this.#record(slot);
    const meta = page[at + META] as number;
    if (blockCount(meta & BYTES_MASK) === 1) return (meta & PRESENT) !== 0;
    const handle = page[at + SUMS] as number;
    return (((this.#sums.words(handle)[this.#sums.at(handle) + (block >>> 5)] as number) >>> (block & 31)) & 1) === 1;
  }

  #stored(slot: number, deltaBytes: number): void {
    if ((this.#meta(slot) & DOOMED) !== 0) return;
    this.#storedTotal += deltaBytes;
    if (this.pinned(slot)) this.#pinnedTotal += deltaBytes;
    this.#observer?.onStored(slot, deltaBytes);
  }
}

function presenceWords(blocks: number): number {
  return blocks > 32 ? 2 : 1;
}

function popCount(word: number): number {
  let n = word - ((word >>> 1) & 0x55555555);
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333);
  return Math.imul((n + (n >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
