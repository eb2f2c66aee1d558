/** The disk cache holds plaintext: when a mount ends, in whatever way, none of it stays in cache_dir. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { kiseki } from "./support/cli.ts";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(120_000);
afterAll(cleanUp);

const MARKER = "the-plaintext-that-nobody-may-find";
const KILLS = 8;

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
  await runOk(KISEKI, ["policy", "set", "key_health_interval_ms=500", "--data-dir", node.dataDir]);
  await fill("t");
});

/** Chunks and small files, full of the marker. */
async function fill(tenant: string): Promise<void> {
  const mount = await TestMount.mount(node, { tenant });
  const write = `cd ${mount.path}; for i in 1 2 3 4; do { echo $i; yes ${MARKER}; } | head -c 6000000 > large-$i; done; mkdir small; for i in $(seq 50); do yes ${MARKER}-$i | head -c 5000 > small/$i; done`;
  await runOk("sh", ["-ec", write]);
  await mount.unmount();
}

/** Files under a folder, which may change meanwhile, that hold the marker. */
function plaintextIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => {
    try {
      const path = join(folder, name);
      return statSync(path).isFile() && readFileSync(path).includes(MARKER);
    } catch (error) {
      if (["ENOENT", "ENXIO"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
      throw error;
    }
  });
}

/** Everything below a folder but node.lock, which is empty. */
function leftIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name !== "node.lock");
}

/** Reads all through the mount until the disk cache holds some of it. */
async function fillCache(mount: TestMount): Promise<void> {
  for (let i = 0; i < 100; i++) {
    await runOk("sh", ["-c", `cat ${mount.path}/large-* ${mount.path}/small/* > /dev/null`]);
    if (plaintextIn(mount.cacheDir).length >= 4) return;
    await Bun.sleep(50);
  }
  throw new Error(`the disk cache stays empty: ${mount.log()}`);
}

async function ended(mount: TestMount): Promise<void> {
  for (let i = 0; i < 1_000 && mount.isRunning; i++) await Bun.sleep(20);
  expect(mount.isRunning).toBeFalse();
}

const WAYS: Record<string, (mount: TestMount) => Promise<unknown>> = {
  umount: (mount) => runOk("umount", [mount.path]),
  "fusermount3 -u": (mount) => runOk("fusermount3", ["-u", mount.path]),
  SIGTERM: async (mount) => process.kill(mount.pid, "SIGTERM"),
  SIGINT: async (mount) => process.kill(mount.pid, "SIGINT"),
};

for (const [way, end] of Object.entries(WAYS)) {
  test(`${way}: nothing is left in cache_dir`, async () => {
    const mount = await TestMount.mount(node);
    await fillCache(mount);
    await end(mount);
    await ended(mount);
    expect(leftIn(mount.cacheDir)).toEqual([]);
  });
}

test("kill -9 of a mount that reads, then one scrub: no byte of plaintext is left in any file", async () => {
  const cacheDir = join(tempFolder("cache-"), "cache");
  let found = 0;
  for (let i = 0; i < KILLS; i++) {
    const mount = await TestMount.mount(node, { cacheDir });
    const reader = run("sh", ["-c", `cd ${mount.path} && while cat large-* small/* > /dev/null; do :; done`]);
    for (let tries = 0; tries < 100 && plaintextIn(cacheDir).length === 0; tries++) await Bun.sleep(10);
    await Bun.sleep(i * 20);
    await mount.kill();
    await reader;
    found += plaintextIn(cacheDir).length;
    const scrub = await kiseki(["scrub", "--cache-dir", cacheDir, "--json"]);
    expect(scrub).toMatchObject({ status: 0, stderr: "" });
    expect(leftIn(cacheDir)).toEqual([]);
  }
  expect(found).toBeGreaterThan(KILLS);
});

test("kill -9 while the pool is wiped at unmount, then one scrub: nothing is left", async () => {
  const cacheDir = join(tempFolder("cache-"), "cache");
  for (let i = 0; i < KILLS; i++) {
    const mount = await TestMount.mount(node, { cacheDir });
    await fillCache(mount);
    await runOk("umount", [mount.path]);
    await Bun.sleep(i * 3);
    await mount.kill();
    expect(await kiseki(["scrub", "--cache-dir", cacheDir])).toMatchObject({ status: 0 });
    expect(plaintextIn(cacheDir)).toEqual([]);
    expect(leftIn(cacheDir)).toEqual([]);
  }
});

test("what a killed mount leaves is deleted by the next client of that cache_dir, and nothing of one that lives", async () => {
  const cacheDir = join(tempFolder("cache-"), "cache");
  const alive = await TestMount.mount(node, { cacheDir });
  await fillCache(alive);
  const before = plaintextIn(cacheDir);
  const killed = await TestMount.mount(node, { cacheDir });
  await runOk("sh", ["-c", `cat ${killed.path}/large-* > /dev/null`]);
  await killed.kill();
  const next = await TestMount.mount(node, { cacheDir });
  const pools = () => readdirSync(join(cacheDir, "t")).length;
  for (let i = 0; i < 500 && pools() > 2; i++) await Bun.sleep(20);
  expect(pools()).toBe(2);
  expect(before.filter((name) => !existsSync(join(cacheDir, name)))).toEqual([]);
  await next.unmount();
  await alive.unmount();
  expect(leftIn(cacheDir)).toEqual([]);
});

test("no node for max_disconnect_seconds: the disk cache is wiped, and filled anew when the node is back", async () => {
  await runOk(KISEKI, ["policy", "set", "max_disconnect_seconds=2", "--data-dir", node.dataDir]);
  const mount = await TestMount.mount(node);
  await runOk(KISEKI, ["policy", "unset", "max_disconnect_seconds", "--data-dir", node.dataDir]);
  await fillCache(mount);
  await node.kill();
  for (let i = 0; i < 500 && !mount.log().includes("the caches are wiped"); i++) await Bun.sleep(20);
  expect(plaintextIn(mount.cacheDir)).toEqual([]);
  await node.restart();
  for (let i = 0; i < 500 && (await run("ls", [mount.path])).status !== 0; i++) await Bun.sleep(20);
  await fillCache(mount);
  await mount.unmount();
  expect(leftIn(mount.cacheDir)).toEqual([]);
});

test("the tenant is shredded: the disk cache is wiped under programs that read", async () => {
  await fill("doomed");
  const mount = await TestMount.mount(node, { tenant: "doomed" });
  await fillCache(mount);
  const right = await runOk("md5sum", [join(mount.path, "large-1")]);
  // Whatever is read without an error is right, to the last byte: no zeros of a wipe.
  const read = `while sum=$(md5sum ${mount.path}/large-1); do [ "$sum" = "${right.trim()}" ] || exit 9; done; exit 0`;
  const readers = [1, 2, 3].map(() => run("sh", ["-c", read]));
  const args = ["tenant", "shred", "doomed", "--ca", join(node.dataDir, "pki"), "--data-addr", node.addr, "--yes"];
  expect(await kiseki(args)).toMatchObject({ status: 0 });
  for (let i = 0; i < 500 && !mount.log().includes("the caches are wiped"); i++) await Bun.sleep(20);
  expect(plaintextIn(mount.cacheDir)).toEqual([]);
  expect((await Promise.all(readers)).map(({ status }) => status)).toEqual([0, 0, 0]);
  expect(await run("umount", [mount.path])).toMatchObject({ status: 0 });
  await ended(mount);
  expect(leftIn(mount.cacheDir)).toEqual([]);
});
