/** What a mount keeps on its local disk, as tests look at it, and reads that have to come from there. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { CacheStats } from "../../src/cache/control/stats.ts";
import { kiseki } from "./cli.ts";
import { tempFolder } from "./resources.ts";
import { runOk } from "./run.ts";
import { TestMount } from "./test-mount.ts";
import type { TestNode } from "./test-node.ts";

const SETTLE_PATIENCE_MS = 20_000;
const SETTLE_POLL_MS = 50;

export const MIB = 1024 * 1024;

/** Puts a file of random bytes into the root of the node's namespace. Returns where a copy of it stands, outside of any mount. */
export async function storeFile(node: TestNode, name: string, sizeMib: number): Promise<string> {
  const copy = join(tempFolder("expected-"), name);
  await runOk("dd", ["if=/dev/urandom", `of=${copy}`, "bs=1M", `count=${sizeMib}`, "status=none"]);
  const writer = await TestMount.mount(node, { args: ["--cache-mode", "bypass"] });
  await runOk("cp", [copy, join(writer.path, name)]);
  await writer.unmount();
  return copy;
}

export async function cacheStats(mount: TestMount): Promise<CacheStats> {
  const { status, stdout, stderr } = await kiseki(["cache", "stats", mount.path, "--json"]);
  if (status !== 0) throw new Error(`kiseki cache stats: ${stderr}`);
  return JSON.parse(stdout) as CacheStats;
}

/** Of a mount that has a disk cache. */
export async function l2Stats(mount: TestMount): Promise<NonNullable<CacheStats["l2"]>> {
  const { l2 } = await cacheStats(mount);
  if (l2 === null) throw new Error("the mount has no disk cache");
  return l2;
}

/** Waits until the statistics are as they should be. */
export async function untilStats(mount: TestMount, reached: (stats: CacheStats) => boolean): Promise<CacheStats> {
  const deadline = performance.now() + SETTLE_PATIENCE_MS;
  for (;;) {
    const stats = await cacheStats(mount);
    if (reached(stats)) return stats;
    if (performance.now() > deadline) throw new Error(`statistics never came true: ${JSON.stringify({ ...stats, latency: null })}`);
    await Bun.sleep(SETTLE_POLL_MS);
  }
}

/** Waits until nothing is being written to the disk any more. */
export async function untilIdle(mount: TestMount): Promise<CacheStats> {
  let last = await cacheStats(mount);
  return await untilStats(mount, (stats) => {
    const same = stats.l2?.insertions === last.l2?.insertions && stats.l2?.bytes === last.l2?.bytes;
    last = stats;
    return same;
  });
}

/** The folder of the mount's pool. */
export function poolFolder(mount: TestMount): string {
  const tenant = join(mount.cacheDir, "t");
  const pools = existsSync(tenant) ? readdirSync(tenant).filter((name) => /^[0-9a-f]{32}$/.test(name)) : [];
  if (pools.length !== 1) throw new Error(`expected one pool, found ${pools.length}`);
  return join(tenant, pools[0] as string);
}

/** Files below a folder, chunks first by their names. */
export function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
    .sort();
}

export function chunkFiles(mount: TestMount): string[] {
  return filesBelow(join(poolFolder(mount), "chunks"));
}

/** Throws away what the kernel keeps of a file of a mount. */
async function dropPages(file: string): Promise<void> {
  await runOk("dd", [`if=${file}`, "iflag=nocache", "count=0", "status=none"]);
}

/** Reads the file anew and compares it with `expected`, byte for byte. @throws Error when they differ */
export async function expectSameBytes(file: string, expected: string): Promise<void> {
  await dropPages(file);
  await runOk("cmp", [file, expected]);
}

/** How often a line of the log has this text. */
export function logLines(mount: TestMount, text: string): string[] {
  return readFileSync(mount.logFile, "utf8")
    .split("\n")
    .filter((line) => line.includes(text));
}
