/** kill -9 at every step that leaves a trace on the disk: strace kills the process as it enters its N-th call of a kind. */
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { CacheFolder } from "./cache-folder.ts";
import { scrub } from "./scrub.ts";
import { inspect, type Started, start } from "./test-pool-processes.ts";

setDefaultTimeout(120_000);

let base = "";
let cacheDir = "";
beforeEach(() => {
  base = mkdtempSync("/tmp/kiseki-crash-");
  cacheDir = join(base, "cache");
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

/** Kinds of calls, by all names that they have on x86_64 and aarch64. `?`: a name that this machine may not know. */
const CALLS = {
  mkdir: "?mkdir,mkdirat",
  rename: "?rename,?renameat,renameat2",
  lock: "flock",
  write: "pwrite64",
  sync: "fdatasync",
  unlink: "?unlink,unlinkat",
  rmdir: "?rmdir",
  send: "sendmsg",
  receive: "recvmsg",
  bind: "bind",
} as const;

function killAt(calls: string, nth: number): string[] {
  return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${calls}`, "-e", `inject=${calls}:signal=KILL:when=${nth}`];
}

/** Whether it came to its end in spite of all. */
async function survived(process: Started): Promise<boolean> {
  try {
    await process.end();
    return true;
  } catch {
    return false;
  }
}

async function expectNothingLeft(): Promise<void> {
  const scrubbed = await scrub(CacheFolder.open(cacheDir));
  expect(scrubbed.filter(({ state }) => state !== "wiped")).toEqual([]);
  const { paths, hasMarker } = inspect(cacheDir);
  expect(hasMarker).toBe(false);
  expect(paths).toEqual(["node.lock"]);
}

/** Runs `victim` killed at the 1st, 2nd, ... call of each kind, as long as there is one. Returns how many died, by kind. */
async function killEverywhere(kinds: readonly (keyof typeof CALLS)[], victim: (prefix: string[]) => Promise<boolean>) {
  const died: Record<string, number> = {};
  for (const kind of kinds) {
    // Of the 256 folders for chunks, and their removal, only some.
    for (let nth = 1; ; nth += nth > 6 ? 250 : 1) {
      if (await victim(killAt(CALLS[kind], nth))) break;
      died[kind] = (died[kind] ?? 0) + 1;
      await expectNothingLeft();
    }
  }
  return died;
}

test("killed while a pool is made, filled and wiped: one scrub leaves nothing", async () => {
  let seenMarker = 0;
  const died = await killEverywhere(["mkdir", "rename", "lock", "write", "sync", "unlink", "rmdir"], async (prefix) => {
    const process = start(["hold", cacheDir], prefix);
    process.goOn();
    const alive = await survived(process);
    if (!alive && inspect(cacheDir).hasMarker) seenMarker++;
    return alive;
  });
  expect(Object.keys(died)).toEqual(["mkdir", "rename", "lock", "write", "sync", "unlink", "rmdir"]);
  // Else nothing was there that could have been left.
  expect(seenMarker).toBeGreaterThan(5);
});

test("killed while a dead pool is adopted: one scrub leaves nothing", async () => {
  const died = await killEverywhere(["mkdir", "lock", "write"], async (prefix) => {
    const holder = start(["hold", cacheDir]);
    const id = (await holder.line()) ?? "";
    await holder.kill();
    expect(inspect(cacheDir).hasMarker).toBe(true);
    const adopter = start(["adopt", cacheDir, id], prefix);
    adopter.goOn();
    return survived(adopter);
  });
  expect(Object.keys(died)).toEqual(["mkdir", "lock", "write"]);
});

test("killed while a pool is handed over, either side: one scrub leaves nothing", async () => {
  const died = await killEverywhere(["bind", "send", "receive"], async (prefix) => {
    let nobodyDied = true;
    for (const victim of ["daemon", "adopter"]) {
      const daemon = start(["stage", cacheDir], victim === "daemon" ? prefix : []);
      const id = await daemon.line();
      if (id === null) {
        nobodyDied = false;
        continue;
      }
      const adopter = start(["adopt", cacheDir, id], victim === "adopter" ? prefix : []);
      adopter.goOn();
      if (!(await survived(adopter))) {
        nobodyDied = false;
        // It may have died before it asked for the pool.
        await daemon.kill();
      } else if (!(await survived(daemon))) {
        // From a daemon that dies as it hands over, the pool was adopted all the same.
        nobodyDied = false;
      }
    }
    return nobodyDied;
  });
  expect(Object.keys(died)).toEqual(["bind", "send", "receive"]);
});

test("killed while it wipes a dead pool: the next scrub goes on", async () => {
  let seenMarker = 0;
  const died = await killEverywhere(["lock", "write", "sync", "unlink", "rmdir"], async (prefix) => {
    const holder = start(["hold", cacheDir]);
    await holder.line();
    await holder.kill();
    const alive = await survived(start(["scrub", cacheDir], prefix));
    if (!alive && inspect(cacheDir).hasMarker) seenMarker++;
    return alive;
  });
  expect(Object.keys(died)).toEqual(["lock", "write", "sync", "unlink", "rmdir"]);
  expect(seenMarker).toBeGreaterThan(5);
});
