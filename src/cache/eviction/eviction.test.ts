import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { BLOCK_BYTES, CHUNK_MAX_BYTES, MIB } from "../../protocol/limits.ts";
import { ChunkIndex } from "../index/chunk-index.ts";
import { Eviction } from "./eviction.ts";
import { best, idOf, lru, rounds, SimulatedPool, traces } from "./test-eviction.ts";

/** An index of `count` chunks of one block, numbered from `first`. */
function filled(index: ChunkIndex, count: number, first = 0): number[] {
  return Array.from({ length: count }, (_, i) => {
    const slot = index.add(idOf(first + i), BLOCK_BYTES);
    index.setBlock(slot, 0, 0);
    return slot;
  });
}

/** Takes out `count` victims, in their order. */
function evict(index: ChunkIndex, eviction: Eviction, count: number): number[] {
  return Array.from({ length: count }, () => {
    const slot = eviction.victim();
    if (slot >= 0) index.remove(slot);
    return slot;
  });
}

describe("hit ratios, on one trace after the other", () => {
  for (const trace of traces(400)) {
    test(trace.name, () => {
      const reads = trace.chunks.length;
      const [ours, plain, optimum] = [rounds(trace), lru(trace), best(trace)];
      expect(optimum.hits).toBeGreaterThanOrEqual(ours.hits);
      // Where an LRU is as good as it gets (a dataset that fits), ours needs one more pass to see that.
      expect(ours.hits / reads).toBeGreaterThan(plain.hits / reads - 0.04);
      expect(ours.insertions).toBeLessThanOrEqual(plain.insertions * 1.2);
      if (trace.name.startsWith("Zipf")) expect(ours.hits).toBeGreaterThan(plain.hits);
      if (trace.name.startsWith("loop")) expect(ours.hits).toBeGreaterThan(0.9 * optimum.hits);
      if (trace.name.startsWith("shuffled")) expect(ours.hits).toBeGreaterThan(0.85 * optimum.hits);
      if (trace.name.startsWith("hot")) expect(ours.hits).toBeGreaterThan(0.97 * optimum.hits);
    });
  }
});

test("a scan of a hundred times the pool leaves the hot set where it is, and little of it is written to the disk", () => {
  const pool = new SimulatedPool(1000 * BLOCK_BYTES);
  for (let pass = 0; pass < 3; pass++) for (let chunk = 0; chunk < 800; chunk++) pool.read(chunk);
  const before = pool.insertedBytes;
  for (let i = 0; i < 100_000; i++) pool.read(1e6 + i);
  expect(pool.insertedBytes - before).toBeLessThan(0.15 * 100_000 * BLOCK_BYTES);
  let there = 0;
  for (let chunk = 0; chunk < 800; chunk++) if (pool.read(chunk)) there++;
  expect(there).toBe(800);
});

test("bytes count, not chunks: large ones in small requests and small ones push each other's hot set out as little", () => {
  for (const [hot, once] of [
    [BLOCK_BYTES, CHUNK_MAX_BYTES],
    [CHUNK_MAX_BYTES, BLOCK_BYTES],
    [CHUNK_MAX_BYTES, CHUNK_MAX_BYTES - 5],
  ] as const) {
    const pool = new SimulatedPool(512 * MIB);
    const count = (0.7 * 512 * MIB) / hot;
    for (let pass = 0; pass < 3; pass++) for (let chunk = 0; chunk < count; chunk++) pool.read(chunk, hot, 16);
    for (let read = 0; read < 3 * 512 * MIB; read += once) pool.read(1e6 + read, once, 16);
    expect(pool.index.totalBytes).toBeLessThanOrEqual(512 * MIB);
    pool.hitBytes = 0;
    for (let chunk = 0; chunk < count; chunk++) pool.read(chunk, hot, 16);
    expect(pool.hitBytes).toBeGreaterThan(0.97 * 0.7 * 512 * MIB);
  }
});

test("while there is room, everything comes in", () => {
  const pool = new SimulatedPool(300 * BLOCK_BYTES);
  for (let chunk = 0; chunk < 300; chunk++) pool.read(chunk);
  for (let chunk = 0; chunk < 300; chunk++) expect(pool.read(chunk)).toBe(true);
});

