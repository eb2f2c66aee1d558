/**
 * The storage node in trouble while processes write: a disk that fills up, restarts in the middle of a write-out, and a process that stands
 * still. Writers get an error or wait, nothing acknowledged is lost, unmounting works, and nobody hangs for ever.
 */
import { afterAll, beforeEach, expect, test } from "bun:test";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Driver } from "./random/driver.ts";
import { Chance, howToRepeat, SEED, SOAK_S } from "./random/settings.ts";
import { cleanUp, isMounted, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

const TIMEOUT_MS = 180_000;
const DISK = "64m";
const WRITERS = 3;
const LARGE_MIB = 48;
/** A request's deadline is 30 s; a call may need a few of them. */
const GIVE_UP_MS = 150_000;
/** Unmounting with a node that doesn't answer: the client gives its writers up. */
const UMOUNT_PATIENCE_MS = 60_000;

let drivers: Driver[] = [];
const chance = new Chance(SEED);

beforeEach(async () => {
  drivers = Array.from({ length: WRITERS }, () => new Driver("crasher.py"));
  await Promise.all(drivers.map((one) => one.call("ready", [])));
});
afterAll(cleanUp);
console.log(howToRepeat("node-faults"));

/** No process of the test sleeps where not even SIGKILL reaches it. */
async function expectNobodyStuck(...pids: number[]): Promise<void> {
  for (let tries = 0; ; tries++) {
    const stuck = [...drivers.map(({ pid }) => pid), ...pids].filter((pid) => stateOf(pid) === "D");
    if (stuck.length === 0) return;
    if (tries === 20) expect(stuck).toEqual([]);
    await Bun.sleep(100);
  }
}

function stateOf(pid: number): string {
  try {
    return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
  } catch {
    return "";
  }
}

async function expectUndamaged(node: TestNode): Promise<void> {
  await node.stop();
  const { status, stdout, stderr } = await run(KISEKI, ["serve", "--verify", "--data-dir", node.dataDir]);
  expect({ status, said: stdout + stderr }).toMatchObject({ status: 0 });
}

test(
  "a full disk: writers fail with ENOSPC, what was acknowledged before is there",
  async () => {
    const disk = join(tempFolder("disk-"), "small");
    mkdirSync(disk);
    await runOk("mount", ["-t", "tmpfs", "-o", `size=${DISK}`, "none", disk]);
    const unmountDisk = () => void (isMounted(disk) && Bun.spawnSync(["umount", "-l", disk]));
    onCleanUp({ end: unmountDisk, endNow: unmountDisk });
    const node = await TestNode.start({ dataDir: join(disk, "data") });
    let mount = await TestMount.mount(node);
    const journals = tempFolder("journals-");
    const work = drivers.map((one, i) =>
      one.call<{ error: string | null }>("work", [mount.path, `w${i}`, join(journals, `w${i}`), SEED + i, 0, 60], GIVE_UP_MS),
    );
    const ended = await Promise.all(work);
    for (const { error } of ended) expect(error).toContain("No space left");
    expect(mount.isRunning).toBe(true);
    await expectNobodyStuck(mount.pid);
    // Data that found no room is given up with it.
    await runOk("umount", [mount.path], { timeoutMs: UMOUNT_PATIENCE_MS });
    expect(isMounted(mount.path)).toBe(false);
    mount = await TestMount.mount(node);
    for (const [i, one] of drivers.entries()) {
      const { wrong } = await one.call<{ wrong: string[] }>("verify", [mount.path, `w${i}`, join(journals, `w${i}`)]);
      expect(wrong).toEqual([]);
    }
    await mount.unmount();
    await expectUndamaged(node);
  },
  TIMEOUT_MS,
);

test(
  "the node restarts in the middle of a write-out: the writers don't notice",
  async () => {
    const node = await TestNode.start();
    const mount = await TestMount.mount(node, { args: ["--cache-l1-max", "32M"] });
    const path = (i: number) => join(mount.path, `large-${i}`);
    const writing = Promise.all(
      drivers.map((one, i) => one.call<string | null>("write_large", [path(i), SEED + i, LARGE_MIB, 1], GIVE_UP_MS)),
    );
    writing.catch(() => undefined);
    for (const signal of ["SIGTERM", "SIGKILL", "SIGKILL"] as const) {
      await Bun.sleep(100 + chance.below(300));
      await node.restart(signal);
    }
    expect(await writing).toEqual(drivers.map(() => null));
    await mount.unmount();
    const again = await TestMount.mount(node);
    for (const [i, one] of drivers.entries()) {
      expect(await one.call<string | null>("check_large", [join(again.path, `large-${i}`), SEED + i, LARGE_MIB, 1])).toBeNull();
    }
    await again.unmount();
    await expectUndamaged(node);
  },
  TIMEOUT_MS,
);

test(
  "a frozen node: writers wait for it, and go on when it goes on",
  async () => {
    const node = await TestNode.start();
    const mount = await TestMount.mount(node, { args: ["--cache-l1-max", "32M"] });
    const path = (i: number) => join(mount.path, `large-${i}`);
    const writing = Promise.all(
      drivers.map((one, i) => one.call<string | null>("write_large", [path(i), SEED + i, LARGE_MIB, 1], GIVE_UP_MS)),
    );
    writing.catch(() => undefined);
    for (let i = 0; i < 2; i++) {
      await Bun.sleep(100 + chance.below(200));
      node.freeze();
      // Longer than a lease lives.
      await Bun.sleep(6_000);
      node.resume();
    }
    expect(await writing).toEqual(drivers.map(() => null));
    for (const [i, one] of drivers.entries()) {
      expect(await one.call<string | null>("check_large", [path(i), SEED + i, LARGE_MIB, 1])).toBeNull();
    }
    await mount.unmount();
    await expectUndamaged(node);
  },
  TIMEOUT_MS,
);

test(
  "a node that stays frozen: a forced unmount works and ends the writers, and nobody hangs",
  async () => {
    const node = await TestNode.start();
    const mount = await TestMount.mount(node, { args: ["--cache-l1-max", "32M"] });
    const first = drivers[0] as Driver;
    expect(await first.call<string | null>("write_large", [join(mount.path, "before"), SEED, 4, 1])).toBeNull();
    const writing = Promise.all(
      drivers.map((one, i) => one.call<string | null>("write_large", [join(mount.path, `large-${i}`), SEED + i, LARGE_MIB, 1], GIVE_UP_MS)),
    );
    writing.catch(() => undefined);
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
    await expectNobodyStuck();
    node.resume();
    await mount.kill();
    const again = await TestMount.mount(node);
    expect(await first.call<string | null>("check_large", [join(again.path, "before"), SEED, 4, 1])).toBeNull();
    await again.unmount();
    await expectUndamaged(node);
  },
  TIMEOUT_MS,
);

// Takes as long as the deadlines: only in long runs.
if (SOAK_S >= 120) {
  test(
    "a node that stays frozen: writers fail with EIO at their deadline",
    async () => {
      const node = await TestNode.start();
      const mount = await TestMount.mount(node, { args: ["--cache-l1-max", "32M"] });
      await runOk("ls", [mount.path]);
      node.freeze();
      const outcomes = await Promise.all(
        drivers.map((one, i) =>
          one.call<string | null>("write_large", [join(mount.path, `large-${i}`), SEED + i, LARGE_MIB, 1], GIVE_UP_MS),
        ),
      );
      for (const outcome of outcomes) expect(outcome).toMatch(/^(open|write|fsync|close) EIO$/);
      await expectNobodyStuck(mount.pid);
      node.resume();
      await mount.unmount();
      await expectUndamaged(node);
    },
    TIMEOUT_MS,
  );
}
