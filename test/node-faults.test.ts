/**
 * The storage node in trouble while processes write: a disk that fills up, restarts in the middle of a write-out, and a process that stands
 * still. Writers get an error or wait, nothing acknowledged is lost, unmounting works, and nobody hangs for ever.
 */
import { afterAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { Chance, howToRepeat, SEED, SOAK_S } from "./random/settings.ts";
import { expectUndamaged, Writers } from "./random/writers.ts";
import { smallDisk } from "./support/disk.ts";
import { cleanUp, isMounted, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(180_000);

const DISK = "128M";
/** Of the disk, what another program has for a while. */
const BALLAST_MIB = 56;
const WRITERS = 3;
const FILL_S = 60;
const GO_ON_S = 0.3;
const LITTLE_MEMORY = { args: ["--cache-l1-max", "32M"] };
/** Unmounting with a node that doesn't answer: the client gives its writers up. */
const UMOUNT_PATIENCE_MS = 60_000;

let writers: Writers;
const chance = new Chance(SEED);
const nobodyFails = Array.from({ length: WRITERS }, () => null);

beforeEach(async () => {
  writers = await Writers.start(WRITERS);
});
afterAll(cleanUp);
console.log(howToRepeat("node-faults"));

/** Writers of large files don't notice what `trouble` does to their node. */
async function expectUnnoticed(trouble: (node: TestNode) => Promise<void>): Promise<void> {
  const node = await TestNode.start();
  const mount = await TestMount.mount(node, LITTLE_MEMORY);
  const writing = writers.writeLarge(mount);
  await trouble(node);
  expect(await writing).toEqual(nobodyFails);
  await mount.unmount();
  const again = await TestMount.mount(node);
  await writers.expectLarge(again);
  await again.unmount();
  await expectUndamaged(node);
}

test("a full disk: writers fail with ENOSPC, what was acknowledged before is there, and with room again they go on", async () => {
  const disk = await smallDisk(DISK);
  await runOk("dd", ["if=/dev/zero", `of=${disk}/ballast`, "bs=1M", `count=${BALLAST_MIB}`, "status=none"]);
  const node = await TestNode.start({ dataDir: join(disk, "data") });
  let mount = await TestMount.mount(node);
  for (const failure of await writers.work(mount, FILL_S)) expect(failure).toContain("No space left");
  expect(mount.isRunning).toBe(true);
  await writers.expectNobodyStuck(mount.pid, node.pid);
  // Data that found no room is given up with it.
  await runOk("umount", [mount.path], { timeoutMs: UMOUNT_PATIENCE_MS });
  expect(isMounted(mount.path)).toBe(false);
  mount = await TestMount.mount(node);
  await writers.expectWork(mount);
  rmSync(join(disk, "ballast"));
  // The disk has its room when the removal is committed, and the node looks again after a second.
  await runOk("sync", ["-f", disk]);
  await Bun.sleep(1_500);
  expect(await writers.work(mount, GO_ON_S, 1_000_000)).toEqual(nobodyFails);
  await writers.expectWork(mount);
  await mount.unmount();
  await expectUndamaged(node);
});

test("the node restarts in the middle of a write-out: the writers don't notice", async () => {
  await expectUnnoticed(async (node) => {
    for (const signal of ["SIGTERM", "SIGKILL", "SIGKILL"] as const) {
      await Bun.sleep(100 + chance.below(300));
      await node.restart(signal);
    }
  });
});

test("a frozen node: writers wait for it, and go on when it goes on", async () => {
  await expectUnnoticed(async (node) => {
    for (let i = 0; i < 2; i++) {
      await Bun.sleep(100 + chance.below(200));
      node.freeze();
      // Longer than a lease lives.
      await Bun.sleep(6_000);
      node.resume();
    }
  });
});

test("a node that stays frozen: a forced unmount works and ends the writers, and nobody hangs", async () => {
  const node = await TestNode.start();
  const mount = await TestMount.mount(node, LITTLE_MEMORY);
  expect(await writers.work(mount, GO_ON_S)).toEqual(nobodyFails);
  const writing = writers.writeLarge(mount);
  await Bun.sleep(150);
  node.freeze();
  await Bun.sleep(2_000);
  const begin = performance.now();
  // Files are open, so that it can only be aborted and detached.
  await run("umount", ["-f", mount.path], { timeoutMs: UMOUNT_PATIENCE_MS });
  if (isMounted(mount.path)) await runOk("umount", ["-l", mount.path], { timeoutMs: UMOUNT_PATIENCE_MS });
  expect(isMounted(mount.path)).toBe(false);
  const outcomes = await writing;
  expect(performance.now() - begin).toBeLessThan(UMOUNT_PATIENCE_MS);
  for (const outcome of outcomes) expect(outcome).toMatch(/^(write|fsync|close|open) (EIO|ENOTCONN|ECONNABORTED)$/);
  await writers.expectNobodyStuck();
  node.resume();
  await mount.kill();
  const again = await TestMount.mount(node);
  await writers.expectWork(again);
  await again.unmount();
  await expectUndamaged(node);
});

// Takes as long as the deadlines: only in long runs.
if (SOAK_S >= 120) {
  test("a node that stays frozen: writers fail with EIO at their deadline", async () => {
    const node = await TestNode.start();
    const mount = await TestMount.mount(node, LITTLE_MEMORY);
    await runOk("ls", [mount.path]);
    node.freeze();
    for (const outcome of await writers.writeLarge(mount)) expect(outcome).toMatch(/^(open|write|fsync|close) EIO$/);
    await writers.expectNobodyStuck(mount.pid);
    node.resume();
    await mount.unmount();
    await expectUndamaged(node);
  });
}
