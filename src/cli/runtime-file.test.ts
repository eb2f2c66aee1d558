import { expect, test } from "bun:test";
import { findRuntimeEntry, isRunning, writeRuntimeEntry } from "./runtime-file.ts";

test("a mount is found by its mountpoint until its process takes the entry back", () => {
  const mountpoint = `/nonexistent/${crypto.randomUUID()}`;
  const forget = writeRuntimeEntry(mountpoint);
  const entry = findRuntimeEntry(mountpoint);
  expect(entry).toMatchObject({ mountpoint, pid: process.pid });
  expect(findRuntimeEntry(`${mountpoint}x`)).toBeNull();
  forget();
  expect(findRuntimeEntry(mountpoint)).toBeNull();
});

test("a pid that was used again is not the mount's process", () => {
  expect(isRunning({ mountpoint: "/", pid: process.pid, startTicks: "1" })).toBe(false);
});
