/**
 * For tests and benchmarks of eviction: traces of chunk reads, and what LRU, 2Q, S3-FIFO, W-TinyLFU and the best possible
 * (Belady's MIN, which knows the future) make of them. All chunks are one block here, so a cache holds a number of chunks.
 */
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import { ChunkIndex } from "../index/chunk-index.ts";
import { Eviction } from "./eviction.ts";

export interface Trace {
  name: string;
  /** Chunks that fit. */
  capacity: number;
  /** The chunk of each read. */
  chunks: Uint32Array;
}

export interface Outcome {
  hits: number;
  /** Chunks put into the cache: what the disk has to write, and zero again later. */
  insertions: number;
}

export type Policy = (trace: Trace) => Outcome;

/** Random numbers from 0 to 1, the same each time (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function shuffled(count: number, random: () => number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}

/** Draws from `count` chunks, the n-th most popular of which is read 1/n^exponent as often as the first. */
function zipf(count: number, exponent: number, random: () => number): () => number {
  const sums = new Float64Array(count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += 1 / (i + 1) ** exponent;
    sums[i] = sum;
  }
  const order = shuffled(count, random);
  return () => {
    const drawn = random() * sum;
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((sums[middle] as number) < drawn) low = middle + 1;
      else high = middle;
    }
    return order[low] as number;
  };
}

/** What programs do to a cache that holds `capacity` chunks. One-time reads get numbers from ONCE on. */
export function traces(capacity: number): Trace[] {
  const ONCE = 1e7;
  const reads = 100 * capacity;
  const made: Trace[] = [];
  const trace = (name: string, make: (random: () => number) => Iterable<number>): void => {
    made.push({ name, capacity, chunks: Uint32Array.from(make(randomNumbers(made.length + 1))) });
  };
  for (const exponent of [0.7, 0.9, 1.1]) {
    trace(`Zipf ${exponent}`, function* (random) {
      const draw = zipf(10 * capacity, exponent, random);
      for (let i = 0; i < reads; i++) yield draw();
    });
  }
  for (const size of [1.1, 1.5, 2, 4]) {
    trace(`loop of ${size} caches`, function* () {
      for (let i = 0; i < 15 * size * capacity; i++) yield i % Math.floor(size * capacity);
    });
  }
  for (const size of [1.5, 3]) {
    trace(`shuffled epochs of ${size} caches`, function* (random) {
      for (let epoch = 0; epoch < 15; epoch++) yield* shuffled(size * capacity, random);
    });
  }
  trace("hot set, then with a scan of 15 caches", function* (random) {
    const hot = (): number => Math.floor((random() * capacity) / 2);
    for (let i = 0; i < 6 * capacity; i++) yield hot();
    for (let i = 0; i < 20 * capacity; i++) yield i % 4 === 0 ? hot() : ONCE + i;
  });
  trace("hot set of 0.8, scan of 3 caches, in turn", function* (random) {
    for (let turn = 0; turn < 5; turn++) {
      for (let i = 0; i < 3 * capacity; i++) yield Math.floor(random() * 0.8 * capacity);
      for (let i = 0; i < 3 * capacity; i++) yield ONCE + turn * 3 * capacity + i;
    }
  });
  trace("Zipf 0.9 with scans", function* (random) {
    const draw = zipf(10 * capacity, 0.9, random);
    for (let i = 0; i < reads; i++) yield i % 6 < 4 ? draw() : ONCE + i;
  });
  trace("Zipf 0.9, others popular each 30 caches", function* (random) {
    for (let turn = 0; turn < 4; turn++) {
      const draw = zipf(10 * capacity, 0.9, random);
      for (let i = 0; i < 30 * capacity; i++) yield draw();
    }
  });
  trace("a dataset of 0.8 eight times, then another", function* () {
    for (let i = 0; i < 4 * 8 * 0.8 * capacity; i++) yield Math.floor(i / (8 * 0.8 * capacity)) * capacity + (i % (0.8 * capacity));
  });
  trace("a dataset of 0.3 five times, then another", function* () {
    for (let i = 0; i < 40 * 5 * 0.3 * capacity; i++) yield Math.floor(i / (5 * 0.3 * capacity)) * capacity + (i % (0.3 * capacity));
  });
  trace("new chunks, read again soon", function* (random) {
    let newest = 0;
    for (let i = 0; i < reads; i++) {
      if (random() < 0.4) yield newest++;
      else yield Math.max(0, newest - 1 - Math.floor((-Math.log(1 - random()) * capacity) / 2));
    }
  });
  trace("the 0.8 dataset, then a loop of 2, then Zipf 0.9", function* (random) {
    for (let i = 0; i < 6 * 0.8 * capacity; i++) yield i % (0.8 * capacity);
    for (let i = 0; i < 10 * 2 * capacity; i++) yield capacity + (i % (2 * capacity));
    const draw = zipf(10 * capacity, 0.9, random);
    for (let i = 0; i < 30 * capacity; i++) yield 10 * capacity + draw();
  });
  return made;
}

