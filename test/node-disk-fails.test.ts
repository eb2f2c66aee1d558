/**
 * The storage node's disk fails with EIO while processes write, and is good again later, after a loss of power. What was fsynced is there:
 * the node never says that something is on the disk when the disk said that it is not. (The kernel says so once, forgets what it could not
 * write, and calls the next fdatasync(2) a success.)
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { type Appended, expectUndamaged, Writers } from "./random/writers.ts";
import { type DiskRange, FailingDisk } from "./support/disk.ts";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(120_000);
afterAll(cleanUp);

const DISK = "192M";
const WRITERS = 3;
const LARGE_MIB = 8;
const BEFORE_S = 0.5;
const FAULT_S = 1.5;
/** The node tries again each second. */
const AFTER_S = 2;
/** A node that was started again waits for leases of its last run to expire. */
const AFTER_RESTART_S = 8;
const EIO = /^(write|fsync|close|open) EIO$/;

let disk: FailingDisk;
let node: TestNode;
let writers: Writers;
/** By writer: how many records of its log were fsynced. */
const synced = Array.from({ length: WRITERS }, () => 0);

beforeAll(async () => {
  disk = await FailingDisk.make(DISK);
  node = await TestNode.start({ dataDir: join(disk.path, "data") });
  await node.credentials("t");
  await runOk("sync", ["-f", disk.path]);
  writers = await Writers.start(WRITERS);
});

async function append(mount: TestMount, seconds: number): Promise<Appended[]> {
  const appended = await writers.appendLogs(mount, seconds);
  for (const [i, one] of appended.entries()) synced[i] = Math.max(synced[i] ?? 0, one.synced);
  return appended;
}

/** Where on the disk the chunks of the node are, or all its other files: journals and databases. */
async function rangesOf(what: "chunks" | "records"): Promise<DiskRange[]> {
  const files = readdirSync(node.dataDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /^[0-9a-f]{64}$/.test(entry.name) === (what === "chunks"))
    .map(({ parentPath, name }) => join(parentPath, name));
  return (await Promise.all(files.map((file) => disk.rangesOf(file)))).flat();
}

async function expectAllSynced(): Promise<void> {
  const mount = await TestMount.mount(node);
  await writers.expectLogs(mount, synced);
  await mount.unmount();
}

/** Power goes while client and node write, and comes back with a good disk. */
async function losePower(mount: TestMount): Promise<void> {
  await disk.losePower(async () => {
    await mount.kill();
    await node.kill();
  });
  await node.restart();
}

test("a disk that takes nothing any more: writers fail, umount works, the node ends; after a repair what was fsynced is there", async () => {
  const mount = await TestMount.mount(node);
  await append(mount, BEFORE_S);
  const logged = node.log().length;
  disk.fail("writes");
  const during = await append(mount, FAULT_S);
  for (const { failures } of during) expect(failures).not.toEqual([]);
  const outcomes = [...during.flatMap(({ failures }) => failures), ...(await writers.writeLarge(mount, LARGE_MIB))];
  for (const outcome of outcomes) expect(outcome).toMatch(/^(write|fsync|close|open) (EIO|ENOSPC|EROFS)$/);
  await writers.expectNobodyStuck(mount.pid, node.pid);
  await runOk("umount", [mount.path]);
  await node.stop();
  const log = node.log().slice(logged);
  expect(log).toContain("the node's disk is in trouble");
  // Nothing but lines of the log: no exception that nobody caught.
  for (const line of log.trim().split("\n")) expect(JSON.parse(line)).toHaveProperty("msg");
  await disk.repair();
  await node.restart();
  await expectAllSynced();
});

test("the disk does not take what the node writes into journal and database: fsync fails, and what it acknowledged is there", async () => {
  const mount = await TestMount.mount(node);
  await append(mount, BEFORE_S);
  disk.fail("writes", await rangesOf("records"));
  for (const { failures } of await append(mount, FAULT_S)) {
    expect(failures).not.toEqual([]);
    for (const failure of failures) expect(failure).toMatch(EIO);
  }
  await writers.expectNobodyStuck(mount.pid, node.pid);
  await losePower(mount);
  await expectAllSynced();
});

test("a disk that is good again: writers go on, at the latest with a new node, and what is fsynced then survives a loss of power", async () => {
  const mount = await TestMount.mount(node);
  await append(mount, BEFORE_S);
  disk.fail("writes", await rangesOf("records"));
  await append(mount, FAULT_S);
  disk.heal();
  let after = await append(mount, AFTER_S);
  if (after.some(({ syncs }) => syncs === 0)) {
    // The kernel may have dropped from its memory what it could not write, which the node notices: then it must be started again.
    console.log("the node had to be started again");
    expect(after.flatMap(({ failures }) => failures).every((failure) => EIO.test(failure))).toBe(true);
    await node.restart("SIGKILL");
    after = await append(mount, AFTER_RESTART_S);
  }
  expect({ after, allGoOn: after.every(({ syncs }) => syncs > 0) }).toEqual({ after, allGoOn: true });
  expect(await writers.writeLarge(mount, LARGE_MIB)).toEqual(synced.map(() => null));
  await losePower(mount);
  await expectAllSynced();
});

test("a disk that can't read a chunk: the reader fails with EIO, verify names the chunk, and a good disk reads it again", async () => {
  disk.fail("reads", await rangesOf("chunks"));
  const mount = await TestMount.mount(node);
  const { status, stderr } = await run("cat", [join(mount.path, "large-0")]);
  expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("Input/output error") });
  await runOk("ls", ["-l", mount.path]);
  await mount.unmount();
  disk.heal();
  const healed = await TestMount.mount(node);
  await writers.expectLarge(healed, LARGE_MIB);
  await healed.unmount();
  await expectUndamaged(node);
  // So that nothing is in the page cache.
  await disk.repair();
  disk.fail("reads", (await rangesOf("chunks")).slice(0, 1));
  const verified = await run(KISEKI, ["serve", "--verify", "--data-dir", node.dataDir]);
  expect(verified).toMatchObject({
    status: 1,
    stdout: expect.stringMatching(/^tenant t: chunk [0-9a-f]{64} can't be read: EIO.*\nkiseki: .* 1 damages/),
  });
  disk.heal();
  await expectUndamaged(node);
});
