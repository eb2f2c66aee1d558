import { expect, test } from "bun:test";
import fc from "fast-check";
import { formatSize, parseSeconds, parseSize } from "./units.ts";

test("sizes are powers of 1024, in either case, with or without B", () => {
  expect(parseSize("0")).toBe(0);
  expect(parseSize("4096")).toBe(4096);
  expect(parseSize("64K")).toBe(65_536);
  expect(parseSize("64k")).toBe(65_536);
  expect(parseSize("256M")).toBe(268_435_456);
  expect(parseSize("50GiB")).toBe(53_687_091_200);
  expect(parseSize("50 GB")).toBe(53_687_091_200);
  expect(parseSize("1.5G")).toBe(1_610_612_736);
});

test("what is not a size is null, not NaN", () => {
  for (const text of ["", "G", "-1", "1e3", "0x10", "1.G", "10 M B", "10X", "9999P", "Infinity"]) expect(parseSize(text)).toBeNull();
});

test("a formatted size reads back as itself", () => {
  fc.assert(fc.property(fc.nat({ max: Number.MAX_SAFE_INTEGER }), (bytes) => expect(parseSize(formatSize(bytes))).toBe(bytes)));
  expect(formatSize(50 * 2 ** 30)).toBe("50G");
});

test("times are seconds unless they say otherwise", () => {
  expect(parseSeconds("5")).toBe(5_000);
  expect(parseSeconds("0.5")).toBe(500);
  expect(parseSeconds("250ms")).toBe(250);
  expect(parseSeconds("2m")).toBe(120_000);
  for (const text of ["", "s", "-1", "1d", "1e3", "5 5"]) expect(parseSeconds(text)).toBeNull();
});