const idBytes = new Map<number, Uint8Array>();
/** A chunk id as HMAC would make it: every bit depends on `chunk`. */
export function idOf(chunk: number): Uint8Array {
  let id = idBytes.get(chunk);
  if (id === undefined) {
    id = new Uint8Array(new Bun.CryptoHasher("sha256").update(String(chunk)).digest());
    idBytes.set(chunk, id);
  }
  return id;
}

/** What DiskCache does with Eviction, for chunks of `bytesOf` bytes. Hits and insertions are counted in bytes. */
export class SimulatedPool {
  readonly index = new ChunkIndex();
  readonly eviction = new Eviction(this.index);
  readonly capacityBytes: number;
  hitBytes = 0;
  readBytes = 0;
  insertedBytes = 0;

  constructor(capacityBytes: number) {
    this.capacityBytes = capacityBytes;
  }

  /** One read of a whole chunk, in requests of up to `requestBlocks` blocks; true: L2 had it. */
  read(chunk: number, bytes: number = BLOCK_BYTES, requestBlocks = 64): boolean {
    const id = idOf(chunk);
    const blocks = Math.ceil(bytes / BLOCK_BYTES);
    let hit = true;
    this.readBytes += bytes;
    for (let first = 0; first < blocks; first += requestBlocks) {
      const count = Math.min(requestBlocks, blocks - first);
      const requestBytes = Math.min(bytes, (first + count) * BLOCK_BYTES) - first * BLOCK_BYTES;
      const slot = this.index.find(id);
      if (slot >= 0 && this.index.hasBlocks(slot, first, count)) {
        this.eviction.onRead(slot, count);
        this.hitBytes += requestBytes;
        continue;
      }
      hit = false;
      this.eviction.onMiss(id, requestBytes, bytes);
      this.#insert(id, bytes, first, count, requestBytes);
    }
    return hit;
  }

  #insert(id: Uint8Array, bytes: number, first: number, count: number, requestBytes: number): void {
    const there = this.index.find(id);
    if (there >= 0) this.index.hold(there);
    let room = true;
    while (room && this.index.totalBytes + requestBytes > this.capacityBytes) {
      const victim = this.eviction.admits(id, requestBytes) ? this.eviction.victim() : -1;
      if (victim < 0) room = false;
      else this.index.remove(victim);
    }
    if (there >= 0) this.index.release(there);
    if (!room) return;
    const slot = there >= 0 ? there : this.index.add(id, bytes);
    for (let block = first; block < first + count; block++) this.index.setBlock(slot, block, block);
    this.insertedBytes += requestBytes;
  }
}

export const rounds: Policy = ({ capacity, chunks }) => {
  const pool = new SimulatedPool(capacity * BLOCK_BYTES);
  for (const chunk of chunks) pool.read(chunk);
  return { hits: pool.hitBytes / BLOCK_BYTES, insertions: pool.insertedBytes / BLOCK_BYTES };
};

/** First key of a map, which iterates in the order of insertion. */
function oldest(map: Map<number, number>): number {
  for (const key of map.keys()) return key;
  throw new Error("empty");
}

export const lru: Policy = ({ capacity, chunks }) => {
  const cached = new Map<number, number>();
  let hits = 0;
  for (const chunk of chunks) {
    if (cached.delete(chunk)) hits++;
    else if (cached.size === capacity) cached.delete(oldest(cached));
    cached.set(chunk, 0);
  }
  return { hits, insertions: chunks.length - hits };
};

/** Belady's MIN, which also leaves out what is needed later than all that is there. */
export const best: Policy = ({ capacity, chunks }) => {
  const nextUse = new Float64Array(chunks.length);
  const seen = new Map<number, number>();
  for (let i = chunks.length - 1; i >= 0; i--) {
    nextUse[i] = seen.get(chunks[i] as number) ?? Number.POSITIVE_INFINITY;
    seen.set(chunks[i] as number, i);
  }
  // The cached chunk that is used last, by a heap of uses; uses are unique, and one that is past is passed over.
  const heap: number[] = [];
  const cached = new Set<number>();
  let hits = 0;
  let insertions = 0;
  chunks.forEach((chunk, i) => {
    const next = nextUse[i] as number;
    if (cached.has(chunk)) {
      hits++;
    } else {
      if (next === Number.POSITIVE_INFINITY) return;
      if (cached.size === capacity) {
        while ((heap[0] as number) <= i) popGreatest(heap);
        const last = heap[0] as number;
        if (last < next) return;
        popGreatest(heap);
        cached.delete(chunks[last] as number);
      }
      insertions++;
      cached.add(chunk);
    }
    if (next === Number.POSITIVE_INFINITY) cached.delete(chunk);
    else pushHeap(heap, next);
  });
  return { hits, insertions };
};

function pushHeap(heap: number[], value: number): void {
  let at = heap.push(value) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if ((heap[parent] as number) >= value) break;
    heap[at] = heap[parent] as number;
    at = parent;
  }
  heap[at] = value;
}

function popGreatest(heap: number[]): void {
  const value = heap.pop() as number;
  if (heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child + 1 < heap.length && (heap[child + 1] as number) > (heap[child] as number)) child++;
    if (child >= heap.length || (heap[child] as number) <= value) break;
    heap[at] = heap[child] as number;
    at = child;
  }
  heap[at] = value;
}
