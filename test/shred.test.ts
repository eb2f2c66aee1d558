/** A tenant is shredded while it is mounted: the mounts find out, forget everything, and answer EKEYREVOKED to whatever is asked. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { kiseki } from "./support/cli.ts";
import { cleanUp, Dialog, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(90_000);
afterAll(cleanUp);

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
  await runOk(KISEKI, ["policy", "set", "key_health_interval_ms=500", "--data-dir", node.dataDir]);
});

const INTERVAL_MS = 500;
/** Beyond the interval, for a machine that is busy. */
const PATIENCE_MS = 3_000;

async function shred(tenant: string): Promise<void> {
  const args = ["tenant", "shred", tenant, "--ca", join(node.dataDir, "pki"), "--data-addr", node.addr, "--yes"];
  expect(await kiseki(args)).toMatchObject({ status: 0 });
}

/** Waits until the log says that the caches are wiped. @returns how long that took */
async function revoked(mount: TestMount): Promise<number> {
  const startedAt = performance.now();
  while (!mount.log().includes("the caches are wiped")) {
    if (performance.now() - startedAt > 20_000) throw new Error(`not revoked:\n${mount.log()}`);
    await Bun.sleep(20);
  }
  return performance.now() - startedAt;
}

/** Every call that a program can make; prints the name of each and what came of it. */
const EVERYTHING = `
import os, sys, errno, mmap, ctypes
top, fd, folder, writer = sys.argv[1], os.open(sys.argv[1] + "/f", os.O_RDONLY), os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[1] + "/w", os.O_RDWR)
mapped = mmap.mmap(fd, 4096, prot=mmap.PROT_READ); mapped[0]
print("ready", flush=True); sys.stdin.readline()
calls = dict(
  stat=lambda: os.stat(top + "/f"), fstat=lambda: os.fstat(fd), lookup=lambda: os.stat(top + "/never-seen"), readlink=lambda: os.readlink(top + "/link"),
  open=lambda: os.open(top + "/f", os.O_RDONLY), create=lambda: os.open(top + "/new", os.O_CREAT | os.O_RDWR), read=lambda: os.pread(fd, 4096, 0),
  direct=lambda: os.open(top + "/f", os.O_RDONLY | os.O_DIRECT),
  write=lambda: os.pwrite(writer, b"x", 0), fsync=lambda: os.fsync(writer), truncate=lambda: os.ftruncate(writer, 1), mkdir=lambda: os.mkdir(top + "/d2"),
  rename=lambda: os.rename(top + "/f", top + "/g"), unlink=lambda: os.unlink(top + "/f"), link=lambda: os.link(top + "/f", top + "/h"),
  symlink=lambda: os.symlink("x", top + "/s2"), chmod=lambda: os.chmod(top + "/f", 0o600), utime=lambda: os.utime(top + "/f"),
  getxattr=lambda: os.getxattr(top + "/f", "user.a"), setxattr=lambda: os.setxattr(top + "/f", "user.b", b""), listxattr=lambda: os.listxattr(top + "/f"),
  listdir=lambda: os.listdir(top), listfd=lambda: os.listdir(folder), statvfs=lambda: os.statvfs(top), seek=lambda: os.lseek(writer, 0, os.SEEK_DATA),
  fallocate=lambda: os.posix_fallocate(writer, 0, 10), fsyncdir=lambda: os.fsync(folder),
)
for name, call in calls.items():
  try: print(name, "ok", call(), flush=True)
  except OSError as error: print(name, errno.errorcode.get(error.errno, error.errno), flush=True)
print("done", flush=True)
`;

/** Its process has ended, or does so soon. */
async function ended(mount: TestMount): Promise<void> {
  for (let i = 0; i < 500 && mount.isRunning; i++) await Bun.sleep(20);
  expect(mount.isRunning).toBeFalse();
}

