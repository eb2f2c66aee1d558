import { expect, test } from "bun:test";
import { ReadOnce } from "./read-once.ts";

test("a chunk that is read through is new to the end; what is read again is not", () => {
  const reads = new ReadOnce();
  expect([0, 10, 20].map((offset) => reads.isFirst("a", offset, offset + 10))).toEqual([true, true, true]);
  expect(reads.isFirst("b", 0, 30)).toBe(true);
  expect([0, 10, 20, 30].map((offset) => reads.isFirst("a", offset, offset + 10))).toEqual([false, false, false, true]);
});

test("what was read long ago is forgotten", () => {
  const reads = new ReadOnce();
  for (let i = 0; i < 10_000; i++) reads.isFirst(`chunk ${i}`, 0, 10);
  expect(reads.isFirst("chunk 9999", 0, 10)).toBe(false);
  expect(reads.isFirst("chunk 0", 0, 10)).toBe(true);
});
