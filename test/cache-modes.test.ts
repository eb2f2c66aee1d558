/** What each cache mode keeps, and what it never does. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode } from "./support/harness.ts";
import { cacheStats, chunkFiles, expectSameBytes, filesBelow, l2Stats, MIB, storeFile, untilIdle, untilStats } from "./support/l2.ts";

setDefaultTimeout(60_000);

const FILE_MIB = 32;
const BLOCKS_PER_MIB = 16;
const FILE_BLOCKS = FILE_MIB * BLOCKS_PER_MIB;
/** Less than the file: what is read a second time comes from the disk, not from memory. */
const SMALL_MEMORY = "cache_l1_max=16M";

let node: TestNode;
let expected: string;

beforeAll(async () => {
  node = await TestNode.start();
  expected = await storeFile(node, "file", FILE_MIB);
});
afterAll(cleanUp);

function mountWith(mode: string, ...words: string[]): Promise<TestMount> {
  return TestMount.mount(node, { args: ["--cache-mode", mode, "-o", [SMALL_MEMORY, ...words].join(",")] });
}

async function readDirect(file: string): Promise<void> {
  await runOk("dd", [`if=${file}`, "of=/dev/null", "bs=1M", "iflag=direct", "status=none"]);
}

test("bypass keeps nothing: no memory, and not a file in cache_dir", async () => {
  await using mount = await mountWith("bypass");
  const file = join(mount.path, "file");
  for (let pass = 1; pass <= 2; pass++) {
    await expectSameBytes(file, expected);
    const { reads, l1, l2, pool } = await cacheStats(mount);
    expect(reads).toMatchObject({ l1Hits: 0, l2Hits: 0, misses: 0 });
    expect(reads.bypasses).toBeGreaterThanOrEqual(pass * FILE_BLOCKS);
    expect({ bytes: l1.bytes, l2, pool }).toEqual({ bytes: 0, l2: null, pool: null });
  }
  expect(existsSync(mount.cacheDir) ? filesBelow(mount.cacheDir) : []).toEqual([]);
});

for (const mode of ["organic", "pinned"]) {
  test(`${mode}: O_DIRECT reads come from the node, whatever is cached, and leave nothing behind`, async () => {
    await using mount = await mountWith(mode);
    const file = join(mount.path, "file");
    await readDirect(file);
    const first = await cacheStats(mount);
    expect(first.reads).toMatchObject({ l1Hits: 0, l2Hits: 0, misses: 0, bypasses: FILE_BLOCKS });
    expect({ memory: first.l1.bytes, disk: first.l2?.bytes }).toEqual({ memory: 0, disk: 0 });
    await expectSameBytes(file, expected);
    const { reads: before } = await untilIdle(mount);
    await readDirect(file);
    expect((await cacheStats(mount)).reads).toEqual({ ...before, bypasses: 2 * FILE_BLOCKS });
  });
}

test("readers that miss the same data at once cause one fetch of each block", async () => {
  await using mount = await mountWith("organic", "cache_l1_max=256M");
  const file = join(mount.path, "file");
  await Promise.all(Array.from({ length: 4 }, () => runOk("cmp", [file, expected])));
  const { reads } = await cacheStats(mount);
  expect(reads).toMatchObject({ misses: FILE_BLOCKS, l2Hits: 0, bypasses: 0 });
});

test("pinned: what was read first stays, and what has no room is served and not kept", async () => {
  await using mount = await mountWith("pinned", "cache_l2_max=16M");
  const file = join(mount.path, "file");
  await expectSameBytes(file, expected);
  await untilStats(mount, ({ l2 }) => (l2?.pinnedBytes ?? 0) > 4 * MIB);
  await untilIdle(mount);
  const kept = chunkFiles(mount);
  const { evictions, pinnedBytes, bytes } = await l2Stats(mount);
  expect(evictions).toBe(0);
  expect(pinnedBytes).toBeGreaterThan(4 * MIB);
  expect(bytes).toBeLessThanOrEqual(16 * MIB);
  for (let pass = 0; pass < 2; pass++) await expectSameBytes(file, expected);
  await untilIdle(mount);
  for (const chunk of kept) expect(existsSync(chunk)).toBe(true);
  const after = await cacheStats(mount);
  expect(after.l2?.evictions).toBe(0);
  expect(after.reads.l2Hits).toBeGreaterThan(0);
});
