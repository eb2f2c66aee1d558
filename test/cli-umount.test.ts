/** The ways in which a mount ends: kiseki umount, umount, fusermount3, signals; with the node there, frozen, or dead. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { createHash } from "node:crypto";
import { chownSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { kiseki, mountArguments, mountProcessEnded, mountProcesses, mountpoint } from "./support/cli.ts";
import { cleanEnvironment, cleanUp, isMounted, KISEKI, onCleanUp, run, runOk, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(150_000);

/** With the node there, the process ends as soon as everything is written out. */
const END_PATIENCE_MS = 20_000;
/** Without it, it tries for half a minute to write out what is dirty. */
const HOPELESS_END_PATIENCE_MS = 70_000;

let node: TestNode;
let args: string[];
let logFile: string;

beforeAll(async () => {
  node = await TestNode.start();
  logFile = join(tempFolder("cli-"), "mount.log");
  args = [...(await mountArguments(node)), "--log-file", logFile];
});
afterAll(cleanUp);

async function mounted(): Promise<string> {
  const path = mountpoint();
  expect(await kiseki(["mount", path, ...args])).toEqual({ status: 0, stdout: "", stderr: "" });
  return path;
}

/** What an earlier mount has written, read through a new one. */
async function readElsewhere(name: string): Promise<string> {
  const path = await mounted();
  const content = await runOk("cat", [join(path, name)]);
  expect((await kiseki(["umount", path])).status).toBe(0);
  return content;
}

const write = (path: string, name: string) => runOk("bash", ["-c", `seq 100000 > ${name}`], { cwd: path });

test("kiseki umount says that all is flushed, and its process has ended", async () => {
  const path = await mounted();
  await write(path, "flushed");
  expect(await kiseki(["umount", path])).toEqual({ status: 0, stdout: `${path}: flushed and unmounted\n`, stderr: "" });
  expect(isMounted(path)).toBe(false);
  expect(mountProcesses(path)).toEqual([]);
  expect((await readElsewhere("flushed")).split("\n").length).toBe(100_001);
  expect(await kiseki(["umount", path])).toMatchObject({ status: 1, stderr: expect.stringMatching(/^kiseki: .*no kiseki mount.*\n$/) });
});

test("kiseki umount of a mount in use: exit status 1 and it stays; --lazy takes it away, and it ends with its last user", async () => {
  const path = await mounted();
  const user = Bun.spawn(["sleep", "600"], { cwd: path, env: cleanEnvironment() });
  try {
    const busy = await kiseki(["umount", path]);
    expect(busy.stderr).toMatch(/^kiseki: .*in use.*--lazy.*\n$/);
    expect(busy.status).toBe(1);
    expect(await runOk("ls", [path])).toContain("flushed");
    const lazy = await kiseki(["umount", "--lazy", path]);
    expect(lazy).toMatchObject({ status: 0, stderr: "" });
    expect(isMounted(path)).toBe(false);
    expect(mountProcesses(path)).toHaveLength(1);
  } finally {
    user.kill();
    await user.exited;
  }
  expect(await mountProcessEnded(path, END_PATIENCE_MS)).toBe(true);
});

const PROGRAMS = [
  ["umount", []],
  ["fusermount3", ["-u"]],
] as const;

