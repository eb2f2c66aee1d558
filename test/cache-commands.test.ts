/** kiseki cache stats and wipe, and the metrics port. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { kiseki, mountArguments, mountpoint } from "./support/cli.ts";
import { cleanUp, isMounted, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);
const MIB = 1 << 20;

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(cleanUp);

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<number>();
  server.listen(0, "127.0.0.1", () => resolve((server.address() as { port: number }).port));
  const port = await promise;
  await new Promise((done) => server.close(done));
  return port;
}

interface Stats {
  mode: string;
  tenant: string;
  mountpoint: string;
  pid: number;
  pool: { id: string; path: string } | null;
  policy: Record<string, unknown>;
  reads: { l1Hits: number; l2Hits: number; misses: number; bypasses: number };
  l1: { bytes: number; maxBytes: number };
}

async function statsOf(path: string): Promise<Stats> {
  const { status, stdout, stderr } = await kiseki(["cache", "stats", path, "--json"]);
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return JSON.parse(stdout) as Stats;
}

test("stats tell the mode, the policy and what is kept; the socket is the user's alone and goes with the mount", async () => {
  await using mount = await TestMount.mount(node, { args: ["-o", "cache_l1_max=64M"] });
  await runOk("dd", ["if=/dev/urandom", `of=${join(mount.path, "file")}`, "bs=1M", "count=4"]);
  const stats = await statsOf(mount.path);
  expect(stats).toMatchObject({ mode: "organic", tenant: "t", mountpoint: mount.path, pid: mount.pid, policy: { mode: "organic" } });
  expect(stats.l1.maxBytes).toBe(64 * MIB);
  expect(stats.l1.bytes).toBe(4 * MIB);
  const socket = join(stats.pool?.path ?? "", "control.sock");
  expect(statSync(socket).mode & 0o777).toBe(0o600);

  const table = await kiseki(["cache", "stats", mount.path]);
  expect(table.stdout).toContain(`tenant t, mode organic, process ${mount.pid}`);
  expect(table.stdout).toMatch(/^memory +4\.0 MiB +64\.0 MiB/m);
  // Without a mountpoint: all mounts of this user.
  const all = (await kiseki(["cache", "stats", "--json"])).stdout.trim().split("\n");
  expect(all.map((line) => (JSON.parse(line) as Stats).mountpoint)).toContain(mount.path);
  await mount.unmount();
  expect(readdirSync(join(stats.pool?.path ?? "", "../.."))).not.toContain("t");
});

test("reads are counted where their blocks came from", async () => {
  {
    await using writer = await TestMount.mount(node);
    await runOk("dd", ["if=/dev/urandom", `of=${join(writer.path, "counted")}`, "bs=1M", "count=48"]);
    await writer.unmount();
  }
  await using mount = await TestMount.mount(node, { args: ["-o", "cache_l1_max=16M"] });
  const file = join(mount.path, "counted");
  const read = async () => {
    await runOk("dd", [`if=${file}`, "of=/dev/null", "bs=1M"]);
    // What the kernel has of it is dropped (dd(1)).
    await runOk("dd", [`if=${file}`, "iflag=nocache", "count=0"]);
    return (await statsOf(mount.path)).reads;
  };
  const blocks = (48 * MIB) / 65_536;
  const first = await read();
  expect(first).toMatchObject({ misses: blocks, l2Hits: 0, bypasses: 0 });
  await Bun.sleep(500); // what was read is still being written to the disk
  const second = await read();
  expect(second.l2Hits).toBeGreaterThan(0);
  expect(second.l2Hits + (second.misses - first.misses)).toBeGreaterThan(blocks / 2);
  await runOk("dd", [`if=${file}`, "of=/dev/null", "iflag=direct", "bs=1M", "count=4"]);
  expect((await statsOf(mount.path)).reads.bypasses).toBe(64);
  const { stdout } = await kiseki(["cache", "stats", mount.path]);
  expect(stdout).toMatch(/^disk +\d.*MiB/m);

  const wiped = await kiseki(["cache", "wipe", mount.path]);
  expect(wiped.stdout).toMatch(/wiped [\d.]+ MiB in memory and [\d.]+ MiB on disk\n$/);
  const after = await statsOf(mount.path);
  expect(after).toMatchObject({ l1: { bytes: 0, entries: 0 }, l2: { bytes: 0, entries: 0 }, wipes: { requested: 1 } });
});

test("--watch goes on until Ctrl-C", async () => {
  await using mount = await TestMount.mount(node);
  const watch = [KISEKI, "cache", "stats", mount.path, "--json", "--watch", "0.1"];
  const { status, stdout } = await run("timeout", ["--preserve-status", "-s", "INT", "2", ...watch]);
  expect(status).toBe(0);
  expect(stdout.trim().split("\n").length).toBeGreaterThanOrEqual(3);
  await mount.unmount();
});

test("where there is no mount, or not of ours, a line says so", async () => {
  const folder = tempFolder();
  expect(await kiseki(["cache", "stats", folder])).toMatchObject({
    status: 1,
    stderr: `kiseki: ${folder}: no kiseki mount; see: findmnt -t fuse.kiseki\n`,
  });
  expect((await kiseki(["cache", "stats", join(folder, "none")])).status).toBe(1);
  expect(await kiseki(["cache", "stats", "--watch", "never"])).toMatchObject({ status: 2 });
});

test("a mount in bypass has no pool, and tells its numbers all the same, to Prometheus too", async () => {
  const port = await freePort();
  await using mount = await TestMount.mount(node, { args: ["-o", `cache_mode=bypass,metrics=127.0.0.1:${port}`] });
  await runOk("dd", ["if=/dev/urandom", `of=${join(mount.path, "bypassed")}`, "bs=1M", "count=4"]);
  const stats = await statsOf(mount.path);
  expect(stats).toMatchObject({ mode: "bypass", pool: null });
  expect((await kiseki(["cache", "stats", mount.path])).stdout).toContain("the mode is bypass");
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(metrics).toContain(
    `kiseki_cache_info{version="0.1.0",tenant="t",kind="mount",mode="bypass",mountpoint="${mount.path}",pool=""} 1\n`,
  );
  expect((await fetch(`http://127.0.0.1:${port}/stats`)).status).toBe(404);
});

test("a metrics address that is in use fails the mount with one line", async () => {
  const port = await freePort();
  await using mount = await TestMount.mount(node, { args: ["-o", `metrics=127.0.0.1:${port}`] });
  const other = mountpoint();
  const result = await kiseki([
    "mount",
    other,
    ...(await mountArguments(node)),
    "--metrics",
    `127.0.0.1:${port}`,
    "--cache-dir",
    tempFolder(),
  ]);
  expect(result).toMatchObject({ status: 1, stderr: `kiseki: metrics: 127.0.0.1:${port} is in use already; choose another HOST:PORT\n` });
  expect(isMounted(other)).toBe(false);
  expect(mount.isRunning).toBe(true);
});

test("a mount of which the pool was deleted still tells", async () => {
  await using mount = await TestMount.mount(node);
  const { pool } = await statsOf(mount.path);
  rmSync(pool?.path ?? "", { recursive: true });
  expect((await statsOf(mount.path)).pid).toBe(mount.pid);
  await mount.unmount();
});

test("asking doesn't wait for requests of the mount that wait for the node", async () => {
  await using mount = await TestMount.mount(node);
  node.freeze();
  try {
    const waiting = runOk("ls", [mount.path]);
    expect((await statsOf(mount.path)).pid).toBe(mount.pid);
    node.resume();
    await waiting;
  } finally {
    node.resume();
  }
});
