import { expect, test } from "bun:test";
import fc from "fast-check";
import { BACKOFF_FIRST_MS, BACKOFF_MAX_MS, backoffMs } from "./backoff.ts";

test("the first attempt is soon, none waits beyond the limit, and no two clients agree", () => {
  expect(backoffMs(0, () => 0.999)).toBeLessThan(BACKOFF_FIRST_MS);
  expect(backoffMs(3, () => 0)).toBe(0);
  fc.assert(
    fc.property(fc.nat(), fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), (attempt, random) => {
      expect(backoffMs(attempt, () => random)).toBeLessThanOrEqual(BACKOFF_MAX_MS);
    }),
  );
});
