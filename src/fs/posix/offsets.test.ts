import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  addOffset,
  distance,
  FILE_MAX_BYTES,
  offsetInRegion,
  REGION_BYTES,
  regionOf,
  regionSpans,
  toOffset,
  withinRegion,
} from "./offsets.ts";

const position = fc.bigInt({ min: 0n, max: FILE_MAX_BYTES }).map(toOffset);

test("a position is its region and the place in it, up to 8 EiB - 1", () => {
  fc.assert(
    fc.property(position, (offset) => {
      expect(offsetInRegion(regionOf(offset), withinRegion(offset))).toBe(offset);
    }),
  );
});

test("addition is exact and ends at 8 EiB - 1", () => {
  fc.assert(
    fc.property(position, fc.nat(), (offset, more) => {
      const exact = BigInt(offset) + BigInt(more);
      if (exact > FILE_MAX_BYTES) expect(() => addOffset(offset, more)).toThrow("EFBIG");
      else expect(BigInt(addOffset(offset, more))).toBe(exact);
    }),
  );
  expect(addOffset(Number.MAX_SAFE_INTEGER, 2)).toBe(2n ** 53n + 1n);
});

test("distance is capped and never negative", () => {
  expect(distance(0, FILE_MAX_BYTES, 1000)).toBe(1000);
  expect(distance(FILE_MAX_BYTES - 5n, FILE_MAX_BYTES, 1000)).toBe(5);
  expect(distance(9, 3, 1000)).toBe(0);
});

test("spans tile the range", () => {
  fc.assert(
    fc.property(position, fc.nat(3 * REGION_BYTES), (offset, length) => {
      let sum = 0;
      for (const span of regionSpans(offset, length)) {
        expect(span.start).toBe(sum === 0 ? withinRegion(offset) : 0);
        expect(span.end).toBeLessThanOrEqual(REGION_BYTES);
        sum += span.end - span.start;
      }
      expect(sum).toBe(length);
    }),
  );
});
