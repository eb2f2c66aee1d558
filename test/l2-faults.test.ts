/**
 * Whatever happens to the disk of the cache, programs read the right bytes: what is damaged, gone or can't be read comes from the node.
 * Each fault is really made.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FailingDisk, smallDisk } from "./support/disk.ts";
import { cleanUp, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import {
  chunkFiles,
  expectSameBytes,
  filesBelow,
  l2Stats,
  logLines,
  MIB,
  poolFolder,
  storeFile,
  untilIdle,
  untilStats,
} from "./support/l2.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

/** More than L1 holds, so that nothing is read from there a second time. */
const L1 = ["--cache-l1-max", "16M"];
const FILE_MIB = 40;
const CHUNKS = FILE_MIB / 4;
/** What a trailer behind a whole chunk takes on the disk. */
const PAGE = 4096;

let node: TestNode;
let expected: string;

beforeAll(async () => {
  node = await TestNode.start();
  expected = await storeFile(node, "file", FILE_MIB);
});

/** A mount that has read the file once, and has all of it on its disk. */
async function filledMount(cacheDir?: string): Promise<{ mount: TestMount; file: string }> {
  const mount = await TestMount.mount(node, { args: L1, ...(cacheDir === undefined ? {} : { cacheDir }) });
  const file = join(mount.path, "file");
  await fill(mount, file);
  expect(chunkFiles(mount).length).toBe(CHUNKS);
  return { mount, file };
}

/** Reads the file until all of it is on the disk: blocks that come too fast are not kept the first time. */
async function fill(mount: TestMount, file: string): Promise<void> {
  for (let round = 0; round < 20; round++) {
    await expectSameBytes(file, expected);
    const { l2 } = await untilIdle(mount);
    if (l2?.bytes === CHUNKS * (4 * MIB + PAGE)) return;
  }
  throw new Error("the disk never had all of the file");
}