test("who was read more often goes later; among equals, who came first goes first", () => {
  const index = new ChunkIndex();
  const eviction = new Eviction(index);
  const slots = filled(index, 64);
  slots.forEach((slot, i) => {
    for (let n = 0; n < i % 8; n++) eviction.onRead(slot, 1);
  });
  const expected = slots.map((slot, i) => ({ slot, i })).sort((a, b) => (a.i % 8) - (b.i % 8) || a.i - b.i);
  expect(evict(index, eviction, 64)).toEqual(expected.map(({ slot }) => slot));
  expect(eviction.victim()).toBe(-1);
});

test("a chunk that was read N times outlives N rounds", () => {
  const count = 256;
  for (const reads of [0, 1, 3, 7, 12]) {
    const index = new ChunkIndex();
    const eviction = new Eviction(index);
    for (const slot of filled(index, count)) for (let n = 0; n < reads; n++) eviction.onRead(slot, 1);
    eviction.victim();
    let missed = 0;
    const outlived: boolean[] = [];
    for (let round = 0; round < reads + 6; round++) {
      // A round is over when as much as the pool holds was missed. A stranger is asked for twice in it, and so is worth something.
      const stranger = idOf(1e7 + round);
      for (let i = 1; i < count - 1; i++) {
        const id = i === 5 || i === 250 ? stranger : idOf(1e6 + missed++);
        eviction.onMiss(id, BLOCK_BYTES, BLOCK_BYTES);
      }
      outlived.push(!eviction.admits(stranger, BLOCK_BYTES));
      for (let i = 0; i < 2; i++) eviction.onMiss(idOf(1e6 + missed++), BLOCK_BYTES, BLOCK_BYTES);
    }
    expect(outlived.lastIndexOf(true)).toBeGreaterThanOrEqual(reads);
    expect(outlived.lastIndexOf(true)).toBeLessThan(reads + 4);
    expect(outlived.slice(0, reads + 1)).not.toContain(false);
  }
});

test("reading a chunk in several requests is one use of it", () => {
  const index = new ChunkIndex();
  const eviction = new Eviction(index);
  const add = (n: number): number => {
    const slot = index.add(idOf(n), CHUNK_MAX_BYTES);
    for (let block = 0; block < 64; block++) index.setBlock(slot, block, 0);
    return slot;
  };
  const inPieces = add(1);
  const twice = add(2);
  for (let i = 0; i < 64; i++) eviction.onRead(inPieces, 1);
  eviction.onRead(twice, 64);
  eviction.onRead(twice, 64);
  const never = add(3);
  expect(evict(index, eviction, 3)).toEqual([never, inPieces, twice]);
});

test("requests for the same chunk get the same answer, until it is used again", () => {
  const index = new ChunkIndex();
  const eviction = new Eviction(index);
  for (const slot of filled(index, 1024)) eviction.onRead(slot, 1);
  eviction.victim();
  for (let n = 0; n < 100; n++) {
    const answers = Array.from({ length: 4 }, () => {
      eviction.onMiss(idOf(1e6 + n), 16 * BLOCK_BYTES, CHUNK_MAX_BYTES);
      return eviction.admits(idOf(1e6 + n), CHUNK_MAX_BYTES);
    });
    expect(new Set(answers).size).toBe(1);
  }
});

test("a chunk of which a part is there gets its other blocks when there is something lesser", () => {
  const index = new ChunkIndex();
  const eviction = new Eviction(index);
  const slots = filled(index, 300);
  const part = index.add(idOf(1e6), 4 * BLOCK_BYTES);
  index.setBlock(part, 2, 0);
  eviction.victim();
  eviction.onMiss(idOf(1e6), BLOCK_BYTES, 4 * BLOCK_BYTES);
  expect(eviction.admits(idOf(1e6), BLOCK_BYTES)).toBe(false);
  eviction.onRead(part, 1);
  eviction.onMiss(idOf(1e6), BLOCK_BYTES, 4 * BLOCK_BYTES);
  expect(eviction.admits(idOf(1e6), BLOCK_BYTES)).toBe(true);
  for (const slot of slots) eviction.onRead(slot, 1);
  expect(eviction.admits(idOf(1e6), BLOCK_BYTES)).toBe(false);
});

