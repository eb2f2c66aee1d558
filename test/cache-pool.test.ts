/** The disk cache of a mount: there while it lives, gone when it ends, scrubbed when it was killed. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { MARKER } from "../src/cache/pool/test-pool-process.ts";
import { inspect } from "../src/cache/pool/test-pool-processes.ts";
import { kiseki, mountArguments, mountProcessEnded, mountProcesses, mountpoint } from "./support/cli.ts";
import { cleanUp, KISEKI, onCleanUp, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const PATIENCE_MS = 20_000;
const POLL_MS = 20;
const FILE_BYTES = 6 * 2 ** 20;

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
  await using writer = await TestMount.mount(node);
  await runOk("bash", ["-c", `yes '${MARKER}' | head -c ${FILE_BYTES} > ${writer.path}/data`]);
});
afterAll(cleanUp);

async function until(what: () => boolean): Promise<boolean> {
  for (const deadline = performance.now() + PATIENCE_MS; performance.now() < deadline; await Bun.sleep(POLL_MS)) if (what()) return true;
  return false;
}

/** A mount in the background that has the marker in its disk cache. */
async function cachingMount(cacheDir: string): Promise<string> {
  const path = mountpoint();
  const log = join(tempFolder("log-"), "mount.log");
  const args = [...(await mountArguments(node)), "--cache-dir", cacheDir, "--log-file", log];
  expect(await kiseki(["mount", path, ...args])).toEqual({ status: 0, stdout: "", stderr: "" });
  await runOk("cat", [join(path, "data")]);
  expect(await until(() => inspect(cacheDir).hasMarker)).toBe(true);
  return path;
}

function pidOf(path: string): number {
  const [pid] = mountProcesses(path);
  if (pid === undefined) throw new Error(`${path}: no process`);
  return pid;
}

const newCacheDir = () => join(tempFolder("cache-"), "cache");

const ENDS: readonly [string, (path: string) => unknown][] = [
  ["kiseki umount", (path: string) => kiseki(["umount", path])],
  ["umount", (path: string) => runOk("umount", [path])],
  ["fusermount3 -u", (path: string) => runOk("fusermount3", ["-u", path])],
  ["SIGTERM", (path: string) => process.kill(pidOf(path), "SIGTERM")],
  ["SIGINT", (path: string) => process.kill(pidOf(path), "SIGINT")],
];

test.each(ENDS)("after %s nothing of the pool is left", async (_, end) => {
  const cacheDir = newCacheDir();
  const path = await cachingMount(cacheDir);
  await end(path);
  expect(await mountProcessEnded(path, PATIENCE_MS)).toBe(true);
  expect(inspect(cacheDir)).toEqual({ paths: ["node.lock"], hasMarker: false });
});

