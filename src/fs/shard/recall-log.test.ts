import { expect, test } from "bun:test";
import { RecallLog } from "./recall-log.ts";

test("a lease asked for before its recall is not granted, one asked for after it is", () => {
  const log = new RecallLog();
  const before = log.now;
  log.add([7]);
  expect(log.allows(7, before)).toBe(false);
  expect(log.allows(8, before)).toBe(true);
  expect(log.allows(7, log.now)).toBe(true);
});

test("after all leases ended, or more recalls than are remembered, nothing older is granted", () => {
  const log = new RecallLog();
  for (const end of [() => log.addAll(), () => log.add(Array.from({ length: 10_000 }, (_, i) => i + 100))]) {
    const before = log.now;
    end();
    expect(log.allows(7, before)).toBe(false);
    expect(log.allows(7, log.now)).toBe(true);
  }
});
