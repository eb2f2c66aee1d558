/** What a storage node and a mount live through: signals that others send, a full log disk, and a data folder that others could read. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

const PATIENCE_MS = 10_000;

async function until(what: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!what()) {
    if (performance.now() > deadline) throw new Error(`waited for too long: ${what}`);
    await Bun.sleep(20);
  }
}

test("SIGHUP and SIGUSR1 open the logs of node and mount anew, and end neither", async () => {
  const log = join(tempFolder("log-"), "node.log");
  const node = await TestNode.start({ args: ["--log-file", log, "--log-level", "debug"] });
  const mount = await TestMount.mount(node, { args: ["--log-level", "debug"] });
  await runOk("bash", ["-c", "echo before > file"], { cwd: mount.path });
  for (const [round, signal] of (["SIGHUP", "SIGUSR1"] as const).entries()) {
    for (const [pid, file] of [
      [node.pid, log],
      [mount.pid, mount.logFile],
    ] as const) {
      await until(() => existsSync(file));
      renameSync(file, `${file}.${round}`);
      process.kill(pid, signal);
      await until(() => existsSync(file));
    }
    expect(await runOk("cat", ["file"], { cwd: mount.path })).toBe("before\n");
  }
  // What is logged from now on is in the new files.
  const other = await TestMount.mount(node);
  await other.unmount();
  await until(() => readFileSync(log, "utf8").includes("session ended"));
  await mount.unmount();
  expect(readFileSync(mount.logFile, "utf8")).toContain("unmounted");
  await node.stop();
});

test("a full log disk stops neither node nor mount; with room again the log goes on", async () => {
  const disk = tempFolder("logs-");
  await runOk("mount", ["-t", "tmpfs", "-o", "size=64k", "none", disk]);
  const unmount = () => void Bun.spawnSync(["umount", "-l", disk]);
  onCleanUp({ end: unmount, endNow: unmount });
  const node = await TestNode.start({ args: ["--log-file", join(disk, "node.log"), "--log-level", "debug"] });
  const mount = await TestMount.mount(node, { args: ["--log-file", join(disk, "mount.log"), "--log-level", "trace"] });
  await run("dd", ["if=/dev/zero", `of=${join(disk, "filler")}`, "bs=1k"]);
  for (let i = 0; i < 5; i++) {
    await runOk("bash", ["-c", `echo ${i} > file && sync file && cat file`], { cwd: mount.path });
    const other = await TestMount.mount(node);
    expect(await runOk("cat", ["file"], { cwd: other.path })).toBe(`${i}\n`);
    await other.unmount();
  }
  await runOk("rm", [join(disk, "filler")]);
  await mount.unmount();
  expect(readFileSync(join(disk, "mount.log"), "utf8")).toContain("unmounted");
  await node.stop();
});

test("a data folder that others may use is refused; a new or empty one is made private", async () => {
  const node = await TestNode.start();
  expect(statSync(node.dataDir).mode & 0o777).toBe(0o700);
  await node.stop();
  for (const mode of [0o750, 0o701, 0o755]) {
    chmodSync(node.dataDir, mode);
    const refused = await run(KISEKI, ["serve", "--data-dir", node.dataDir, "--listen", "127.0.0.1:0"]);
    expect(refused).toEqual({
      status: 1,
      stdout: "",
      stderr: `kiseki: ${node.dataDir}: group or others may use this folder, which has the cluster's keys; run: chmod 700 ${node.dataDir}\n`,
    });
  }
  const empty = join(tempFolder("empty-"), "data");
  mkdirSync(empty, { mode: 0o755 });
  const fresh = await TestNode.start({ dataDir: empty });
  expect(statSync(empty).mode & 0o777).toBe(0o700);
  await fresh.stop();
});