test("a chunk file is what it says: the plaintext, and the CRC32 of id and data behind it", async () => {
  const { mount, file } = await filledMount();
  for (const path of chunkFiles(mount)) {
    const bytes = readFileSync(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(bytes.length).toBe(4 * MIB + 4);
    const id = Buffer.from(path.slice(-64), "hex");
    expect(bytes.readUInt32LE(4 * MIB)).toBe(Bun.hash.crc32(Buffer.concat([id, bytes.subarray(0, 4 * MIB)])));
  }
  await expectSameBytes(file, expected);
  expect((await l2Stats(mount)).faults).toEqual({});
  await untilStats(mount, ({ reads }) => reads.l2Hits > 0);
  await mount.unmount();
  expect(filesBelow(mount.cacheDir).map((path) => path.split("/").at(-1))).toEqual(["node.lock"]);
});

test("flipped bytes are noticed, counted, and said once in a while", async () => {
  const { mount, file } = await filledMount();
  for (const path of chunkFiles(mount)) {
    const bytes = readFileSync(path);
    bytes[MIB + 7] = (bytes[MIB + 7] ?? 0) ^ 1;
    writeFileSync(path, bytes);
  }
  await expectSameBytes(file, expected);
  const { faults, outOfUse } = await l2Stats(mount);
  expect(faults).toEqual({ crc: CHUNKS });
  expect(outOfUse).toBeNull();
  expect(logLines(mount, "disk cache: ").length).toBe(1);
  // What was damaged has been fetched and kept anew.
  await fill(mount, file);
  await expectSameBytes(file, expected);
  expect((await l2Stats(mount)).faults).toEqual({ crc: CHUNKS });
  await mount.unmount();
});

test("chunk files under each other's names are noticed", async () => {
  const { mount, file } = await filledMount();
  const [one, other] = chunkFiles(mount) as [string, string];
  const bytes = readFileSync(one);
  writeFileSync(one, readFileSync(other));
  writeFileSync(other, bytes);
  await expectSameBytes(file, expected);
  expect((await l2Stats(mount)).faults).toEqual({ crc: 2 });
  await mount.unmount();
});

test("files that were cut short or deleted are noticed", async () => {
  const { mount, file } = await filledMount();
  const [one, other, third] = chunkFiles(mount) as [string, string, string];
  truncateSync(one, 2 * MIB);
  truncateSync(other, 0);
  rmSync(third);
  await expectSameBytes(file, expected);
  // A deleted file can still be read by who has it open.
  const { short, missing = 0, ...others } = (await l2Stats(mount)).faults;
  expect({ short, others }).toEqual({ short: 2, others: {} });
  expect(missing).toBeLessThanOrEqual(1);
  await mount.unmount();
});

test("faults again and again take the disk out of use for the session, with one line", async () => {
  const { mount, file } = await filledMount();
  for (let round = 0; round < 3; round++) {
    for (const path of chunkFiles(mount)) truncateSync(path, 0);
    await expectSameBytes(file, expected);
    if ((await l2Stats(mount)).outOfUse !== null) break;
    await fill(mount, file);
  }
  const { faults, outOfUse } = await l2Stats(mount);
  expect(outOfUse).toContain("too many faults");
  expect(faults).toEqual({ short: 16 });
  expect(logLines(mount, "the disk cache is out of use for this session").length).toBe(1);
  await expectSameBytes(file, expected);
  expect((await l2Stats(mount)).faults).toEqual({ short: 16 });
  await mount.unmount();
});

test("the pool's folder is deleted under the mount", async () => {
  const { mount, file } = await filledMount();
  rmSync(poolFolder(mount), { recursive: true });
  await expectSameBytes(file, expected);
  await expectSameBytes(file, expected);
  const other = await TestMount.mount(node);
  const fresh = join(tempFolder("data-"), "fresh");
  await runOk("sh", ["-c", `head -c 20000000 /dev/urandom > ${fresh}; cp ${fresh} ${other.path}/fresh-folder`]);
  await other.unmount();
  await expectSameBytes(join(mount.path, "fresh-folder"), fresh);
  expect((await untilIdle(mount)).l2?.faults.missing).toBeGreaterThan(0);
  expect(logLines(mount, "disk cache: ").length).toBeGreaterThan(0);
  await mount.unmount();
});

test("a disk that somebody else fills up", async () => {
  const disk = await smallDisk("160M");
  const mount = await TestMount.mount(node, { args: L1, cacheDir: join(disk, "cache") });
  const file = join(mount.path, "file");
  // The room for what follows is the cache's from here on, but somebody else takes it.
  await runOk("dd", [`if=${file}`, "of=/dev/null", "bs=1M", "count=1", "status=none"]);
  await untilStats(mount, ({ l2 }) => (l2?.insertions ?? 0) > 0);
  await runOk("sh", ["-c", `dd if=/dev/zero of=${disk}/filler bs=1M status=none 2>/dev/null || true`]);
  await expectSameBytes(file, expected);
  await expectSameBytes(file, expected);
  const { faults } = await l2Stats(mount);
  expect(Object.keys(faults)).toEqual(["no_space"]);
  expect(logLines(mount, "disk cache: ").length).toBe(1);
  // With room again, the cache fills.
  rmSync(join(disk, "filler"));
  const before = (await l2Stats(mount)).insertions;
  await Bun.sleep(5_000);
  await expectSameBytes(file, expected);
  await untilStats(mount, ({ l2 }) => (l2?.insertions ?? 0) > before);
  await mount.unmount();
});

test("a disk that becomes read-only is read, and not written any more", async () => {
  const disk = await smallDisk("160M");
  const { mount, file } = await filledMount(join(disk, "cache"));
  await runOk("sync", ["-f", disk]);
  // As ext4 does by itself when its journal fails (ext4(5), errors=remount-ro).
  await runOk("mount", ["-o", "remount,abort", disk]);
  await expectSameBytes(file, expected);
  const stats = await untilStats(mount, ({ reads }) => reads.l2Hits > 0);
  expect(stats.l2?.outOfUse ?? null).toBeNull();
  const other = await TestMount.mount(node);
  await runOk("sh", ["-c", `head -c 20000000 /dev/urandom > ${other.path}/fresh`]);
  await runOk("cmp", [join(mount.path, "fresh"), join(other.path, "fresh")]);
  expect((await untilStats(mount, ({ l2 }) => l2?.outOfUse !== null)).l2?.outOfUse).toContain("nothing new is taken");
  expect(logLines(mount, "the disk cache takes nothing new in this session").length).toBe(1);
  await expectSameBytes(file, expected);
  await other.unmount();
  await mount.unmount();
});

test("a disk that can't be read", async () => {
  const disk = await FailingDisk.make("160M");
  mkdirSync(join(disk.path, "cache"), { mode: 0o700 });
  const { mount, file } = await filledMount(join(disk.path, "cache"));
  await runOk("sync", ["-f", disk.path]);
  const ranges = await Promise.all(chunkFiles(mount).map((path) => disk.rangesOf(path)));
  disk.fail("reads", ranges.flat());
  await expectSameBytes(file, expected);
  disk.heal();
  expect((await l2Stats(mount)).faults).toEqual({ io: CHUNKS });
  await fill(mount, file);
  await expectSameBytes(file, expected);
  await mount.unmount();
});
