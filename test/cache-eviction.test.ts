/** What stays in the local disk's cache when more is read than fits. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { kiseki } from "./support/cli.ts";
import { cleanUp, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(120_000);
const MIB = 1 << 20;
const BLOCK_BYTES = 65_536;
const POOL_MIB = 96;
const HOT_MIB = 60;
const SCAN_MIB = 320;
/** Passes until everything is on the disk: what comes too fast for it is left out. */
const PASSES_MAX = 12;

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
  await using writer = await TestMount.mount(node);
  await runOk("dd", ["if=/dev/urandom", `of=${join(writer.path, "hot")}`, "bs=1M", `count=${HOT_MIB}`]);
  await runOk("dd", ["if=/dev/urandom", `of=${join(writer.path, "scan")}`, "bs=1M", `count=${SCAN_MIB}`]);
  await writer.unmount();
});
afterAll(cleanUp);

interface Stats {
  reads: { l1Hits: number; l2Hits: number; misses: number };
  l2: { bytes: number; maxBytes: number; insertions: number; evictions: number; faults: Record<string, number> };
}

async function statsOf(mount: TestMount): Promise<Stats> {
  const { status, stdout, stderr } = await kiseki(["cache", "stats", mount.path, "--json"]);
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Stats;
}

/** Reads a file past the kernel's cache; the part of its blocks that came from the disk cache. */
async function read(mount: TestMount, name: string, mib: number): Promise<number> {
  const path = join(mount.path, name);
  const before = (await statsOf(mount)).reads.l2Hits;
  await runOk("dd", [`if=${path}`, "of=/dev/null", "bs=1M"]);
  await runOk("dd", [`if=${path}`, "iflag=nocache", "count=0"]);
  return (((await statsOf(mount)).reads.l2Hits - before) * BLOCK_BYTES) / (mib * MIB);
}

test("a file that was read several times stays through a scan of three times the pool, which writes little to the disk", async () => {
  await using mount = await TestMount.mount(node, { args: ["-o", `cache_l1_max=16M,cache_l2_max=${POOL_MIB}M`] });
  let hits = 0;
  for (let pass = 0; pass < PASSES_MAX && hits < 0.8; pass++) hits = await read(mount, "hot", HOT_MIB);
  expect(hits).toBeGreaterThanOrEqual(0.8);
  const before = await statsOf(mount);
  await read(mount, "scan", SCAN_MIB);
  const after = await statsOf(mount);
  expect(after.l2.bytes).toBeLessThanOrEqual(POOL_MIB * MIB);
  // First what is free is filled, then one chunk of some comes in.
  const free = before.l2.maxBytes - before.l2.bytes;
  expect((after.l2.insertions - before.l2.insertions) * BLOCK_BYTES).toBeLessThan(free + 0.4 * SCAN_MIB * MIB);
  expect(await read(mount, "hot", HOT_MIB)).toBeGreaterThanOrEqual(hits - 0.15);
  expect((await statsOf(mount)).l2.faults).toEqual(before.l2.faults);
});

test("a file that is larger than the pool is served from it in part, each time that it is read", async () => {
  await using mount = await TestMount.mount(node, { args: ["-o", `cache_l1_max=16M,cache_l2_max=${POOL_MIB}M`] });
  for (let pass = 0; pass < 4; pass++) await read(mount, "scan", SCAN_MIB);
  // Of 320 MiB, 96 fit.
  expect(await read(mount, "scan", SCAN_MIB)).toBeGreaterThan(0.15);
});
