import { expect, test } from "bun:test";
import { humanBytes, humanCount, humanSeconds, humanShare } from "./quantities.ts";

test.each([
  [0, "0 B"],
  [1_023, "1023 B"],
  [1_024, "1.0 KiB"],
  [150 * 2 ** 20, "150 MiB"],
  [2 ** 50 * 3_000, "3000 PiB"],
])("%d bytes are %s", (bytes, text) => {
  expect(humanBytes(bytes)).toBe(text);
});

test.each([
  [0.000_004, "4.0 us"],
  [0.025, "25 ms"],
  [9.4, "9.4 s"],
  [245, "4:05"],
  [3_723, "1:02:03"],
  [Number.POSITIVE_INFINITY, "longer"],
])("%d seconds are %s", (seconds, text) => {
  expect(humanSeconds(seconds)).toBe(text);
});

test("counts and shares", () => {
  expect(humanCount(1_234_567)).toBe("1,234,567");
  expect(humanShare(1, 3)).toBe("33.3 %");
  expect(humanShare(0, 0)).toBe("-");
});