test("every call on every mount of it fails with EKEYREVOKED within the interval, from the kernel's caches too; umount works", async () => {
  const mount = await TestMount.mount(node, { tenant: "a" });
  const idle = await TestMount.mount(node, { tenant: "a" });
  const other = await TestMount.mount(node, { tenant: "b" });
  const fill =
    "head -c 300000 /dev/urandom > f; echo w > w; ln -s f link; mkdir d; setfattr -n user.a -v 1 f; cat f w > /dev/null; ls -lR . > /dev/null";
  for (const { path } of [mount, other]) await runOk("sh", ["-ec", `cd ${path}; ${fill}`]);
  await runOk("sh", ["-ec", `cat ${idle.path}/f > /dev/null`]);
  const program = new Dialog("python3", ["-c", EVERYTHING, mount.path]);
  expect(await program.line()).toBe("ready");
  await shred("a");
  for (const each of [mount, idle]) expect(await revoked(each)).toBeLessThan(INTERVAL_MS + PATIENCE_MS);
  program.say("go");
  const lines: string[] = [];
  for (let line = await program.line(); line !== null && line !== "done"; line = await program.line()) lines.push(line);
  await program.end();
  expect(lines.filter((line) => !line.endsWith(" EKEYREVOKED"))).toEqual([]);
  expect(lines.length).toBeGreaterThan(25);
  expect(await run("cat", [join(idle.path, "f")])).toMatchObject({ status: 1, stderr: expect.stringContaining("Key has been revoked") });
  expect(await run("ls", [idle.path])).toMatchObject({ stdout: "" });

  expect(await run("umount", [mount.path], { timeoutMs: 10_000 })).toMatchObject({ status: 0 });
  expect(await run("fusermount3", ["-u", idle.path], { timeoutMs: 10_000 })).toMatchObject({ status: 0 });
  for (let i = 0; i < 500 && (mount.isRunning || idle.isRunning); i++) await Bun.sleep(20);
  expect([mount.isRunning, idle.isRunning]).toEqual([false, false]);
  // Other tenants notice nothing.
  expect(await run("sh", ["-c", `cd ${other.path} && echo more >> w && cat f w`])).toMatchObject({ status: 0 });
  await other.unmount();
});

test("what was written and had not reached the node is lost, with a line in the log; SIGTERM ends the mount", async () => {
  const mount = await TestMount.mount(node, { tenant: "c" });
  const code = `import os, sys
fd = os.open(${JSON.stringify(join(mount.path, "f"))}, os.O_CREAT | os.O_WRONLY); os.write(fd, b"unwritten")
print("ready", flush=True); sys.stdin.readline()
os.write(fd, b"more")`;
  const writer = new Dialog("python3", ["-c", code]);
  await writer.line();
  await shred("c");
  await revoked(mount);
  expect(mount.log()).toContain("what was written to these files and had not reached the node is lost");
  writer.say("go");
  expect(await writer.end()).toContain("Key has been revoked");
  process.kill(mount.pid, "SIGTERM");
  await ended(mount);
});

test("kiseki umount says that nothing could be written out, and unmounts", async () => {
  const mount = await TestMount.mount(node, { tenant: "e" });
  await shred("e");
  await revoked(mount);
  const { status, stdout, stderr } = await run(KISEKI, ["umount", mount.path]);
  expect(status).toBe(0);
  expect(stdout).toBe(`${mount.path}: unmounted\n`);
  expect(stderr).toBe(`kiseki: ${mount.path}: the tenant was shredded; what was unwritten is lost\n`);
  await ended(mount);
});

test("a mount that could reach no node meanwhile finds out when it can", async () => {
  const mount = await TestMount.mount(node, { tenant: "d" });
  await runOk("sh", ["-ec", `echo secret > ${mount.path}/f; cat ${mount.path}/f`]);
  mount.freeze();
  await shred("d");
  await node.restart();
  mount.resume();
  expect(await revoked(mount)).toBeLessThan(INTERVAL_MS + 3 * PATIENCE_MS);
  expect(await run("cat", [join(mount.path, "f")])).toMatchObject({ stdout: "", stderr: expect.stringContaining("Key has been revoked") });
});
