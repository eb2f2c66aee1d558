/** Staged datasets when their tenant is shredded, or no node can be reached for too long: in mounts, in daemons, in pools of the dead. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { kiseki, mountpoint } from "./support/cli.ts";
import { cleanUp, Dialog, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { poolsIn } from "./support/staging.ts";

setDefaultTimeout(90_000);
afterAll(cleanUp);

const MARKER = "the-plaintext-that-nobody-may-find";
const POLL_MS = 20;
const PATIENCE_MS = 20_000;

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
  await runOk(KISEKI, ["policy", "set", "key_health_interval_ms=500", "--data-dir", node.dataDir]);
});

/** A tenant with a dataset: a large file and small ones. */
async function makeTenant(tenant: string): Promise<void> {
  await using mount = await TestMount.mount(node, { tenant });
  await runOk("sh", [
    "-ec",
    `mkdir ${mount.path}/data; cd ${mount.path}/data; yes ${MARKER} | head -c 5000000 > large; for i in 1 2 3; do echo ${MARKER} > small-$i; done`,
  ]);
  await mount.unmount();
}

async function shred(tenant: string): Promise<void> {
  const args = ["tenant", "shred", tenant, "--ca", join(node.dataDir, "pki"), "--data-addr", node.addr, "--yes"];
  expect(await kiseki(args)).toMatchObject({ status: 0 });
}

function pidOf(pool: string): number {
  return (JSON.parse(readFileSync(join(pool, "pool.lock"), "utf8")) as { pid: number }).pid;
}

interface Daemon {
  id: string;
  pid: number;
  cacheDir: string;
}

/** A daemon that has staged the tenant's dataset. */
async function daemon(tenant: string): Promise<Daemon> {
  const folder = tempFolder("cache-");
  const cacheDir = join(folder, "cache");
  const where = ["--data-addr", node.addr, "--tenant", tenant, "--credentials", await node.credentials(tenant), "--cache-dir", cacheDir];
  const args = ["stage", "--dataset", "/data", "--daemon", "--log-file", join(folder, "stage.log"), ...where];
  const { status, stdout, stderr } = await kiseki(args);
  expect({ status, stderr }).toMatchObject({ status: 0 });
  const [pool = ""] = poolsIn(cacheDir, tenant);
  const pid = pidOf(pool);
  const end = () => {
    if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
  };
  onCleanUp({ end, endNow: end });
  return { id: stdout.trim(), pid, cacheDir };
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await Bun.sleep(POLL_MS);
  }
}

/** Files of a cache_dir that hold plaintext or keys. */
function secretsIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => {
    try {
      const path = join(folder, name);
      return statSync(path).isFile() && (name.endsWith("keys.json") || readFileSync(path).includes(MARKER));
    } catch (error) {
      if (["ENOENT", "ENXIO"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
      throw error;
    }
  });
}

