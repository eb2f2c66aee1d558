/**
 * The client's memory for file content: one SharedArrayBuffer of 64 KiB cells, of which each holds one plaintext block. Dirty
 * data, requests in flight, read-ahead and the L1 cache all draw from it, so one number bounds them together; workers read and
 * write the cells directly.
 *
 * This folder is L1: cells are asked for, filled, pinned and given back; nothing else goes in or out.
 *
 * A cell is free, or pinned (somebody uses it), or cached (evictable, in LRU order), or both pinned and cached. When it comes free it is
 * overwritten with zeros; one that is evicted for another block is overwritten by that, or comes free.
 */
import { preferHugePages } from "../../../ffi/libc/memory.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";

/** Fewer cells than this can't keep one writer, one reader and their transfers going. */
export const ARENA_MIN_BYTES = 16 * 1024 * 1024;
const NONE = -1;

interface CachedChunk {
  readonly key: string;
  /** Cell of each block, NONE where it is not cached. */
  readonly cells: Int32Array;
  count: number;
}

interface Waiter {
  count: number;
  resolve: (cells: number[]) => void;
}

export class BlockArena {
  readonly memory: SharedArrayBuffer;
  readonly cellCount: number;
  readonly #views: (Uint8Array | undefined)[];
  readonly #free: number[] = [];
  readonly #pins: Uint16Array;
  readonly #chunkOf: (CachedChunk | null)[];
  readonly #blockOf: Uint8Array;
  /** When a cached block was published, in calls of forgetStale. */
  readonly #age: Uint32Array;
  #now = 0;
  /** LRU list of cells that are cached and not pinned; both ends at index cellCount. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #chunks = new Map<string, CachedChunk>();
  readonly #waiters: Waiter[] = [];
  #evictable = 0;
  #untouched = 0;
  #cached = 0;
  /** Cached blocks that had to go, since the beginning. */
  evictions = 0;

  /** @param capacityBytes at least ARENA_MIN_BYTES; memory is only really used as cells are first written. */
  constructor(capacityBytes: number) {
    if (!(capacityBytes >= ARENA_MIN_BYTES))
      throw new RangeError(`arena: expected at least ${ARENA_MIN_BYTES} bytes, got ${capacityBytes}`);
    this.cellCount = Math.floor(capacityBytes / BLOCK_BYTES);
    this.memory = new SharedArrayBuffer(this.cellCount * BLOCK_BYTES);
    // The disk then reads into longer runs of memory, and takes larger requests: L2 hits are half as fast again.
    preferHugePages(this.memory);
    this.#views = new Array(this.cellCount);
    this.#pins = new Uint16Array(this.cellCount);
    this.#chunkOf = new Array(this.cellCount).fill(null);
    this.#blockOf = new Uint8Array(this.cellCount);
    this.#age = new Uint32Array(this.cellCount);
    this.#next = new Int32Array(this.cellCount + 1).fill(this.cellCount);
    this.#previous = new Int32Array(this.cellCount + 1).fill(this.cellCount);
  }

  /** The bytes of a cell. Only its holder may write them, and nobody once it is cached. */
  bytes(cell: number): Uint8Array {
    const view = this.#views[cell];
    if (view !== undefined) return view;
    const made = new Uint8Array(this.memory, cell * BLOCK_BYTES, BLOCK_BYTES);
    this.#views[cell] = made;
    return made;
  }

  /** Cells that can be had at once. */
  get availableCount(): number {
    return this.#free.length + this.#evictable + (this.cellCount - this.#untouched);
  }

  /** Cells that hold a cached block. */
  get cachedCount(): number {
    return this.#cached;
  }

