/** What the caches of a mount keep, what they leave alone, and how much they take: memory first, then the local disk, then the node. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { cacheStats, chunkFiles, expectSameBytes, filesBelow, l2Stats, MIB, untilIdle, untilStats } from "./support/l2.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

const FILE_MIB = 24;
const BLOCKS = FILE_MIB * 16;

let node: TestNode;
let expected: string;

beforeAll(async () => {
  node = await TestNode.start();
  expected = join(tempFolder("data-"), "expected");
  await runOk("dd", ["if=/dev/urandom", `of=${expected}`, "bs=1M", `count=${FILE_MIB}`, "status=none"]);
  const writer = await TestMount.mount(node);
  for (const name of ["one", "twin", "two"]) await runOk("cp", [expected, join(writer.path, name)]);
  // Other bytes, or it would be the same chunks.
  await runOk("sh", ["-c", `printf two | dd of=${writer.path}/two conv=notrunc status=none`]);
  await runOk("sh", ["-c", `tr 'a-y' 'b-z' < ${expected} > ${writer.path}/other`]);
  await writer.unmount();
});

async function direct(file: string): Promise<void> {
  await runOk("dd", [`if=${file}`, "of=/dev/null", "iflag=direct", "bs=1M", "status=none"]);
}

test("two readers that miss the same blocks fetch them once", async () => {
  await using mount = await TestMount.mount(node);
  // Two files of the same chunks: readers of one file would meet in the kernel's page cache.
  await Promise.all(["one", "twin", "one", "twin"].map((name) => expectSameBytes(join(mount.path, name), expected)));
  const { reads } = await cacheStats(mount);
  expect(reads.misses).toBe(BLOCKS);
  expect(reads.bypasses).toBe(0);
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

test("O_DIRECT reads pass both tiers, and leave nothing in them", async () => {
  await using mount = await TestMount.mount(node);
  await direct(join(mount.path, "one"));
  const cold = await untilIdle(mount);
  expect(cold.reads).toEqual({ l1Hits: 0, l2Hits: 0, misses: 0, bypasses: BLOCKS });
  expect(cold.l1.entries).toBe(0);
  expect(cold.l2?.entries).toBe(0);
  await expectSameBytes(join(mount.path, "one"), expected);
  await direct(join(mount.path, "one"));
  expect((await cacheStats(mount)).reads.bypasses).toBe(2 * BLOCKS);
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

test("the disk cache never takes more than cache_l2_max, and makes room for what is new", async () => {
  await using mount = await TestMount.mount(node, { args: ["--cache-l1-max", "16M", "--cache-l2-max", "40M"] });
  let seen = 0;
  let watching = true;
  const watch = (async () => {
    while (watching) {
      const { stdout } = await run("du", ["-s", "-B1", mount.cacheDir]);
      seen = Math.max(seen, Number.parseInt(stdout, 10));
      await Bun.sleep(20);
    }
  })();
  for (let round = 0; round < 3; round++) {
    for (const name of ["one", "two", "other"]) await runOk("dd", [`if=${join(mount.path, name)}`, "of=/dev/null", "bs=1M", "status=none"]);
    await runOk("sh", ["-c", `for f in one two other; do dd if=${mount.path}/$f iflag=nocache count=0 status=none; done`]);
  }
  watching = false;
  await watch;
  const { l2 } = await untilIdle(mount);
  expect(l2?.bytes).toBeLessThanOrEqual(40 * MIB);
  expect(l2?.bytes).toBeGreaterThan(20 * MIB);
  // Folders, and the lock's page, beside the chunks.
  expect(seen).toBeLessThan(40 * MIB + 300 * 4096);
  await expectSameBytes(join(mount.path, "one"), expected);
});

test("in pinned mode what was read first stays, and what has no room is read all the same", async () => {
  await using mount = await TestMount.mount(node, {
    args: ["--cache-mode", "pinned", "--cache-l1-max", "16M", "--cache-l2-max", "26M"],
  });
  const file = join(mount.path, "one");
  for (let round = 0; round < 10 && (await l2Stats(mount)).insertions < BLOCKS; round++) {
    await expectSameBytes(file, expected);
    await untilIdle(mount);
  }
  const chunks = chunkFiles(mount);
  expect(chunks.length).toBe(FILE_MIB / 4);
  const other = readFileSync(expected).map((byte) => (byte >= 97 && byte <= 121 ? byte + 1 : byte));
  for (let round = 0; round < 2; round++) {
    const { stdout } = await run("sha256sum", [join(mount.path, "other")]);
    expect(stdout.split(" ")[0]).toBe(new Bun.CryptoHasher("sha256").update(other).digest("hex"));
    await runOk("dd", [`if=${mount.path}/other`, "iflag=nocache", "count=0", "status=none"]);
  }
  expect(chunkFiles(mount)).toEqual(expect.arrayContaining(chunks));
  const { bytes, evictions, faults } = await l2Stats(mount);
  expect(bytes).toBeLessThanOrEqual(26 * MIB);
  expect({ evictions, faults }).toEqual({ evictions: 0, faults: {} });
  const { misses } = (await cacheStats(mount)).reads;
  await expectSameBytes(file, expected);
  expect((await cacheStats(mount)).reads.misses).toBe(misses);
});

test("a folder that others may write into is no cache folder", async () => {
  const cacheDir = join(tempFolder("open-"), "cache");
  mkdirSync(cacheDir, { mode: 0o700 });
  await runOk("chmod", ["0777", cacheDir]);
  await expect(TestMount.mount(node, { cacheDir })).rejects.toThrow("others can write into it");
});