test("a staging daemon of a tenant that is shredded wipes its pool and ends", async () => {
  await makeTenant("a");
  const { pid, cacheDir } = await daemon("a");
  expect(secretsIn(cacheDir)).not.toEqual([]);
  await shred("a");
  await until("the end of the daemon", () => !existsSync(`/proc/${pid}`));
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("the pool of a daemon that has died is not taken over: exit status 4, and the pool is deleted", async () => {
  await makeTenant("b");
  const { id, pid, cacheDir } = await daemon("b");
  process.kill(pid, "SIGKILL");
  await until("the end of the daemon", () => !existsSync(`/proc/${pid}`));
  await shred("b");
  expect(secretsIn(cacheDir)).not.toEqual([]);
  const where = ["--data-addr", node.addr, "--tenant", "b", "--credentials", await node.credentials("b"), "--cache-dir", cacheDir];
  const mount = await kiseki(["mount", mountpoint(), ...where, "-o", `pool_id=${id}`]);
  expect(mount).toMatchObject({ status: 4, stderr: "kiseki: tenant b was shredded: its keys are destroyed\n" });
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("who takes a pool over while no node answers is told when one does: everything goes", async () => {
  await makeTenant("c");
  const { id, pid, cacheDir } = await daemon("c");
  process.kill(pid, "SIGKILL");
  await until("the end of the daemon", () => !existsSync(`/proc/${pid}`));
  await shred("c");
  await node.stop();
  const mount = await TestMount.mount(node, { tenant: "c", cacheDir, env: { KISEKI_CACHE_POOL_ID: id } });
  expect(await runOk("cat", [join(mount.path, "data/small-1")])).toBe(`${MARKER}\n`);
  await node.restart();
  await until("the wipe", () => mount.log().includes("the caches are wiped"));
  expect(await run("cat", [join(mount.path, "data/small-2")])).toMatchObject({ stdout: "", stderr: expect.stringContaining("revoked") });
  expect(secretsIn(cacheDir)).toEqual([]);
  expect(await run("umount", [mount.path])).toMatchObject({ status: 0 });
  await until("the end of the mount", () => !mount.isRunning);
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("a mount with staged files: nothing new is opened after the shred, and who has one open reads what is right, or an error", async () => {
  await makeTenant("d");
  const { id, cacheDir } = await daemon("d");
  const mount = await TestMount.mount(node, { tenant: "d", cacheDir, env: { KISEKI_CACHE_POOL_ID: id } });
  const file = join(mount.path, "data/large");
  const program = `import os, sys
fd = os.open(${JSON.stringify(file)}, os.O_RDONLY)
line = b"${MARKER}\\n"
for _ in sys.stdin:
    try:
        data = b"".join(os.pread(fd, 1 << 20, at << 20) for at in range(5))
        print("right" if data == (line * (5_000_000 // len(line) + 1))[:5_000_000] else "wrong", flush=True)
    except OSError as error: print(error.strerror, flush=True)`;
  const reader = new Dialog("python3", ["-c", program]);
  reader.say("read");
  expect(await reader.line()).toBe("right");
  await shred("d");
  await until("the wipe", () => mount.log().includes("the caches are wiped"));
  reader.say("read");
  expect(["right", "Key has been revoked"]).toContain((await reader.line()) ?? "");
  expect(await run("cat", [file])).toMatchObject({ stdout: "", stderr: expect.stringContaining("Key has been revoked") });
  await reader.end();
  expect(await run("umount", [mount.path])).toMatchObject({ status: 0 });
  await until("the end of the mount", () => !mount.isRunning);
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});

test("staged files are served while no node answers, until max_disconnect_seconds", async () => {
  await makeTenant("e");
  await runOk(KISEKI, ["policy", "set", "max_disconnect_seconds=6", "--data-dir", node.dataDir, "--tenant", "e"]);
  const { id, cacheDir } = await daemon("e");
  const mount = await TestMount.mount(node, { tenant: "e", cacheDir, env: { KISEKI_CACHE_POOL_ID: id } });
  await node.kill();
  expect(await runOk("sh", ["-c", `cd ${mount.path}/data; cat small-*; head -c ${MARKER.length} large`])).toContain(MARKER);
  await until("the wipe", () => mount.log().includes("the caches are wiped"));
  expect(secretsIn(cacheDir).filter((name) => !name.endsWith("keys.json"))).toEqual([]);
  expect(await run("cat", [join(mount.path, "data/small-1")])).toMatchObject({
    stdout: "",
    stderr: expect.stringContaining("Input/output error"),
  });
  await node.restart();
  await runOk("sh", ["-c", `for i in $(seq 100); do cat ${mount.path}/data/small-1 && exit 0; sleep 0.1; done 2>/dev/null; exit 1`]);
  expect(await runOk("cat", [join(mount.path, "data/small-1")])).toBe(`${MARKER}\n`);
  await mount.unmount();
  expect(readdirSync(cacheDir)).toEqual(["node.lock"]);
});