  /** `count` cells, pinned once for the caller, or null when there are not so many, or others wait. */
  tryTake(count: number): number[] | null {
    if (this.#waiters.length > 0 || this.availableCount < count) return null;
    const cells = new Array<number>(count);
    for (let i = 0; i < count; i++) cells[i] = this.#takeOne();
    return cells;
  }

  /** `count` cells, pinned once for the caller, as soon as there are so many at once: holding some while waiting for others could deadlock. */
  take(count: number): Promise<number[]> {
    if (count > this.cellCount) throw new RangeError(`arena: expected at most ${this.cellCount} cells, got ${count}`);
    const cells = this.tryTake(count);
    if (cells !== null) return Promise.resolve(cells);
    return new Promise((resolve) => this.#waiters.push({ count, resolve }));
  }

  /** The cell that caches a block, or -1; the block becomes the most recently used. The caller pins it before it awaits anything. */
  find(chunkKey: string, block: number): number {
    const chunk = this.#chunks.get(chunkKey);
    if (chunk === undefined) return NONE;
    const cell = chunk.cells[block] ?? NONE;
    if (cell !== NONE && this.#pins[cell] === 0) {
      this.#unlink(cell);
      this.#linkFirst(cell);
    }
    return cell;
  }

  pin(cell: number): void {
    const pins = this.#pins[cell] as number;
    if (pins === 0 && this.#chunkOf[cell] !== null) {
      this.#unlink(cell);
      this.#evictable--;
    }
    this.#pins[cell] = pins + 1;
  }

  /** Gives up one pin. The last one makes a cached cell evictable, another one free. */
  unpin(cell: number): void {
    const pins = this.#pins[cell] as number;
    if (pins === 0) throw new Error(`arena: cell ${cell} is not pinned`);
    this.#pins[cell] = pins - 1;
    if (pins > 1) return;
    if (this.#chunkOf[cell] !== null) {
      this.#linkFirst(cell);
      this.#evictable++;
    } else {
      this.#setFree(cell);
    }
    if (this.#waiters.length > 0) this.#serveWaiters();
  }

  unpinAll(cells: readonly number[]): void {
    for (const cell of cells) this.unpin(cell);
  }

  /** Makes a pinned cell findable as block `block` of a chunk with `blockCount` blocks. A block that is cached already stays where it is. */
  publish(cell: number, chunkKey: string, block: number, blockCount: number): void {
    if (this.#pins[cell] === 0) throw new Error(`arena: cell ${cell} is published by nobody who holds it`);
    let chunk = this.#chunks.get(chunkKey);
    if (chunk === undefined) {
      chunk = { key: chunkKey, cells: new Int32Array(blockCount).fill(NONE), count: 0 };
      this.#chunks.set(chunkKey, chunk);
    }
    if (chunk.cells[block] !== NONE) return;
    chunk.cells[block] = cell;
    chunk.count++;
    this.#cached++;
    this.#chunkOf[cell] = chunk;
    this.#blockOf[cell] = block;
    this.#age[cell] = this.#now;
  }

  #takeOne(): number {
    let cell = this.#free.pop();
    if (cell === undefined) {
      if (this.#untouched < this.cellCount) {
        cell = this.#untouched++;
      } else {
        cell = this.#previous[this.cellCount] as number;
        this.#evict(cell);
        this.evictions++;
      }
    }
    this.#pins[cell] = 1;
    return cell;
  }

  /** Empties the cache. Blocks that somebody has pinned can't be found any more, and go when they are unpinned. Returns how many there were. */
  wipe(): number {
    const count = this.#cached;
    for (let cell = 0; cell < this.#untouched; cell++) {
      if (this.#chunkOf[cell] === null) continue;
      if (this.#pins[cell] === 0) {
        this.#evict(cell);
        this.#setFree(cell);
      } else {
        this.#forget(cell);
      }
    }
    return count;
  }

  /** A pinned cell is not to be found any more: its holder is the last one to read it. Nothing happens where it is not cached. */
  forget(cell: number): void {
    if (this.#pins[cell] === 0) throw new Error(`arena: cell ${cell} is forgotten by nobody who holds it`);
    if (this.#chunkOf[cell] !== null) this.#forget(cell);
  }

  /** Forgets what was published before the last call of this and is not pinned. */
  forgetStale(): void {
    for (let cell = 0; cell < this.#untouched; cell++) {
      if (this.#chunkOf[cell] === null || this.#pins[cell] !== 0 || this.#age[cell] === this.#now) continue;
      this.#evict(cell);
      this.#setFree(cell);
    }
    this.#now++;
  }

  #evict(cell: number): void {
    this.#unlink(cell);
    this.#evictable--;
    this.#forget(cell);
  }

  #setFree(cell: number): void {
    this.bytes(cell).fill(0);
    this.#free.push(cell);
  }

  #forget(cell: number): void {
    const chunk = this.#chunkOf[cell];
    if (chunk === null || chunk === undefined) throw new Error("arena: nothing to evict");
    this.#chunkOf[cell] = null;
    this.#cached--;
    chunk.cells[this.#blockOf[cell] as number] = NONE;
    if (--chunk.count === 0) this.#chunks.delete(chunk.key);
  }

  #serveWaiters(): void {
    for (let waiter = this.#waiters[0]; waiter !== undefined && this.availableCount >= waiter.count; waiter = this.#waiters[0]) {
      this.#waiters.shift();
      const cells = new Array<number>(waiter.count);
      for (let i = 0; i < waiter.count; i++) cells[i] = this.#takeOne();
      waiter.resolve(cells);
    }
  }

  #linkFirst(cell: number): void {
    const head = this.cellCount;
    const first = this.#next[head] as number;
    this.#next[cell] = first;
    this.#previous[cell] = head;
    this.#previous[first] = cell;
    this.#next[head] = cell;
  }

  #unlink(cell: number): void {
    const next = this.#next[cell] as number;
    const previous = this.#previous[cell] as number;
    this.#next[previous] = next;
    this.#previous[next] = previous;
  }
}
