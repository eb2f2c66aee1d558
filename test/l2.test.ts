/** Where reads are served from: memory, then the local disk, then the node. See cache-modes.test.ts for what the modes keep. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode } from "./support/harness.ts";
import { cacheStats, expectSameBytes, filesBelow, l2Stats, MIB, storeFile, untilIdle, untilStats } from "./support/l2.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

const FILE_MIB = 24;
const BLOCKS = FILE_MIB * 16;

let node: TestNode;
let expected: string;

beforeAll(async () => {
  node = await TestNode.start();
  expected = await storeFile(node, "one", FILE_MIB);
});

test("memory, then the disk, then the node", async () => {
  await using mount = await TestMount.mount(node, { args: ["--cache-l1-max", "16M"] });
  const file = join(mount.path, "one");
  for (let round = 0; round < 10 && (await l2Stats(mount)).insertions < BLOCKS; round++) {
    await expectSameBytes(file, expected);
    await untilIdle(mount);
  }
  const before = await untilStats(mount, ({ l2 }) => l2?.insertions === BLOCKS);
  await expectSameBytes(file, expected);
  const after = await cacheStats(mount);
  expect(after.reads.misses).toBe(before.reads.misses);
  expect(after.reads.l2Hits).toBeGreaterThan(before.reads.l2Hits);
  expect(after.l1.bytes).toBeLessThanOrEqual(16 * MIB);
  // All that is needed stands on this disk now.
  expect(after.l2?.bytes).toBe((FILE_MIB / 4) * (4 * MIB + 4096));
});

test("bypass reads ahead but keeps nothing, and writes nothing to cache_dir", async () => {
  await using mount = await TestMount.mount(node, { args: ["--cache-mode", "bypass"] });
  const file = join(mount.path, "one");
  await expectSameBytes(file, expected);
  await expectSameBytes(file, expected);
  await runOk("dd", [`if=${file}`, "of=/dev/null", "bs=1M", "count=3", "status=none"]);
  const { reads, l2 } = await cacheStats(mount);
  expect(l2).toBeNull();
  expect(reads.misses + reads.l2Hits).toBe(0);
  expect(reads.bypasses).toBeGreaterThanOrEqual(2 * BLOCKS);
  // What was read ahead for nothing goes after a moment.
  await untilStats(mount, ({ l1 }) => l1.entries === 0);
  expect(filesBelow(mount.cacheDir)).toEqual([]);
});
