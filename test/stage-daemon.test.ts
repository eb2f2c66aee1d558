/** kiseki stage as a user runs it: into a running mount, by a daemon, and the hand-over to a mount. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { kiseki } from "./support/cli.ts";
import { cleanUp, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { cacheDirOf, poolsIn } from "./support/staging.ts";

setDefaultTimeout(90_000);

const POLL_MS = 10;
const PATIENCE_MS = 20_000;

let node: TestNode;
let logFile: string;
/** sha256 of /data/large. */
let sum: string;

beforeAll(async () => {
  node = await TestNode.start();
  logFile = join(tempFolder("stage-"), "stage.log");
  await using mount = await TestMount.mount(node);
  await runOk("sh", [
    "-ec",
    'mkdir -p "$1/data/sub" "$1/other"; cd "$1/data"; head -c 60000000 /dev/urandom > large; for i in $(seq 100); do echo $i > sub/$i; done; echo x > ../other/x',
    "sh",
    mount.path,
  ]);
  sum = await sumOf(join(mount.path, "data/large"));
  await mount.unmount();
});
afterAll(cleanUp);

async function sumOf(path: string): Promise<string> {
  return (await runOk("sha256sum", [path])).split(" ")[0] ?? "";
}

interface Settings {
  env: Record<string, string>;
}

async function settings(cacheDir: string, tenant = "t"): Promise<Settings> {
  return {
    env: {
      KISEKI_DATA_ADDR: node.addr,
      KISEKI_TENANT: tenant,
      KISEKI_CREDENTIALS: await node.credentials(tenant),
      KISEKI_CACHE_DIR: cacheDir,
    },
  };
}

/** A cache_dir; the daemons in it are ended with the test file. */
function newCacheDir(): string {
  const path = join(tempFolder("cache-"), "cache");
  const end = () => {
    for (const pid of daemonsOf(path)) process.kill(pid, "SIGKILL");
  };
  onCleanUp({ end, endNow: end });
  return path;
}

/** Pids of the processes that have a pool in this cache_dir, as its locks say. */
function daemonsOf(cacheDir: string): number[] {
  return poolsIn(cacheDir)
    .map((pool) => (JSON.parse(readFileSync(join(pool, "pool.lock"), "utf8")) as { pid: number }).pid)
    .filter((pid) => existsSync(`/proc/${pid}`));
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await Bun.sleep(POLL_MS);
  }
}

const ended = (pid: number) => until(`the end of process ${pid}`, () => !existsSync(`/proc/${pid}`));

/** Stages /data by a daemon. Returns the pool's id and the daemon's pid. */
async function daemon(cacheDir: string, ...more: string[]): Promise<{ id: string; pid: number }> {
  const { status, stdout, stderr } = await kiseki(
    ["stage", "--dataset", "/data", "--daemon", "--log-file", logFile, ...more],
    await settings(cacheDir),
  );
  expect(`${status} ${stderr}`).toMatch(/^0 (?:.*\n)*kiseki: staged \/data: 101 files, 57\.2 MiB\n$/);
  expect(stdout).toMatch(/^[0-9a-f]{32}\n$/);
  const [pid] = daemonsOf(cacheDir);
  if (pid === undefined) throw new Error("the daemon is gone");
  return { id: stdout.trim(), pid };
}

test("stages into the pool of a running mount, lists it, and lets go of it", async () => {
  await using mount = await TestMount.mount(node);
  const cacheDir = cacheDirOf(mount);
  const own = await settings(cacheDir);
  const staged = await kiseki(["stage", "--dataset", "/data/"], own);
  expect(staged.stdout).toMatch(/^kiseki: staged \/data: 101 files, 57\.2 MiB, in pool [0-9a-f]{32}\n$/);
  const status = JSON.parse((await kiseki(["stage", "--status", "--json"], own)).stdout);
  expect(status).toMatchObject({
    kind: "mount",
    tenant: "t",
    mountpoint: mount.path,
    datasets: [{ path: "/data", state: "complete", files: 101 }],
  });
  expect((await kiseki(["stage", "--status"], own)).stdout).toContain("complete    /data: 101 files, 57.2 MiB");
  expect((await kiseki(["cache", "stats", mount.path])).stdout).toMatch(/^staged\n {2}\/data +complete/m);
  expect(await kiseki(["stage", "--release", "/data"], own)).toMatchObject({ status: 0 });
  const again = await kiseki(["stage", "--release", "/data"], own);
  expect(again).toMatchObject({ status: 1, stderr: "kiseki: /data is not staged in any pool here; see: kiseki stage --status\n" });
  await mount.unmount();
});

