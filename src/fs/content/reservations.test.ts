import { expect, test } from "bun:test";
import fc from "fast-check";
import type { Inode } from "../inodes/inode.ts";
import { Reservations } from "./reservations.ts";

const BLOCK = 64 * 1024;
const SIZES = { blockBytes: 70_000, onceBytes: 1_000_000 };
const file = (): Inode => ({ reservedBytes: 0 }) as Inode;

test("what is set aside is counted once, and less when it is written or cut", () => {
  const all = new Reservations(SIZES);
  const [one, two] = [file(), file()];
  expect([all.owedBytes, all.owedForMore(BLOCK)]).toEqual([0, 1_070_000]);
  all.add(one, 0, 10 * BLOCK);
  all.add(one, 5 * BLOCK, 20 * BLOCK);
  all.add(two, 0, BLOCK);
  expect([one.reservedBytes, two.reservedBytes, all.owedBytes]).toEqual([20 * BLOCK, BLOCK, 21 * 70_000 + 1_000_000]);
  expect(all.owedForMore(BLOCK)).toBe(70_000);
  expect([all.missingIn(one, 0, 25 * BLOCK), all.missingIn(two, 0, 25 * BLOCK)]).toEqual([5 * BLOCK, 24 * BLOCK]);
  // For a write there, its share and what is set aside once.
  expect([all.owedIn(one, 19 * BLOCK, 3 * BLOCK), all.owedIn(one, 20 * BLOCK, BLOCK), all.owedIn(one, 2n ** 60n, 1)]).toEqual([
    1_070_000, 0, 0,
  ]);
  all.remove(one, 0, 20 * BLOCK);
  all.remove(two, BLOCK / 2, 2n ** 62n);
  expect([one.reservedBytes, two.reservedBytes]).toEqual([0, BLOCK / 2]);
  all.drop(two);
  expect([two.reservedBytes, all.owedBytes]).toEqual([0, 0]);
});

test("any order of setting aside and writing counts as a set of bytes does", () => {
  const range = fc.tuple(fc.nat(200), fc.integer({ min: 1, max: 60 }));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), range), { maxLength: 60 }), (steps) => {
      const all = new Reservations(SIZES);
      const inode = file();
      const bytes = new Set<number>();
      for (const [adds, [start, length]] of steps) {
        for (let at = start; at < start + length; at++) adds ? bytes.add(at) : bytes.delete(at);
        if (adds) all.add(inode, start, start + length);
        else all.remove(inode, start, start + length);
        expect(inode.reservedBytes).toBe(bytes.size);
        expect(all.missingIn(inode, 0, 300)).toBe(300 - bytes.size);
      }
    }),
  );
});

test("a file with very many ranges keeps what is written into their middle set aside", () => {
  const all = new Reservations(SIZES);
  const inode = file();
  all.add(inode, 0, 100_000_000);
  for (let i = 0; i < 5_000; i++) all.remove(inode, i * 10_000 + 5_000, i * 10_000 + 6_000);
  expect(inode.reservedBytes).toBe(100_000_000 - 4_095 * 1_000);
  all.remove(inode, 0, 100_000_000);
  expect([inode.reservedBytes, all.owedBytes]).toEqual([0, 0]);
});