for (const [program, options] of PROGRAMS) {
  test(`${program}: what was written is there, and the process ends`, async () => {
    const path = await mounted();
    await write(path, `by ${program}`.replace(" ", "-"));
    expect((await run(program, [...options, path])).status).toBe(0);
    expect(isMounted(path)).toBe(false);
    expect(await mountProcessEnded(path, END_PATIENCE_MS)).toBe(true);
    expect((await readElsewhere(`by-${program}`)).split("\n").length).toBe(100_001);
  });
}

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} ends a mount in the foreground: unmounted, written out, exit status 0`, async () => {
    const path = mountpoint();
    const child = Bun.spawn([KISEKI, "mount", path, ...args, "--foreground"], {
      env: cleanEnvironment(),
      stdio: ["ignore", "ignore", "ignore"],
    });
    while (!isMounted(path)) await Bun.sleep(20);
    await write(path, signal);
    // An open file that was written and neither closed nor fsynced.
    const writer = Bun.spawn(["bash", "-c", `exec 3> ${signal}-open; echo unflushed >&3; echo; exec sleep 600`], {
      cwd: path,
      env: cleanEnvironment(),
      stdout: "pipe",
    });
    await writer.stdout.getReader().read();
    writer.kill("SIGKILL");
    await writer.exited;
    child.kill(signal);
    expect(await child.exited).toBe(0);
    expect(isMounted(path)).toBe(false);
    expect((await readElsewhere(signal)).split("\n").length).toBe(100_001);
    expect(await readElsewhere(`${signal}-open`)).toBe("unflushed\n");
  });
}

test("SIGTERM ends a mount in the background", async () => {
  const path = await mounted();
  await write(path, "background");
  process.kill(mountProcesses(path)[0] as number, "SIGTERM");
  expect(await mountProcessEnded(path, END_PATIENCE_MS)).toBe(true);
  expect(isMounted(path)).toBe(false);
  expect((await readElsewhere("background")).split("\n").length).toBe(100_001);
});

test("SIGTERM while a program has a file open: it is cut off, and what it had written is kept", async () => {
  const path = await mounted();
  const holder = Bun.spawn(["bash", "-c", `exec 3> ${path}/held; echo held >&3; echo; exec sleep 600`], {
    env: cleanEnvironment(),
    stdout: "pipe",
  });
  await holder.stdout.getReader().read();
  try {
    process.kill(mountProcesses(path)[0] as number, "SIGTERM");
    expect(await mountProcessEnded(path, HOPELESS_END_PATIENCE_MS)).toBe(true);
    expect(isMounted(path)).toBe(false);
  } finally {
    holder.kill("SIGKILL");
    await holder.exited;
  }
  expect(await readElsewhere("held")).toBe("held\n");
});

test("the node is frozen: umount, fusermount3 -u, umount -l under a waiting writer, and SIGTERM end a mount all the same", async () => {
  const paths = [await mounted(), await mounted(), await mounted(), await mounted()] as const;
  for (const path of paths) await runOk("ls", [path]);
  node.freeze();
  try {
    expect(await run("umount", [paths[0]])).toMatchObject({ status: 0, stderr: "" });
    expect(await run("fusermount3", ["-u", paths[1]])).toMatchObject({ status: 0, stderr: "" });
    const command = ["bash", "-c", `echo x > ${paths[2]}/never`];
    const writer = Bun.spawn(command, { env: cleanEnvironment(), stdio: ["ignore", "ignore", "ignore"] });
    await Bun.sleep(200);
    expect((await run("umount", ["-l", paths[2]])).status).toBe(0);
    writer.kill("SIGKILL");
    await writer.exited;
    process.kill(mountProcesses(paths[3])[0] as number, "SIGTERM");
    for (const path of paths) {
      expect(await mountProcessEnded(path, HOPELESS_END_PATIENCE_MS)).toBe(true);
      expect(isMounted(path)).toBe(false);
    }
  } finally {
    node.resume();
  }
});

test("the node is dead: umount and fusermount3 -u end a mount all the same, and kiseki umount --force gives up what is unwritten", async () => {
  const paths = [await mounted(), await mounted(), await mounted()] as const;
  await node.kill();
  expect((await run("umount", [paths[0]])).status).toBe(0);
  expect((await run("fusermount3", ["-u", paths[1]])).status).toBe(0);
  expect((await kiseki(["umount", "--force", paths[2]])).status).toBe(0);
  for (const path of paths) {
    expect(isMounted(path)).toBe(false);
    expect(await mountProcessEnded(path, HOPELESS_END_PATIENCE_MS)).toBe(true);
  }
  await node.restart();
});

test("umount --force as root kills only what is proved to be the mount's process, whatever a user's file names", async () => {
  const NOBODY = 65_534;
  const forged = `/run/user/${NOBODY}/kiseki`;
  mkdirSync(forged, { recursive: true });
  const remove = () => rmSync(`/run/user/${NOBODY}`, { recursive: true, force: true });
  const victim = Bun.spawn(["sleep", "600"], { env: cleanEnvironment() });
  onCleanUp({ end: remove, endNow: remove });
  try {
    for (const pid of [victim.pid, node.pid]) {
      const path = await mounted();
      const name = `${createHash("sha256").update(path).digest("hex").slice(0, 32)}.json`;
      const entry = JSON.parse(readFileSync(join("/run/kiseki", name), "utf8"));
      rmSync(join("/run/kiseki", name));
      // Another user's file about a process of root's, with the right start time.
      const startTicks = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ")[19];
      writeFileSync(join(forged, name), JSON.stringify({ ...entry, pid, startTicks }));
      chownSync(join(forged, name), NOBODY, NOBODY);
      expect(await kiseki(["umount", "--force", path])).toMatchObject({
        status: 0,
        stderr: `kiseki: process ${pid} was not killed: it is not the process of the user who says so\n`,
      });
      expect(isMounted(path)).toBe(false);
      expect(await mountProcessEnded(path, END_PATIENCE_MS)).toBe(true);
    }
    expect(victim.exitCode).toBeNull();
    expect(await readElsewhere("flushed")).toContain("100000");
  } finally {
    victim.kill();
    await victim.exited;
  }
});