test("kiseki umount returns when the pool is gone", async () => {
  const cacheDir = newCacheDir();
  const path = await cachingMount(cacheDir);
  expect((await kiseki(["umount", path])).status).toBe(0);
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("what a killed mount leaves is destroyed by kiseki scrub", async () => {
  const cacheDir = newCacheDir();
  const path = await cachingMount(cacheDir);
  process.kill(pidOf(path), "SIGKILL");
  expect(await mountProcessEnded(path, PATIENCE_MS)).toBe(true);
  expect(inspect(cacheDir).hasMarker).toBe(true);
  expect((await kiseki(["scrub", "--cache-dir", cacheDir])).status).toBe(0);
  expect(inspect(cacheDir)).toEqual({ paths: ["node.lock"], hasMarker: false });
});

test("what a killed mount leaves is destroyed by the next mount of that cache_dir", async () => {
  const cacheDir = newCacheDir();
  const killed = await cachingMount(cacheDir);
  const pools = () => readdirSync(join(cacheDir, "t"));
  const [dead = ""] = pools();
  process.kill(pidOf(killed), "SIGKILL");
  expect(await mountProcessEnded(killed, PATIENCE_MS)).toBe(true);
  await using mount = await TestMount.mount(node, { cacheDir });
  expect(await until(() => !pools().includes(dead))).toBe(true);
  expect(pools()).toHaveLength(1);
  expect(inspect(cacheDir).hasMarker).toBe(false);
  expect(await until(() => mount.log().includes(`${dead}: wiped`))).toBe(true);
});

test("scrubs that never stop leave starting and living mounts alone", async () => {
  const cacheDir = newCacheDir();
  const watch = Bun.spawn([KISEKI, "scrub", "--cache-dir", cacheDir, "--watch", "0.1", "--json"], { stdout: "pipe", stderr: "pipe" });
  const endNow = () => watch.kill("SIGKILL");
  onCleanUp({ end: endNow, endNow });
  for (let round = 0; round < 4; round++) {
    const path = await cachingMount(cacheDir);
    expect((await kiseki(["umount", path])).status).toBe(0);
  }
  watch.kill("SIGTERM");
  expect(await watch.exited).toBe(0);
  const passes = (await new Response(watch.stdout).text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(passes.some(({ live }) => live > 0)).toBe(true);
  expect(passes.filter(({ wiped, failed }) => wiped + failed > 0)).toEqual([]);
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("several mounts share a cache_dir", async () => {
  const cacheDir = newCacheDir();
  const first = await cachingMount(cacheDir);
  const second = await cachingMount(cacheDir);
  expect(readdirSync(join(cacheDir, "t"))).toHaveLength(2);
  expect((await kiseki(["umount", first])).status).toBe(0);
  expect(inspect(cacheDir).hasMarker).toBe(true);
  expect(await runOk("head", ["-c", String(MARKER.length), join(second, "data")])).toBe(MARKER);
  expect((await kiseki(["umount", second])).status).toBe(0);
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("files of the cache are for this user alone", async () => {
  const cacheDir = newCacheDir();
  const path = await cachingMount(cacheDir);
  const open = await runOk("find", [
    cacheDir,
    "!",
    "-type",
    "s",
    "(",
    "-type",
    "d",
    "!",
    "-perm",
    "700",
    "-o",
    "-type",
    "f",
    "!",
    "-perm",
    "600",
    ")",
  ]);
  expect(open).toBe("");
  expect((await kiseki(["umount", path])).status).toBe(0);
});

test("a cache_dir that others can write into is refused with a reason", async () => {
  const cacheDir = newCacheDir();
  mkdirSync(cacheDir);
  chmodSync(cacheDir, 0o770);
  const path = mountpoint();
  const { status, stderr } = await kiseki(["mount", path, ...(await mountArguments(node)), "--cache-dir", cacheDir]);
  expect({ status, stderr }).toEqual({
    status: 1,
    stderr: `kiseki: cache_dir ${cacheDir}: others can write into it (mode 0770); use a folder of your own with mode 0700 (-o cache_dir=DIR)\n`,
  });
});

test("a cache_dir is refused inside a kiseki mount, and under a folder that others can swap", async () => {
  const parent = newCacheDir();
  mkdirSync(parent);
  chmodSync(parent, 0o775);
  await using mount = await TestMount.mount(node, { cacheDir: newCacheDir() });
  const refusals: [string, string][] = [
    [join(mount.path, "cache"), `lies inside the kiseki mount ${mount.path}; use a folder on a local disk`],
    [
      join(parent, "cache"),
      `others can replace it: ${parent} is writable for others and not sticky; use a folder of your own with mode 0700 (-o cache_dir=DIR)`,
    ],
  ];
  for (const [cacheDir, reason] of refusals) {
    const { status, stderr } = await kiseki(["mount", mountpoint(), ...(await mountArguments(node)), "--cache-dir", cacheDir]);
    expect({ status, stderr }).toEqual({ status: 1, stderr: `kiseki: cache_dir ${cacheDir}: ${reason}\n` });
  }
  expect(existsSync(join(mount.path, "cache"))).toBe(false);
});

test("the limit of a pool holds while more is read than it may keep", async () => {
  const cacheDir = newCacheDir();
  await using mount = await TestMount.mount(node, { cacheDir, args: ["-o", "cache_l2_max=3M,cache_l1_max=16M"] });
  let most = 0;
  const reading = runOk("bash", ["-c", `for i in 1 2 3; do cat ${mount.path}/data > /dev/null; echo 3 > /proc/sys/vm/drop_caches; done`]);
  let done = false;
  reading.finally(() => {
    done = true;
  });
  while (!done) {
    const sizes = (await runOk("bash", ["-c", `du -B1 -s ${cacheDir}/t/*/chunks/*/* 2>/dev/null || true`])).split("\n");
    most = Math.max(
      most,
      sizes.reduce((sum, line) => sum + Number(line.split("\t")[0]), 0),
    );
  }
  await reading;
  expect(most).toBeLessThanOrEqual(3 * 2 ** 20);
  expect(existsSync(cacheDir)).toBe(true);
  expect(readFileSync(mount.logFile, "utf8")).not.toContain('"level":50');
});
