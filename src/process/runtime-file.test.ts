import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { findRuntimeEntry, isRunning, runtimeEntries, writeRuntimeEntry } from "./runtime-file.ts";

test("a mount is found by its mountpoint until its process takes the entry back", () => {
  const mountpoint = `/nonexistent/${crypto.randomUUID()}`;
  const forget = writeRuntimeEntry(mountpoint, "/socket");
  const entry = findRuntimeEntry(mountpoint);
  expect(entry).toMatchObject({ mountpoint, pid: process.pid, control: "/socket" });
  expect(findRuntimeEntry(`${mountpoint}x`)).toBeNull();
  expect(runtimeEntries().map((one) => one.mountpoint)).toContain(mountpoint);
  forget();
  expect(findRuntimeEntry(mountpoint)).toBeNull();
});

test("a pid that was used again is not the mount's process", () => {
  expect(isRunning({ mountpoint: "/", pid: process.pid, startTicks: "1", control: null })).toBe(false);
});

test("a process that has ended is not running, though nobody has waited for it", async () => {
  // sh starts sleep, then becomes a program that never waits: what is left of sleep is a zombie.
  const parent = Bun.spawn(["sh", "-c", "sleep 0 & echo $!; exec sleep 60"], { stdout: "pipe" });
  try {
    const reader = parent.stdout.getReader();
    const pid = Number(new TextDecoder().decode((await reader.read()).value));
    const fieldsOf = () => readFileSync(`/proc/${pid}/stat`, "latin1").split(" ");
    while (fieldsOf()[2] !== "Z") await Bun.sleep(5);
    expect(isRunning({ mountpoint: "/", pid, startTicks: fieldsOf()[21] ?? "", control: null })).toBe(false);
  } finally {
    parent.kill();
    await parent.exited;
  }
});
