import { expect, test } from "bun:test";
import fc from "fast-check";
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import { ChunkIndex } from "./chunk-index.ts";

/** An id as HMAC would make it: every bit depends on `n`. */
function idOf(n: number): Uint8Array {
  return new Uint8Array(new Bun.CryptoHasher("sha256").update(String(n)).digest());
}

test("a chunk is found by its whole id, with what was noted about it", () => {
  const index = new ChunkIndex();
  const id = idOf(1);
  const slot = index.add(id, 3 * BLOCK_BYTES - 1);
  expect(index.find(id)).toBe(slot);
  expect(index.id(slot)).toEqual(id);
  expect(index.bytes(slot)).toBe(3 * BLOCK_BYTES - 1);
  expect(index.blockCount(slot)).toBe(3);
  for (let i = 0; i < 32; i++) {
    const other = Uint8Array.from(id);
    other[i] = (other[i] as number) ^ 1;
    expect(index.find(other)).toBe(-1);
  }
  // An id that stands anywhere in a larger buffer.
  const padded = new Uint8Array(40);
  padded.set(id, 3);
  expect(index.find(padded.subarray(3, 35))).toBe(slot);
  expect(() => index.find(id.subarray(1))).toThrow(RangeError);
  expect(() => index.add(id, 1)).toThrow("already");
  expect(() => index.add(idOf(2), 0)).toThrow(RangeError);
  expect(() => index.add(idOf(2), CHUNK_MAX_BYTES + 1)).toThrow(RangeError);
});

test("blocks are there one by one; the last one may be short", () => {
  const index = new ChunkIndex();
  const slot = index.add(idOf(1), CHUNK_MAX_BYTES - 100);
  expect(index.isComplete(slot)).toBe(false);
  index.setBlock(slot, 63, 0xffffffff);
  index.setBlock(slot, 31, 7);
  index.setBlock(slot, 32, 0);
  expect(index.storedBytes(slot)).toBe(3 * BLOCK_BYTES - 100);
  expect(index.hasBlocks(slot, 31, 2)).toBe(true);
  expect(index.hasBlocks(slot, 31, 3)).toBe(false);
  expect(index.blockCrc(slot, 63)).toBe(0xffffffff);
  expect(() => index.blockCrc(slot, 0)).toThrow("not there");
  expect(() => index.setBlock(slot, 64, 1)).toThrow(RangeError);
  expect(() => index.hasBlocks(slot, 63, 2)).toThrow(RangeError);
  for (let block = 0; block < 64; block++) index.setBlock(slot, block, block);
  expect(index.isComplete(slot)).toBe(true);
  expect(index.totalBytes).toBe(CHUNK_MAX_BYTES - 100);
  index.clearBlock(slot, 63);
  expect(index.totalBytes).toBe(63 * BLOCK_BYTES);
});

test("a slot that is held is not used again before it is released", () => {
  const index = new ChunkIndex();
  const slot = index.add(idOf(1), 2 * BLOCK_BYTES);
  index.setBlock(slot, 1, 42);
  index.hold(slot);
  index.hold(slot);
  index.remove(slot);
  expect(index.find(idOf(1))).toBe(-1);
  expect(index.size).toBe(0);
  expect(index.totalBytes).toBe(0);
  expect([...index.entries()]).toEqual([]);
  // Its reader can still check what it read, and sees that it may have read what was being wiped.
  expect(index.blockCrc(slot, 1)).toBe(42);
  expect(index.isRemoved(slot)).toBe(true);
  expect(() => index.remove(slot)).toThrow("removed before");
  const again = index.add(idOf(1), 2 * BLOCK_BYTES);
  expect(again).not.toBe(slot);
  index.release(slot);
  expect(index.isHeld(slot)).toBe(true);
  index.release(slot);
  expect(() => index.bytes(slot)).toThrow("free");
  expect(index.add(idOf(2), 1)).toBe(slot);
  expect(() => index.release(slot)).toThrow("not held");
});

