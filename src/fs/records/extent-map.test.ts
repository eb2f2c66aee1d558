import { expect, test } from "bun:test";
import fc from "fast-check";
import { ExtentMap } from "./extent-map.ts";

const SIZE = 200;

interface Step {
  start: number;
  length: number;
  source: number | null;
}

/** What each byte should be: [source, offset in it] as one number, or 0 for a hole. */
function readBack(map: ExtentMap<number>, start: number, end: number): number[] {
  const bytes: number[] = [];
  map.visit(start, end, (from, to, extent) => {
    for (let position = from; position < to; position++) {
      bytes.push(extent === null ? 0 : extent.source * 10_000 + extent.offset + (position - extent.start));
    }
  });
  return bytes;
}

const step = fc.record({
  start: fc.nat(SIZE - 1),
  length: fc.integer({ min: 0, max: 60 }),
  source: fc.option(fc.integer({ min: 1, max: 4 }), { nil: null }),
});

function apply(map: ExtentMap<number>, model: number[], { start, length, source }: Step, offset: number): void {
  const end = Math.min(start + length, SIZE);
  if (source === null) map.clear(start, end);
  else map.set(start, end, source, offset);
  for (let position = start; position < end; position++)
    model[position] = source === null ? 0 : source * 10_000 + offset + (position - start);
}

test("random sets and clears read back as an array of bytes would", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(step, fc.nat(300)), { maxLength: 60 }), fc.nat(SIZE), fc.nat(SIZE), (steps, a, b) => {
      const map = new ExtentMap<number>();
      const model = new Array<number>(SIZE).fill(0);
      for (const [one, offset] of steps) apply(map, model, one, offset);
      const [from, to] = a < b ? [a, b] : [b, a];
      expect(readBack(map, from, to)).toEqual(model.slice(from, to));
      expect(map.coveredBytes).toBe(model.filter((value) => value !== 0).length);
      let last = 0;
      for (const extent of map.extents) {
        expect(extent.start).toBeGreaterThanOrEqual(last);
        expect(extent.end).toBeGreaterThan(extent.start);
        last = extent.end;
      }
    }),
    { numRuns: 500 },
  );
});

test("overlay equals replaying the upper map's steps", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), fc.array(step, { maxLength: 20 }), (below, above) => {
      const lower = new ExtentMap<number>();
      const model = new Array<number>(SIZE).fill(0);
      for (const one of below) apply(lower, model, one, 7);
      const upper = new ExtentMap<number>();
      for (const one of above) {
        if (one.source === null) continue;
        upper.set(one.start, Math.min(one.start + one.length, SIZE), one.source, 9);
        apply(new ExtentMap<number>(), model, one, 9);
      }
      const merged = lower.clone();
      merged.overlay(upper);
      expect(readBack(merged, 0, SIZE)).toEqual(model);
    }),
  );
});

test("a run written in order is one extent", () => {
  const map = new ExtentMap<string>();
  for (let i = 0; i < 10; i++) map.set(i * 4, i * 4 + 4, "segment", i * 4);
  expect(map.extents.length).toBe(1);
  // Filling a gap joins both sides.
  map.clear(8, 12);
  map.set(8, 12, "segment", 8);
  expect(map.extents.length).toBe(1);
});
