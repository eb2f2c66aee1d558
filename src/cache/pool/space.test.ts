import { afterAll, afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { smallDisk } from "../../../test/support/disk.ts";
import { cleanUp } from "../../../test/support/harness.ts";
import { CacheFolder } from "./cache-folder.ts";
import { bytesOnDisk, readReserved, Space, type SpaceLimits } from "./space.ts";
import { start } from "./test-pool-processes.ts";

setDefaultTimeout(60_000);
const MIB = 2 ** 20;

let base = "";
let folder: CacheFolder;
beforeEach(() => {
  base = mkdtempSync("/tmp/kiseki-space-");
  folder = CacheFolder.open(join(base, "cache"));
});
afterEach(() => rmSync(base, { recursive: true, force: true }));
afterAll(cleanUp);

function poolFolder(digit: number): string {
  const path = folder.poolPath("acme", String(digit).repeat(32));
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return path;
}

function newSpace(digit: number, limits: SpaceLimits): Space {
  return new Space(folder, poolFolder(digit), limits);
}

test("a pool has no more than its own limit, and gets all of it", () => {
  using space = newSpace(1, { maxBytes: 10 * MIB });
  expect(space.reserve(10 * MIB + 4096)).toBe(false);
  expect(space.reserve(10 * MIB)).toBe(true);
  expect(space.reserve(4096)).toBe(false);
  space.cancel(MIB);
  expect(space.reserve(MIB)).toBe(true);
  space.settle(10 * MIB);
  expect(space.usedBytes).toBe(10 * MIB);
  space.release(4096);
  expect(space.reserve(4096)).toBe(true);
  expect(space.reserve(4096)).toBe(false);
});

test("all pools together have no more than the node's limit, dead ones too", async () => {
  const limits = { maxBytes: 100 * MIB, nodeLimitBytes: () => 20 * MIB };
  const dead = newSpace(1, limits);
  expect(dead.reserve(8 * MIB)).toBe(true);
  dead.trim();
  dead.close();
  expect(dead.reserve(4096)).toBe(false);
  using one = newSpace(2, limits);
  using other = newSpace(3, limits);
  expect(one.reserve(12 * MIB + 4096)).toBe(false);
  expect(await one.reserveSoon(8 * MIB)).toBe(true);
  expect(await other.reserveSoon(4 * MIB + 4096)).toBe(false);
  one.cancel(8 * MIB);
  one.trim();
  expect(await other.reserveSoon(8 * MIB)).toBe(true);
  expect(await other.reserveSoon(8 * MIB)).toBe(false);
  rmSync(poolFolder(1), { recursive: true });
  expect(await other.reserveSoon(12 * MIB)).toBe(true);
});

test("a closed pool has no room, and one that is taken over goes on from what was found on the disk", () => {
  const limits = { maxBytes: 20 * MIB };
  const before = newSpace(1, limits);
  before.reserve(5 * MIB);
  before.settle(5 * MIB);
  before.close();
  using after = newSpace(1, limits);
  expect(after.usedBytes).toBeGreaterThanOrEqual(5 * MIB);
  after.restate(3 * MIB);
  expect(after.usedBytes).toBe(3 * MIB);
  expect(readReserved(poolFolder(1))).toEqual({ reservedBytes: 3 * MIB, unwrittenBytes: 0 });
  expect(after.reserve(17 * MIB)).toBe(true);
  expect(after.reserve(4096)).toBe(false);
});

test("whatever is reserved, settled, cancelled and released: what others read is never less than what is used or may be written", () => {
  const operation = fc.record({ kind: fc.constantFrom("reserve", "settle", "cancel", "release", "trim"), blocks: fc.nat({ max: 2_000 }) });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
      using space = newSpace(4, { maxBytes: 16 * MIB, nodeLimitBytes: () => 12 * MIB });
      space.restate(0);
      let pending = 0;
      let settled = 0;
      for (const { kind, blocks } of operations) {
        const bytes = blocks * 4096;
        if (kind === "reserve" && space.reserve(bytes)) pending += bytes;
        if (kind === "trim") space.trim();
        const ready = Math.min(bytes, kind === "release" ? settled : pending);
        if (kind === "settle") space.settle(ready);
        if (kind === "cancel") space.cancel(ready);
        if (kind === "release") space.release(ready);
        if (kind === "settle") settled += ready;
        if (kind === "settle" || kind === "cancel") pending -= ready;
        if (kind === "release") settled -= ready;
        const told = readReserved(poolFolder(4));
        expect(space.usedBytes).toBe(pending + settled);
        expect(told.reservedBytes).toBeGreaterThanOrEqual(pending + settled);
        expect(told.reservedBytes).toBeLessThanOrEqual(12 * MIB);
        expect(told.unwrittenBytes).toBeGreaterThanOrEqual(pending);
      }
    }),
    { numRuns: 60 },
  );
});

test("a disk block is the unit", () => {
  expect([0, 1, 4096, 4097, 65_540].map(bytesOnDisk)).toEqual([0, 4096, 4096, 8192, 69_632]);
});

/** What the files of each pool take up now, and how full the disk is. Meanwhile no pool may grow at another's expense: else the sum would be of several moments. */
async function look(disk: string): Promise<{ pools: number[]; usedShare: number }> {
  const { blocks, bfree, bavail } = statfsSync(disk);
  const folder = CacheFolder.open(join(disk, "cache"));
  const sizeOf = (path: string): number =>
    readdirSync(path).reduce((sum, name) => sum + (lstatSync(join(path, name), { throwIfNoEntry: false })?.size ?? 0), 0);
  const pools = await folder.withNodeLock(() => folder.pools().map(({ path }) => sizeOf(join(path, "files"))));
  return { pools, usedShare: (blocks - bfree) / (blocks - bfree + bavail) };
}

async function churn(disk: string, limits: { maxBytes: number; nodeLimitBytes: number }) {
  const processes = [1, 2, 3].map(() => start(["churn", join(disk, "cache"), JSON.stringify(limits)]));
  const most = { pool: 0, node: 0, usedShare: 0 };
  const until = performance.now() + 4_000;
  while (performance.now() < until) {
    const { pools, usedShare } = await look(disk);
    most.pool = Math.max(most.pool, ...pools);
    most.node = Math.max(
      most.node,
      pools.reduce((sum, bytes) => sum + bytes, 0),
    );
    most.usedShare = Math.max(most.usedShare, usedShare);
    await Bun.sleep(2);
  }
  for (const process of processes) {
    process.goOn();
    const { refused, written } = JSON.parse((await process.line()) ?? "{}");
    expect(Math.min(refused, written)).toBeGreaterThan(0);
    await process.end();
  }
  return most;
}

test("three processes that fill their pools stay below the limits at every moment", async () => {
  const disk = await smallDisk("256M");
  const most = await churn(disk, { maxBytes: 40 * MIB, nodeLimitBytes: 90 * MIB });
  expect(most.pool).toBeLessThanOrEqual(40 * MIB);
  expect(most.node).toBeLessThanOrEqual(90 * MIB);
  expect(most.node).toBeGreaterThan(60 * MIB);
});

test("three processes never fill a disk to more than 90 %", async () => {
  const disk = await smallDisk("96M");
  const most = await churn(disk, { maxBytes: 500 * MIB, nodeLimitBytes: 500 * MIB });
  expect(most.usedShare).toBeLessThanOrEqual(0.9);
  expect(most.usedShare).toBeGreaterThan(0.7);
});