interface Model {
  bytes: number;
  slot: number;
  pinned: boolean;
  image: number;
  crcs: Map<number, number>;
}

test("whatever is done in whatever order, the index says what a map of objects would", () => {
  // Ids that share all bits which the hash table looks at first collide as much as ids can.
  const ids = Array.from({ length: 40 }, (_, n) => {
    const id = idOf(n);
    if (n % 2 === 0) id.fill(0, 0, 8);
    return id;
  });
  const step = fc.tuple(fc.nat(7), fc.nat(ids.length - 1), fc.nat(2 ** 30));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const index = new ChunkIndex();
      const model = new Map<number, Model>();
      for (const [what, n, random] of steps) {
        const id = ids[n] as Uint8Array;
        const entry = model.get(n);
        if (entry === undefined) {
          const bytes = [1, BLOCK_BYTES, BLOCK_BYTES + 1, 33 * BLOCK_BYTES, (random % CHUNK_MAX_BYTES) + 1][random % 5] as number;
          model.set(n, { bytes, slot: index.add(id, bytes), pinned: false, image: 0, crcs: new Map() });
          continue;
        }
        const block = random % Math.ceil(entry.bytes / BLOCK_BYTES);
        if (what === 0) {
          index.remove(entry.slot);
          model.delete(n);
        } else if (what === 1) {
          index.clearBlock(entry.slot, block);
          entry.crcs.delete(block);
        } else if (what === 2) {
          entry.pinned = random % 2 === 0;
          index.setPinned(entry.slot, entry.pinned);
        } else if (what === 3) {
          entry.image = random;
          index.setPlace(entry.slot, random, random);
        } else {
          index.setBlock(entry.slot, block, random);
          entry.crcs.set(block, random);
        }
      }
      expect(index.size).toBe(model.size);
      expect([...index.entries()].sort()).toEqual([...model.values()].map(({ slot }) => slot).sort());
      let total = 0;
      ids.forEach((id, n) => {
        const entry = model.get(n);
        expect(index.find(id)).toBe(entry?.slot ?? -1);
        if (entry === undefined) return;
        const { slot, bytes, crcs } = entry;
        const blocks = Math.ceil(bytes / BLOCK_BYTES);
        let stored = 0;
        for (let block = 0; block < blocks; block++) {
          expect(index.hasBlocks(slot, block, 1)).toBe(crcs.has(block));
          if (!crcs.has(block)) continue;
          expect(index.blockCrc(slot, block)).toBe(crcs.get(block) as number);
          stored += Math.min(BLOCK_BYTES, bytes - block * BLOCK_BYTES);
        }
        expect(index.id(slot)).toEqual(id);
        expect(index.bytes(slot)).toBe(bytes);
        expect(index.storedBytes(slot)).toBe(stored);
        expect(index.isComplete(slot)).toBe(stored === bytes);
        expect(index.pinned(slot)).toBe(entry.pinned);
        expect(index.place(slot)).toEqual({ image: entry.image, firstBlock: entry.image });
        total += stored;
      });
      expect(index.totalBytes).toBe(total);
    }),
  );
});

test("many chunks: all are found while the tables split, and after every second one is gone", () => {
  const index = new ChunkIndex();
  const count = 50_000;
  const slots = Array.from({ length: count }, (_, n) => index.add(idOf(n), BLOCK_BYTES * (1 + (n % 3))));
  for (let n = 0; n < count; n += 2) index.remove(slots[n] as number);
  for (let n = 0; n < count; n++) expect(index.find(idOf(n))).toBe(n % 2 === 0 ? -1 : (slots[n] as number));
  const before = index.memoryBytes;
  for (let n = 0; n < count; n += 2) index.add(idOf(n), BLOCK_BYTES);
  expect(index.size).toBe(count);
  // Slots and positions are used again.
  expect(index.memoryBytes).toBeLessThan(before * 1.1);
});
