/** Space comes back: what was deleted, overwritten or given up goes from the node's disk, and what somebody may still read or commit does not. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const MIB = 1024 * 1024;
const GRACE = "1s";
/** The node collects every second then; a machine that is busy takes longer. */
const COLLECT_PATIENCE_MS = 30_000;
/** Names and attributes are no chunks; a chunk has a few bytes more than what is in it. */
const SLACK_BYTES = MIB;

let node: TestNode;
let mount: TestMount;

beforeAll(async () => {
  node = await TestNode.start({ args: ["--gc-grace", GRACE] });
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

/** Bytes in the chunks that the node stores for the tenant. */
function storedBytes(): number {
  const root = join(node.dataDir, "tenants", "t", "chunks");
  let bytes = 0;
  for (const folder of readdirSync(root)) {
    for (const name of readdirSync(join(root, folder))) bytes += statSync(join(root, folder, name), { throwIfNoEntry: false })?.size ?? 0;
  }
  return bytes;
}

async function untilStored(bytes: number): Promise<void> {
  const deadline = performance.now() + COLLECT_PATIENCE_MS;
  while (storedBytes() > bytes + SLACK_BYTES && performance.now() < deadline) await Bun.sleep(100);
  expect(storedBytes()).toBeWithin(bytes, bytes + SLACK_BYTES);
}

/** Incompressible, and never the same twice: nothing is stored once for two. */
const write = (name: string, mib: number) =>
  runOk("bash", ["-c", `head -c ${mib}M /dev/urandom > ${name} && sync ${name}`], { cwd: mount.path });

test("what is deleted, truncated or overwritten leaves the node's disk", async () => {
  await write("deleted", 24);
  await write("truncated", 24);
  await write("overwritten", 8);
  await write("kept", 8);
  expect(storedBytes()).toBeGreaterThan(60 * MIB);
  const sum = await runOk("sha256sum", ["kept"], { cwd: mount.path });
  await runOk("rm", ["deleted"], { cwd: mount.path });
  await runOk("truncate", ["-s", "0", "truncated"], { cwd: mount.path });
  await write("overwritten", 8);
  await untilStored(16 * MIB);
  expect(await runOk("sha256sum", ["kept"], { cwd: mount.path })).toBe(sum);
  await runOk("rm", ["overwritten", "kept"], { cwd: mount.path });
  await untilStored(0);
});

test("what was sent and written over before it was committed leaves no chunks behind", async () => {
  const program = `
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for round in range(4):
    for i in range(6): os.pwrite(fd, os.urandom(4 << 20), i * (4 << 20))
os.fsync(fd)
`;
  await runOk("python3", ["-c", program, join(mount.path, "rewritten")]);
  await untilStored(24 * MIB);
  await runOk("rm", ["rewritten"], { cwd: mount.path });
  await untilStored(0);
});

test("a deleted file that is open is whole for as long as it is, and leaves nothing behind when it is closed", async () => {
  const program = `
import hashlib, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.unlink(sys.argv[1])
data = os.urandom(96 << 20)
for i in range(96): os.pwrite(fd, data[i << 20:(i + 1) << 20], i << 20)
print("written", flush=True)
sys.stdin.readline()
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
read = b"".join(os.pread(fd, 1 << 20, i << 20) for i in range(96))
sys.exit(0 if hashlib.sha256(read).digest() == hashlib.sha256(data).digest() else 1)
`;
  // Little memory for the cache: most of the file is at the node only.
  const small = await TestMount.mount(node, { args: ["-o", "cache_l1_max=64M"] });
  const writer = Bun.spawn(["python3", "-c", program, join(small.path, "temporary")], { stdin: "pipe", stdout: "pipe", stderr: "inherit" });
  await writer.stdout.getReader().read();
  // Some passes of the collector, the last after everything that is written out of itself has been.
  await Bun.sleep(9_000);
  writer.stdin.write("\n");
  writer.stdin.end();
  expect(await writer.exited).toBe(0);
  await untilStored(0);
  await small.unmount();
});

test("readers of files that others write anew all the time read whole versions, however soon chunks go", async () => {
  const hasty = await TestNode.start({ args: ["--gc-grace", "10ms"] });
  const [writing, reading] = [await TestMount.mount(hasty), await TestMount.mount(hasty, { args: ["--cache-mode", "bypass"] })];
  // Each version is one byte value throughout: of two versions at once there would be two.
  const writer = `
import os, sys, time
end = time.monotonic() + 8
version = 0
while time.monotonic() < end:
    version += 1
    body = os.urandom(4096) + bytes([version % 251]) * (8 << 20)
    with open(sys.argv[1] + ".new", "wb") as f: f.write(body)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    fd = os.open(sys.argv[1] + ".in-place", os.O_WRONLY | os.O_CREAT)
    os.write(fd, body); os.fsync(fd); os.close(fd)
`;
  const reader = `
import errno, os, sys, time
reads = 0
while not os.path.exists(sys.argv[2]):
    try:
        with open(sys.argv[1], "rb", buffering=0) as f:
            f.read(4096)
            body = b"".join(iter(lambda: f.read(1 << 20), b""))
    except OSError as error:
        # Unlinked by the other mount's rename: T4.
        if error.errno in (errno.ESTALE, errno.ENOENT): time.sleep(0.01); continue
        raise
    assert len(body) == 8 << 20 and len(set(body)) == 1, (len(body), set(body))
    # Changed in place: parts of several versions, but never an error.
    if os.path.exists(sys.argv[1] + ".in-place"):
        with open(sys.argv[1] + ".in-place", "rb", buffering=0) as f: f.read()
    reads += 1
print(reads)
`;
  const done = join(tempFolder("done-"), "done");
  const reads = runOk("python3", ["-c", reader, join(reading.path, "file"), done]);
  await runOk("python3", ["-c", writer, join(writing.path, "file")]);
  writeFileSync(done, "");
  expect(Number(await reads)).toBeGreaterThan(3);
  await reading.unmount();
  await writing.unmount();
  await hasty.stop();
});

test("kiseki gc tells what it finds and frees it, on a running node and in a data folder", async () => {
  const args = ["--data-addr", node.addr, "--credentials", await node.credentials("t")];
  const gc = (...more: string[]) => run(KISEKI, ["gc", ...more]);
  expect(await gc(...args)).toMatchObject({ status: 0, stdout: "t: freed 0 chunks (0 B) of 0 chunks (0 B)\n" });
  await write("kept", 8);
  const before = JSON.parse((await gc(...args, "--json", "--dry-run")).stdout);
  expect(before).toMatchObject({ tenant: "t", dryRun: true, freedChunks: 0, keptChunks: 0 });
  expect(before.bytes).toBeGreaterThan(8 * MIB - 1);
  await mount.unmount();
  expect(await gc("--data-dir", node.dataDir)).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^kiseki: [^\n]*in use[^\n]*\n$/),
  });
  await node.stop();
  // A chunk that nobody knows: of a client that died long ago.
  const id = "ab".repeat(32);
  writeFileSync(join(node.dataDir, "tenants", "t", "chunks", "ab", id), new Uint8Array(1_008));
  expect((await gc("--data-dir", node.dataDir, "--dry-run")).stdout).toMatch(
    /^t: would free 1 chunks \(1000 B\) of \d+ chunks \(8\.0 MiB\)\n$/,
  );
  expect((await gc("--data-dir", node.dataDir)).stdout).toMatch(/^t: freed 1 chunks \(1000 B\) of /);
  expect((await gc("--data-dir", node.dataDir)).stdout).toMatch(/^t: freed 0 chunks \(0 B\) of /);
  await node.restart();
  mount = await TestMount.mount(node);
  expect((await runOk("stat", ["-c", "%s", "kept"], { cwd: mount.path })).trim()).toBe(String(8 * MIB));
  await runOk("cmp", ["-n", "1", "kept", "kept"], { cwd: mount.path });
  await mount.unmount();
});

test("kiseki gc says what is wrong with its arguments", async () => {
  const empty = tempFolder("no-node-");
  mkdirSync(join(empty, "data"));
  expect(await run(KISEKI, ["gc"])).toMatchObject({ status: 2, stderr: expect.stringMatching(/^kiseki: give --data-dir[^\n]*\n$/) });
  expect(await run(KISEKI, ["gc", "--data-dir", join(empty, "data")])).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^kiseki: [^\n]*not a storage node's data folder\n$/),
  });
});