test("a daemon stages, and a mount takes its pool over, with the node stopped; at the end nothing is left", async () => {
  const cacheDir = newCacheDir();
  const { id, pid } = await daemon(cacheDir);
  // The daemon keeps its pool alive: a scrub leaves it alone.
  await kiseki(["scrub", "--cache-dir", cacheDir]);
  await node.stop();
  try {
    await using mount = await TestMount.mount(node, { args: ["--cache-dir", cacheDir], env: { KISEKI_CACHE_POOL_ID: id } });
    await ended(pid);
    expect(poolsIn(cacheDir)).toHaveLength(1);
    expect(await sumOf(join(mount.path, "data/large"))).toBe(sum);
    expect(await runOk("cat", [join(mount.path, "data/sub/77")])).toBe("77\n");
    await mount.unmount();
  } finally {
    await node.restart();
  }
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("the same command again is done at once, in the same pool", async () => {
  const cacheDir = newCacheDir();
  const first = await daemon(cacheDir);
  expect(await daemon(cacheDir)).toEqual(first);
  const released = await kiseki(["stage", "--release-all"], await settings(cacheDir));
  expect(released.stdout).toMatch(new RegExp(`^kiseki: released 1 dataset, 57\\.\\d MiB; pool ${first.id} is deleted\n$`));
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
  expect((await kiseki(["stage", "--release-all"], await settings(cacheDir))).stdout).toBe("kiseki: nothing is staged here\n");
});

test("a daemon that has died is adopted from too, and staging goes on where one had died", async () => {
  const cacheDir = newCacheDir();
  const first = await daemon(cacheDir);
  process.kill(first.pid, "SIGKILL");
  await ended(first.pid);
  const second = await daemon(cacheDir);
  expect(second.id).toBe(first.id);
  process.kill(second.pid, "SIGKILL");
  await ended(second.pid);
  await using mount = await TestMount.mount(node, { args: ["--cache-dir", cacheDir, "-o", `pool_id=${first.id}`] });
  expect(JSON.parse((await kiseki(["stage", "--status", "--json"], await settings(cacheDir))).stdout)).toMatchObject({
    kind: "mount",
    pool: first.id,
    datasets: [{ path: "/data", state: "complete" }],
  });
  await mount.unmount();
});

test("Ctrl-C stops staging: what is there stays, and the same command goes on", async () => {
  const cacheDir = newCacheDir();
  const own = await settings(cacheDir);
  const child = Bun.spawn([KISEKI, "stage", "--dataset", "/data", "--daemon", "--log-file", logFile], {
    env: { ...process.env, ...own.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  // The node does not answer: nothing can get done before the interrupt.
  await until("a daemon", () => poolsIn(cacheDir).some((pool) => existsSync(join(pool, "control.sock"))));
  node.freeze();
  child.kill("SIGINT");
  const stderr = await new Response(child.stderr).text();
  node.resume();
  // It may have been faster than the signal.
  if ((await child.exited) !== 0) {
    expect(child.exitCode).toBe(1);
    expect(stderr).toContain("kiseki: /data: interrupted");
    expect(stderr).not.toContain("    at ");
  }
  const { id } = await daemon(cacheDir);
  // A daemon that had nothing yet when it was interrupted ends, and may still be deleting its pool.
  await until("one pool", () => poolsIn(cacheDir).length === 1);
  expect(poolsIn(cacheDir).map((pool) => pool.slice(-32))).toEqual([id]);
  await kiseki(["stage", "--release-all"], own);
});

test("a daemon that is killed while it stages: a line says so", async () => {
  const cacheDir = newCacheDir();
  const { id, pid } = await daemon(cacheDir);
  const own = await settings(cacheDir);
  node.freeze();
  try {
    const staging = kiseki(["stage", "--dataset", "/other", "--pool", id], own);
    await Bun.sleep(500);
    process.kill(pid, "SIGKILL");
    expect(await staging).toMatchObject({ status: 1, stderr: `kiseki: /other: the process of pool ${id} has ended\n` });
  } finally {
    node.resume();
  }
});

test("a daemon that has nothing staged ends, and leaves nothing", async () => {
  const cacheDir = newCacheDir();
  const failed = await kiseki(["stage", "--dataset", "/none", "--daemon", "--log-file", logFile], await settings(cacheDir));
  expect(failed).toMatchObject({ status: 1, stdout: "", stderr: "kiseki: /none: no such file or folder\n" });
  await until("the end of the pool", () => poolsIn(cacheDir).length === 0);
});

test("SIGTERM ends a daemon, and its pool is wiped", async () => {
  const cacheDir = newCacheDir();
  const { pid } = await daemon(cacheDir);
  process.kill(pid, "SIGTERM");
  await ended(pid);
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("several datasets in one daemon; the last one that is released ends it", async () => {
  const cacheDir = newCacheDir();
  const { id, pid } = await daemon(cacheDir);
  const own = await settings(cacheDir);
  expect(await kiseki(["stage", "--dataset", "/other", "--pool", id], own)).toMatchObject({ status: 0 });
  expect(await kiseki(["stage", "--release", "/data"], own)).toMatchObject({ status: 0 });
  expect(existsSync(`/proc/${pid}`)).toBe(true);
  expect(await kiseki(["stage", "--release", "/other"], own)).toMatchObject({ status: 0 });
  await ended(pid);
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("a pool that is in use, of another tenant, or not there is refused", async () => {
  const cacheDir = newCacheDir();
  const { id } = await daemon(cacheDir);
  const refused = async (tenant: string, pool: string) => {
    const point = tempFolder("point-");
    const { status, stderr } = await kiseki(
      ["mount", point, "-o", `pool_id=${pool}`, "--log-file", logFile],
      await settings(cacheDir, tenant),
    );
    return { status, stderr };
  };
  expect(await refused("u", id)).toEqual({ status: 4, stderr: `kiseki: cache pool ${id} belongs to tenant t\n` });
  expect(await refused("t", "0".repeat(32))).toMatchObject({
    status: 1,
    stderr: `kiseki: no cache pool ${"0".repeat(32)} in ${cacheDir}\n`,
  });
  await using mount = await TestMount.mount(node, { args: ["--cache-dir", cacheDir, "-o", `pool_id=${id}`] });
  const inUse = await refused("t", id);
  expect(inUse.status).toBe(1);
  expect(inUse.stderr).toContain(`cache pool ${id} is in use by process ${mount.pid}, mounted on ${mount.path}`);
  const again = await kiseki(["stage", "--dataset", "/other", "--daemon", "--pool", id, "--log-file", logFile], await settings(cacheDir));
  expect(again.stderr).toContain("to stage into it, leave --daemon out");
  await mount.unmount();
});

test("without a pool, with several, or with a wrong option, a line says what to do", async () => {
  const cacheDir = newCacheDir();
  const own = await settings(cacheDir);
  const none = await kiseki(["stage", "--dataset", "/data"], own);
  expect(none).toMatchObject({
    status: 1,
    stderr: `kiseki: no mount or staging daemon has a pool in ${cacheDir}; mount first, or use --daemon\n`,
  });
  expect(await kiseki(["stage"], own)).toMatchObject({ status: 2 });
  expect(await kiseki(["stage", "--dataset", "data"], own)).toMatchObject({ status: 2 });
  expect(await kiseki(["stage", "--dataset", "/data", "--timeout", "soon"], own)).toMatchObject({ status: 2 });
  expect(await kiseki(["stage", "--dataset", "/data", "--status"], own)).toMatchObject({ status: 2 });
  expect(await kiseki(["stage", "--status", "--pool", "x"], own)).toMatchObject({ status: 2 });
  rmSync(cacheDir, { recursive: true, force: true });
  await using one = await TestMount.mount(node, { args: ["--cache-dir", cacheDir] });
  await using two = await TestMount.mount(node, { args: ["--cache-dir", cacheDir] });
  const several = await kiseki(["stage", "--dataset", "/data"], own);
  expect(several.status).toBe(1);
  expect(several.stderr).toContain("choose one with --pool: ");
  expect(several.stderr).toContain(`mounted on ${one.path}`);
  await two.unmount();
  await one.unmount();
});

test("a timeout, a node that is not there, the wrong credentials: the right exit status, and one line", async () => {
  const cacheDir = newCacheDir();
  const own = await settings(cacheDir);
  const { id } = await daemon(cacheDir);
  const late = await kiseki(["stage", "--dataset", "/other", "--pool", id, "--timeout", "1ms"], own);
  expect(late.status).toBe(1);
  expect(late.stderr).toContain("/other: not staged within 0.001 s");
  await kiseki(["stage", "--release-all"], own);
  const start = ["stage", "--dataset", "/data", "--daemon", "--log-file", logFile];
  const foreign = await TestNode.start();
  const wrong = await kiseki(start, { env: { ...own.env, KISEKI_CREDENTIALS: await foreign.credentials("t") } });
  expect(wrong.status).toBe(4);
  await foreign.stop();
  const gone = await kiseki(start, { env: { ...own.env, KISEKI_DATA_ADDR: foreign.addr } });
  expect(gone.status).toBe(3);
  expect(gone.stderr.trim().split("\n")).toHaveLength(1);
  expect(poolsIn(cacheDir)).toEqual([]);
});

test("the daemon's arguments hold no secret", async () => {
  const cacheDir = newCacheDir();
  const { pid } = await daemon(cacheDir);
  const args = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(1, -1);
  expect(args).toEqual(["stage-process", "/data"]);
  await kiseki(["stage", "--release-all"], await settings(cacheDir));
});

test("on a terminal there is a bar", async () => {
  const cacheDir = newCacheDir();
  await using mount = await TestMount.mount(node, { args: ["--cache-dir", cacheDir] });
  // script(1) gives it a terminal.
  const command = `${KISEKI} stage --dataset /data`;
  const { stdout } = await run("script", ["-qec", command, "/dev/null"], { env: { ...(await settings(cacheDir)).env, TERM: "xterm" } });
  expect(stdout).toMatch(/\[[#.]{30}\] .* of .*MiB/);
  await mount.unmount();
});
