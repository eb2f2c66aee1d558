/** cp, tar, find, du, mv and rm on a mount: what comes back, also after mounting elsewhere, is what went in. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { describeTree, makeTree } from "./support/trees.ts";

setDefaultTimeout(120_000);

let node: TestNode;
let mount: TestMount;
let local: string;
let tree: string;
let description: string;

beforeAll(async () => {
  local = tempFolder("trees-");
  tree = join(local, "tree");
  await makeTree(tree);
  description = await describeTree(tree);
  node = await TestNode.start();
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

/** The same namespace at another place, in a client that has nothing cached. */
async function mountElsewhere(): Promise<void> {
  await mount.unmount();
  mount = await TestMount.mount(node);
}

test("the description notices what differs", async () => {
  expect(description.split("\n").length).toBeGreaterThan(500);
  expect(description).toContain("user.colour=0x00ff10");
  expect(description).toContain("group 1");
});

test("cp -a in, and out again after mounting elsewhere", async () => {
  await runOk("cp", ["-a", tree, join(mount.path, "copy")]);
  expect(await describeTree(join(mount.path, "copy"))).toBe(description);
  await mountElsewhere();
  expect(await describeTree(join(mount.path, "copy"))).toBe(description);
  await runOk("cp", ["-a", join(mount.path, "copy"), join(local, "copied back")]);
  expect(await describeTree(join(local, "copied back"))).toBe(description);
});

test("cp -a from the mount to the mount", async () => {
  await runOk("cp", ["-a", join(mount.path, "copy"), join(mount.path, "second")]);
  expect(await describeTree(join(mount.path, "second"))).toBe(description);
});

const TAR = ["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse"];

test("tar out of the mount and into it", async () => {
  const archive = join(local, "out.tar");
  await runOk("tar", [...TAR, "-cf", archive, "-C", join(mount.path, "copy"), "."]);
  await runOk("mkdir", [join(local, "unpacked"), join(mount.path, "unpacked")]);
  await runOk("tar", [...TAR, "-xpf", archive, "-C", join(local, "unpacked")]);
  expect(await describeTree(join(local, "unpacked"))).toBe(description);
  await runOk("tar", [...TAR, "-xpf", archive, "-C", join(mount.path, "unpacked")]);
  expect(await describeTree(join(mount.path, "unpacked"))).toBe(description);
});

test("a compressed archive that lies on the mount itself", async () => {
  const archive = join(mount.path, "archive.tar.gz");
  await runOk("tar", [...TAR, "-czf", archive, "-C", tree, "."]);
  await runOk("gzip", ["-t", archive]);
  await mountElsewhere();
  await runOk("mkdir", [join(mount.path, "from archive")]);
  await runOk("tar", [...TAR, "-xzpf", join(mount.path, "archive.tar.gz"), "-C", join(mount.path, "from archive")]);
  expect(await describeTree(join(mount.path, "from archive"))).toBe(description);
});

test("find sees every entry once and du counts what is allocated", async () => {
  const list = async (folder: string) => (await runOk("find", [".", "-print0"], { cwd: folder })).split("\0").sort();
  expect(await list(join(mount.path, "copy"))).toEqual(await list(tree));
  const count = async (folder: string) =>
    (await runOk("find", [folder, "-type", "f", "-size", "+16k", "-newermt", "2000-01-01"])).split("\n").length;
  expect(await count(join(mount.path, "copy"))).toBe(await count(tree));
  const bytes = async (...args: string[]) => Number((await runOk("du", ["-s", "--block-size=1", ...args])).split("\t")[0]);
  const files = (folder: string) =>
    runOk("bash", ["-c", "find . -type f -printf '%i %s\\n' | sort -u | awk '{ n += $2 } END { print n }'"], { cwd: folder });
  expect(await files(join(mount.path, "copy"))).toBe(await files(tree));
  // Each file once, whatever its number of names; a hole takes no room.
  const hole = statSync(join(tree, "hole at the end")).size;
  const apparent = Number(await files(tree));
  const allocated = await bytes(join(mount.path, "copy"));
  expect(allocated).toBeGreaterThan(apparent - hole);
  expect(allocated).toBeLessThan(apparent + 4096 * 400);
});

test("mv of a tree within the mount keeps all of it, inode numbers too", async () => {
  const inodes = (folder: string) => runOk("bash", ["-c", "find . -printf '%i %P\\n' | LC_ALL=C sort"], { cwd: folder });
  const before = await inodes(join(mount.path, "second"));
  await runOk("mkdir", ["-p", join(mount.path, "deep/er")]);
  await runOk("mv", [join(mount.path, "second"), join(mount.path, "deep/er/moved")]);
  expect(await inodes(join(mount.path, "deep/er/moved"))).toBe(before);
  expect(await describeTree(join(mount.path, "deep/er/moved"))).toBe(description);
  expect((await run("stat", [join(mount.path, "second")])).status).toBe(1);
  const into = await run("mv", [join(mount.path, "deep"), join(mount.path, "deep/er/moved/")]);
  expect(into.stderr).toContain("subdirectory of itself");
});

test("mv from another filesystem and back", async () => {
  await runOk("mv", [join(local, "unpacked"), join(mount.path, "moved in")]);
  expect(await describeTree(join(mount.path, "moved in"))).toBe(description);
  await runOk("mv", [join(mount.path, "moved in"), join(local, "moved out")]);
  expect(await describeTree(join(local, "moved out"))).toBe(description);
});

test("rm -r leaves nothing, and the rest is the same after mounting elsewhere", async () => {
  await runOk("rm", ["-r", join(mount.path, "unpacked"), join(mount.path, "from archive"), join(mount.path, "archive.tar.gz")]);
  await mountElsewhere();
  expect((await runOk("ls", [mount.path])).split("\n").sort()).toEqual(["", "copy", "deep"]);
  expect(await describeTree(join(mount.path, "deep/er/moved"))).toBe(description);
  expect(await describeTree(join(mount.path, "copy"))).toBe(description);
  await runOk("rm", ["-r", join(mount.path, "copy"), join(mount.path, "deep")]);
  expect(await runOk("ls", ["-A", mount.path])).toBe("");
});

test("a mount's log has no errors", () => {
  expect(
    mount
      .log()
      .split("\n")
      .filter((line) => /"level":(50|60)/.test(line)),
  ).toEqual([]);
});