test("what is pinned or held is never a victim, also when that is all there is", () => {
  const index = new ChunkIndex();
  const slots = filled(index, 10);
  for (const slot of slots.slice(0, 4)) index.setPinned(slot, true);
  const eviction = new Eviction(index);
  for (const slot of slots.slice(4, 8)) index.hold(slot);
  expect(evict(index, eviction, 3)).toEqual([slots[8] as number, slots[9] as number, -1]);
  index.setPinned(slots[0] as number, false);
  index.release(slots[5] as number);
  expect(evict(index, eviction, 3).sort()).toEqual([slots[0], slots[5], -1].map(Number).sort());
});

test("after any number of rounds without an eviction the order still holds, and history does not grow", () => {
  const index = new ChunkIndex();
  const eviction = new Eviction(index);
  const slots = filled(index, 300);
  eviction.victim();
  const memory = eviction.memoryBytes;
  for (let miss = 0; miss < 100_000; miss++) {
    eviction.onMiss(idOf(1e6 + miss), BLOCK_BYTES, BLOCK_BYTES);
    if (miss % 10 === 0) eviction.onRead(slots[299] as number, 1);
  }
  expect(eviction.memoryBytes).toBe(memory);
  const order = evict(index, eviction, 300);
  expect(new Set(order)).toEqual(new Set(slots));
  expect(order.at(-1)).toBe(slots[299] as number);
});

test("whatever happens in whatever order, a victim is a chunk that may go, and there is one while there is such a chunk", () => {
  const step = fc.tuple(fc.nat(9), fc.nat(30), fc.nat(2 ** 20));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
      const index = new ChunkIndex();
      const eviction = new Eviction(index);
      const model = new Map<number, { slot: number; pinned: boolean; held: number }>();
      const removed: number[] = [];
      const mayGo = (): number[] => [...model.values()].filter(({ pinned, held }) => !pinned && held === 0).map(({ slot }) => slot);
      for (const [what, n, random] of steps) {
        const entry = model.get(n);
        if (what === 0) {
          eviction.onMiss(idOf(n), random + 1, 3 * BLOCK_BYTES);
          eviction.admits(idOf(n), random + 1);
        } else if (what === 1) {
          const slot = eviction.victim();
          const candidates = mayGo();
          if (candidates.length === 0) expect(slot).toBe(-1);
          else expect(candidates).toContain(slot);
          if (slot < 0 || random % 2 === 0) continue;
          index.remove(slot);
          for (const [key, value] of model) if (value.slot === slot) model.delete(key);
        } else if (entry === undefined) {
          const slot = index.add(idOf(n), (random % (3 * BLOCK_BYTES)) + 1);
          model.set(n, { slot, pinned: false, held: 0 });
        } else if (what === 2) {
          entry.held++;
          index.hold(entry.slot);
        } else if (what === 3 && entry.held > 0) {
          entry.held--;
          index.release(entry.slot);
        } else if (what === 4) {
          entry.pinned = random % 2 === 0;
          index.setPinned(entry.slot, entry.pinned);
        } else if (what === 5) {
          index.remove(entry.slot);
          for (let i = 0; i < entry.held; i++) removed.push(entry.slot);
          model.delete(n);
        } else if (what === 6) {
          index.clearBlock(entry.slot, 0);
        } else if (what === 7) {
          index.setBlock(entry.slot, index.blockCount(entry.slot) - 1, random);
        } else {
          eviction.onRead(entry.slot, (random % index.blockCount(entry.slot)) + 1);
        }
        const late = removed.pop();
        if (late !== undefined) index.release(late);
      }
      for (const entry of model.values()) {
        index.setPinned(entry.slot, false);
        for (; entry.held > 0; entry.held--) index.release(entry.slot);
      }
      expect(new Set(evict(index, eviction, model.size))).toEqual(new Set([...model.values()].map(({ slot }) => slot)));
      expect(eviction.victim()).toBe(-1);
      expect(index.totalBytes).toBe(0);
    }),
  );
});
