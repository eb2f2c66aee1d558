import { expect, test } from "bun:test";
import { progressText, RateMeter } from "./progress.ts";

const GIB = 2 ** 30;

test("while the folders are walked, what was found so far is said, and no time", () => {
  const progress = { files: 1_200, bytes: 3 * GIB, filesDone: 10, bytesDone: GIB, walked: false };
  expect(progressText(progress, null)).toBe("1.0 GiB of 3.0 GiB found so far, 10 of 1,200 files");
});

test("then the share, the rate and the time left", () => {
  const progress = { files: 1_200, bytes: 4 * GIB, filesDone: 300, bytesDone: GIB, walked: true };
  expect(progressText(progress, GIB / 10)).toBe("1.0 GiB of 4.0 GiB (25 %), 300 of 1,200 files, 102 MiB/s, 30 s left");
});

test("a dataset without bytes has no share and no time", () => {
  const progress = { files: 3, bytes: 0, filesDone: 3, bytesDone: 0, walked: true };
  expect(progressText(progress, 0)).toBe("0 B of 0 B, 3 of 3 files, 0 B/s");
});

test("the rate follows what happened of late", () => {
  const meter = new RateMeter();
  expect(meter.bytesPerSecond).toBeNull();
  meter.add(0, 0);
  meter.add(100, 1_000);
  expect(meter.bytesPerSecond).toBe(100);
  for (let second = 2; second < 100; second++) meter.add(100 + (second - 1) * 1_000, second * 1_000);
  expect(meter.bytesPerSecond).toBeCloseTo(1_000, 0);
});
