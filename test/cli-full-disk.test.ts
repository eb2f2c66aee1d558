/** The storage node's disk is full: the writer learns of it, everybody else goes on, and deleting makes room again. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { smallDisk } from "./support/disk.ts";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";
import { describeTree } from "./support/trees.ts";

setDefaultTimeout(150_000);

const DISK = "96M";
const KEPT_MIB = 8;
const AGAIN_MIB = 30;
/** What the node's records and their journals may need beside the data. */
const SPARE_MIB = 10;
const MIB = 1024 * 1024;
/** How long the node may take to collect what nobody refers to any more. */
const COLLECT_PATIENCE_MS = 60_000;

let node: TestNode;
let mount: TestMount;

beforeAll(async () => {
  const disk = await smallDisk(DISK);
  node = await TestNode.start({ dataDir: join(disk, "data") });
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

/** Writes incompressible bytes; which system call failed, and how. */
const FILLER = `
import os, errno, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
def attempt(name, call):
    try: call()
    except OSError as e: print(name, errno.errorcode[e.errno]); return False
    return True
for i in range(int(sys.argv[2])):
    if not attempt("write", lambda: os.write(fd, os.urandom(1 << 20))): break
attempt("fsync", lambda: os.fsync(fd))
attempt("close", lambda: os.close(fd))
`;
const fill = (name: string, mib: number) => runOk("python3", ["-c", FILLER, join(mount.path, name), String(mib)], { timeoutMs: 120_000 });

test("fallocate of more than is free is ENOSPC and changes nothing; of less it makes the file that large", async () => {
  const file = join(mount.path, "allocated");
  await runOk("bash", ["-c", `echo content > ${file}`]);
  expect(await run("fallocate", ["-l", "10G", file])).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("No space left on device"),
  });
  expect(await runOk("cat", [file])).toBe("content\n");
  await runOk("fallocate", ["-l", "10M", file]);
  expect((await runOk("stat", ["-c", "%s", file])).trim()).toBe(String(10 * MIB));
  await runOk("rm", [file]);
});

test("a writer that fills the disk gets ENOSPC from write, fsync or close, and what was there before is unharmed", async () => {
  expect(await fill("kept", KEPT_MIB)).toBe("");
  await runOk("bash", ["-c", "mkdir folder; echo small > folder/small"], { cwd: mount.path });
  const before = await describeTree(join(mount.path, "folder"));
  const told = await fill("too large", 200);
  expect(told).toMatch(/^(write|fsync|close) ENOSPC$/m);
  expect(told).not.toMatch(/EIO|ENOTCONN|ETIMEDOUT/);
  expect(mount.isRunning).toBe(true);
  expect(await describeTree(join(mount.path, "folder"))).toBe(before);
  expect((await runOk("stat", ["-c", "%s", join(mount.path, "kept")])).trim()).toBe(String(KEPT_MIB * MIB));
});

test("df shows it; reading, deleting and a clean umount still work; then there is room again", async () => {
  const available = async () =>
    Number((await runOk("stat", ["-f", "-c", "%a %S", mount.path])).split(" ").reduce((a, b) => String(Number(a) * Number(b))));
  // What is left is less than the chunk that met ENOSPC.
  expect(await available()).toBeLessThan(5 * MIB);
  const checksum = await runOk("sha256sum", [join(mount.path, "kept")]);
  await runOk("rm", [join(mount.path, "too large")]);
  // Each try that fails leaves chunks behind that are collected later, so there is one, when df shows room for it.
  const deadline = performance.now() + COLLECT_PATIENCE_MS;
  while ((await available()) < (AGAIN_MIB + SPARE_MIB) * MIB && performance.now() < deadline) await Bun.sleep(200);
  expect(await fill("again", AGAIN_MIB)).toBe("");
  await mount.unmount();
  mount = await TestMount.mount(node);
  expect((await runOk("sha256sum", [join(mount.path, "kept")])).split(" ")[0]).toBe(checksum.split(" ")[0] as string);
  expect((await runOk("stat", ["-c", "%s", join(mount.path, "again")])).trim()).toBe(String(AGAIN_MIB * MIB));
});

test("nothing is damaged on the node", async () => {
  await mount.unmount();
  await node.stop();
  const { status, stdout } = await run(KISEKI, ["serve", "--data-dir", node.dataDir, "--verify"]);
  expect(stdout).toContain(" 0 damages");
  expect(status).toBe(0);
});
