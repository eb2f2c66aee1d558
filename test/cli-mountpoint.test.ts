/** Mounting where it can't be: one line that says what to do, exit status 1, and nothing mounted. And where a dead mount is in the way. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { kiseki, mountArguments, mountProcesses, mountpoint } from "./support/cli.ts";
import { cleanUp, isMounted, KISEKI, run, runOk, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

let node: TestNode;
let args: string[];
let folder: string;

beforeAll(async () => {
  node = await TestNode.start();
  folder = tempFolder("cli-");
  args = [...(await mountArguments(node)), "--log-file", join(folder, "mount.log")];
});
afterAll(cleanUp);

async function expectRefused(path: string, message: RegExp, more: string[] = []): Promise<void> {
  const result = await kiseki(["mount", path, ...args, ...more]);
  expect(result.stderr).toMatch(message);
  expect(result.stderr).toMatch(/^kiseki: .+\n$/);
  expect(result).toMatchObject({ status: 1, stdout: "" });
  expect(mountProcesses(path)).toEqual([]);
}

test("a folder that is missing, a file, a path through a file", async () => {
  await expectRefused(join(folder, "missing"), /no such folder.*mkdir -p/);
  writeFileSync(join(folder, "file"), "");
  await expectRefused(join(folder, "file"), /not a folder/);
  await expectRefused(join(folder, "file/below"), /not a folder/);
});

test("a folder that is not empty is refused, and hidden with nonempty", async () => {
  const path = mountpoint();
  writeFileSync(join(path, "here first"), "");
  await expectRefused(path, /not empty.*here first.*nonempty/);
  expect(isMounted(path)).toBe(false);
  expect((await kiseki(["mount", path, ...args, "-o", "nonempty"])).status).toBe(0);
  expect(await runOk("ls", [path])).toBe("");
  expect((await kiseki(["umount", path])).status).toBe(0);
  expect(await runOk("ls", [path])).toBe("here first\n");
});

test("a folder that has a live kiseki mount already: refused, and the mount lives on", async () => {
  const path = mountpoint();
  expect((await kiseki(["mount", path, ...args])).status).toBe(0);
  await runOk("touch", [join(path, "inside")]);
  await expectRefusedOverMount(path);
  const link = join(folder, "link to it");
  symlinkSync(path, link);
  await expectRefusedOverMount(link);
  expect(await runOk("ls", [path])).toBe("inside\n");
  expect((await kiseki(["umount", link])).status).toBe(0);
  expect(isMounted(path)).toBe(false);
});

async function expectRefusedOverMount(path: string): Promise<void> {
  const result = await kiseki(["mount", path, ...args]);
  expect(result.stderr).toMatch(/^kiseki: .*kiseki is mounted there already.*umount.*\n$/);
  expect(result.status).toBe(1);
}

test("/dev/fuse is missing: says how to get it", async () => {
  const path = mountpoint();
  // A mount namespace of its own, whose /dev is another.
  const hide = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"';
  const result = await run("unshare", ["-m", "bash", "-c", hide, "bash", "setsid", "--wait", KISEKI, "mount", path, ...args]);
  expect(result.stderr).toMatch(/^kiseki: \/dev\/fuse is missing: .*modprobe fuse.*--device \/dev\/fuse.*\n$/);
  expect(result.status).toBe(1);
});

test("a mount that fails at a folder where one runs leaves that one's log alone", async () => {
  const path = mountpoint();
  const log = join(folder, "mount.log");
  expect((await kiseki(["mount", path, ...args])).status).toBe(0);
  const before = readFileSync(log, "utf8");
  const second = await kiseki(["mount", path, ...args]);
  expect(second).toMatchObject({ status: 1, stderr: expect.stringMatching(/^kiseki: .*mounted there already.*\n$/) });
  expect(readFileSync(log, "utf8").slice(before.length)).not.toMatch(/stack|MountError|already/);
  expect((await kiseki(["umount", path])).status).toBe(0);
});

test("the folder of a mount whose client was killed can be mounted on again at once", async () => {
  const path = mountpoint();
  expect((await kiseki(["mount", path, ...args])).status).toBe(0);
  await runOk("bash", ["-c", "echo kept > kept"], { cwd: path });
  const [pid] = mountProcesses(path);
  process.kill(pid as number, "SIGKILL");
  expect((await run("ls", [path])).stderr).toMatch(/not connected|Software caused connection abort|Connection reset|Transport/);
  const again = await kiseki(["mount", path, ...args]);
  expect(again).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(await runOk("cat", [join(path, "kept")])).toBe("kept\n");
  expect((await kiseki(["umount", path])).status).toBe(0);
  expect(isMounted(path)).toBe(false);
});
