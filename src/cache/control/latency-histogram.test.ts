import { expect, test } from "bun:test";
import fc from "fast-check";
import { LATENCY_BOUNDS_SECONDS, LatencyHistogram, latencyQuantile } from "./latency-histogram.ts";

test("each observation is counted in the first bucket whose bound is not below it", () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e7, noNaN: true }), (us) => {
      const histogram = new LatencyHistogram();
      histogram.observe(us / 1_000);
      const bucket = LATENCY_BOUNDS_SECONDS.findIndex((bound) => us / 1_000 <= bound * 1_000);
      expect(histogram.snapshot().counts.indexOf(1)).toBe(bucket);
    }),
  );
});

test("bounds belong to their bucket, and what is longer than all of them to the last", () => {
  const histogram = new LatencyHistogram();
  for (const ms of [0, 0.001, 0.002, 0.0021, 2 ** 26 / 1_000, 2 ** 26 / 1_000 + 1, 1e12]) histogram.observe(ms);
  const { counts, count } = histogram.snapshot();
  expect(counts.slice(0, 3)).toEqual([2, 1, 1]);
  expect(counts.slice(-2)).toEqual([1, 2]);
  expect(counts).toHaveLength(LATENCY_BOUNDS_SECONDS.length + 1);
  expect(count).toBe(7);
});

test("the sum is in seconds", () => {
  const histogram = new LatencyHistogram();
  histogram.observe(1_500);
  histogram.observe(500);
  expect(histogram.snapshot().sumSeconds).toBe(2);
});

test("a quantile is the bound below which that share lies", () => {
  const histogram = new LatencyHistogram();
  expect(latencyQuantile(histogram.snapshot(), 0.5)).toBeNull();
  for (let i = 0; i < 99; i++) histogram.observe(0.003);
  histogram.observe(1e12);
  expect(latencyQuantile(histogram.snapshot(), 0.5)).toBe(4e-6);
  expect(latencyQuantile(histogram.snapshot(), 0.99)).toBe(4e-6);
  expect(latencyQuantile(histogram.snapshot(), 1)).toBe(Number.POSITIVE_INFINITY);
});
