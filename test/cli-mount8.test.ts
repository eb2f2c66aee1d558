/** mount -t kiseki, fstab and umount, through /sbin/mount.kiseki. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mountProcessEnded, mountpoint } from "./support/cli.ts";
import { cleanUp, isMounted, KISEKI, onCleanUp, run, runOk, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const HELPER = "/sbin/mount.kiseki";
const END_PATIENCE_MS = 20_000;

let node: TestNode;
let credentials: string;
let folder: string;

beforeAll(async () => {
  folder = tempFolder("mount8-");
  if (!existsSync(HELPER)) {
    symlinkSync(KISEKI, HELPER);
    const remove = () => rmSync(HELPER, { force: true });
    onCleanUp({ end: remove, endNow: remove });
  }
  node = await TestNode.start();
  credentials = await node.credentials("t");
});
afterAll(cleanUp);

const options = (...more: string[]) => [`credentials=${credentials}`, `log_file=${join(folder, "mount.log")}`, ...more].join(",");
const mountinfo = (path: string) =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((line) => line.split(" ")[4] === path) ?? "";

test("mount -t kiseki NODE/TENANT/NAMESPACE, and umount", async () => {
  const path = mountpoint();
  const source = `${node.addr}/t/default`;
  await runOk("mount", ["-t", "kiseki", source, path, "-o", options("noexec,nosuid,noatime")]);
  expect(mountinfo(path)).toContain(` fuse.kiseki ${source} `);
  expect(mountinfo(path)).toMatch(/nosuid.*noexec|noexec.*nosuid/);
  await runOk("bash", ["-c", "echo by mount > file; cp /bin/true program"], { cwd: path });
  expect((await run("./program", [], { cwd: path }).catch(() => ({ status: 126 }))).status).not.toBe(0);
  await runOk("umount", [path]);
  expect(isMounted(path)).toBe(false);
  expect(await mountProcessEnded(path, END_PATIENCE_MS)).toBe(true);
});

test("ro: mounts read only", async () => {
  const path = mountpoint();
  await runOk("mount", ["-t", "kiseki", `${node.addr}/t`, path, "-o", options("ro")]);
  expect(await runOk("cat", [join(path, "file")])).toBe("by mount\n");
  expect((await run("touch", [join(path, "file")])).stderr).toContain("Read-only file system");
  await runOk("umount", [path]);
});

test("root's device nodes work, unless nodev is given", async () => {
  const path = mountpoint();
  const source = `${node.addr}/t`;
  await runOk("mount", ["-t", "kiseki", source, path, "-o", options()]);
  expect(mountinfo(path)).not.toMatch(/nosuid|nodev/);
  await runOk("mknod", [join(path, "zero"), "c", "1", "5"]);
  expect(await runOk("bash", ["-c", "head -c 3 zero | tr '\\0' x"], { cwd: path })).toBe("xxx");
  await runOk("umount", [path]);
  await runOk("mount", ["-t", "kiseki", source, path, "-o", options("nosuid,nodev")]);
  expect(mountinfo(path)).toMatch(/nosuid,nodev/);
  expect((await run("head", ["-c", "3", join(path, "zero")])).status).not.toBe(0);
  await runOk("umount", [path]);
});

test("a line of fstab, with the words that only mount and systemd read", async () => {
  const path = mountpoint();
  const fstab = join(folder, "fstab");
  const words = options("_netdev,nofail,noauto,x-systemd.automount,rw");
  writeFileSync(fstab, `# a comment\n${node.addr}/t/default  ${path}  kiseki  ${words}  0  0\n`);
  await runOk("mount", ["--fstab", fstab, path]);
  expect(await runOk("cat", [join(path, "file")])).toBe("by mount\n");
  // Already mounted: mount -a leaves it alone.
  await runOk("mount", ["--fstab", fstab, "-a"]);
  await runOk("umount", [path]);
  expect(await mountProcessEnded(path, END_PATIENCE_MS)).toBe(true);
  writeFileSync(fstab, `${node.addr}/t/default  ${path}  kiseki  ${options("_netdev")}  0  0\n`);
  await runOk("mount", ["--fstab", fstab, "-a"]);
  expect(isMounted(path)).toBe(true);
  await runOk("umount", [path]);
});

test("failures are one line of kiseki and a status of mount(8)", async () => {
  const path = mountpoint();
  const mount = (source: string, ...more: string[]) => run("mount", ["-t", "kiseki", source, path, "-o", options(...more)]);
  const unreachable = await mount("127.0.0.1:9/t/default");
  expect(unreachable).toMatchObject({ status: 32, stderr: expect.stringMatching(/^kiseki: .*connection refused.*\n$/) });
  const noNamespace = await mount(`${node.addr}/t/nosuch`);
  expect(noNamespace).toMatchObject({ status: 32, stderr: expect.stringMatching(/^kiseki: .*no namespace nosuch.*\n$/) });
  expect(await mount(`${node.addr}/other/default`)).toMatchObject({
    status: 32,
    stderr: expect.stringMatching(/^kiseki: .*of tenant t, not of other.*\n$/),
  });
  expect(await mount(`${node.addr}/t/default`, "colour=red")).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^kiseki: .*colour=red.*\n$/),
  });
  expect(isMounted(path)).toBe(false);
});
