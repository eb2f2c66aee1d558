/** Several namespaces in one mount, all of them, and what happens between them. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { kiseki, mountArguments } from "./support/cli.ts";
import { cleanUp, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(60_000);

let node: TestNode;

beforeAll(async () => {
  node = await TestNode.start();
  for (const name of ["photos", "music"]) expect((await namespace("create", name)).status).toBe(0);
});
afterAll(cleanUp);

async function namespace(...args: string[]) {
  return await kiseki(["namespace", ...args, ...(await mountArguments(node))]);
}

/** The errno names of each system call, done by a child process in `folder`. */
async function python(folder: string, ...calls: string[]): Promise<string[]> {
  const script = [
    "import os, errno",
    ...calls.map((call) => `try:\n  print(${call})\nexcept OSError as e:\n  print(errno.errorcode[e.errno])`),
  ];
  return (await runOk("python3", ["-c", script.join("\n")], { cwd: folder })).trim().split("\n");
}

test("two namespaces are two folders; renaming or linking between them is EXDEV, and mv copies", async () => {
  await using mount = await TestMount.mount(node, { namespace: "photos", args: ["--namespace", "music"] });
  expect((await runOk("ls", [mount.path])).trim().split("\n").sort()).toEqual(["music", "photos"]);
  await runOk("bash", ["-c", "mkdir photos/dir; echo one > photos/dir/one; echo two > music/two"], { cwd: mount.path });
  const answers = await python(
    mount.path,
    "os.rename('photos/dir/one', 'music/one')",
    "os.link('photos/dir/one', 'music/one')",
    "os.rename('photos/dir', 'music/dir')",
    "os.rename('photos/dir/one', 'one')",
    "os.rename('photos/dir/one', 'photos/one')",
    "os.link('music/two', 'music/three')",
  );
  expect(answers.slice(0, 3)).toEqual(["EXDEV", "EXDEV", "EXDEV"]);
  expect(answers[3]).toMatch(/^E[A-Z]+$/);
  expect(answers.slice(4)).toEqual(["None", "None"]);
  await runOk("mv", ["photos/one", "music/"], { cwd: mount.path });
  expect(await runOk("cat", [join(mount.path, "music/one")])).toBe("one\n");
  await mount.unmount();
});

test("the folder of namespaces can't be changed by hand", async () => {
  await using mount = await TestMount.mount(node, { namespace: "all" });
  const answers = await python(
    mount.path,
    "os.mkdir('new')",
    "open('file', 'w')",
    "os.rmdir('photos')",
    "os.rename('photos', 'pictures')",
    "os.symlink('x', 'y')",
    "os.stat('nosuch')",
  );
  for (const answer of answers) expect(answer).toMatch(/^E[A-Z]+$/);
  expect(answers[5]).toBe("ENOENT");
  expect((await runOk("ls", [mount.path])).trim().split("\n").sort()).toEqual(["default", "music", "photos"]);
});

test("all: files are where they were written, and have inode numbers of their own", async () => {
  await using mount = await TestMount.mount(node, { namespace: "all" });
  expect(
    await runOk("find", [".", "-type", "f", "-printf", "%P\\n"], { cwd: mount.path }).then((text) => text.trim().split("\n").sort()),
  ).toEqual(["music/one", "music/three", "music/two"]);
  const inodes = (await runOk("find", [".", "-mindepth", "1", "-type", "d", "-printf", "%i\\n"], { cwd: mount.path })).trim().split("\n");
  expect(new Set(inodes).size).toBe(inodes.length);
  await using single = await TestMount.mount(node, { namespace: "music" });
  expect(await runOk("cat", [join(single.path, "two")])).toBe("two\n");
  expect((await run("stat", [join(single.path, "music")])).status).toBe(1);
});

test("a namespace that is made later appears in a mount of all", async () => {
  await using mount = await TestMount.mount(node, { namespace: "all" });
  await runOk("ls", [mount.path]);
  expect((await namespace("create", "later")).status).toBe(0);
  await runOk("bash", ["-c", "echo hello > later/file"], { cwd: mount.path });
  // Listed at the latest when the kernel's copy of the folder has expired (meta_ttl_ms).
  let listed = "";
  for (let i = 0; i < 60 && !listed.includes("later"); i++) {
    listed = await runOk("ls", [mount.path]);
    if (!listed.includes("later")) await Bun.sleep(100);
  }
  expect(listed).toContain("later");
  expect(await runOk("cat", [join(mount.path, "later/file")])).toBe("hello\n");
});

test("a namespace is deleted when it is empty, or by force", async () => {
  const refused = await namespace("delete", "later");
  expect(refused).toMatchObject({ status: 1, stderr: expect.stringMatching(/^kiseki: .*--force\n$/) });
  expect((await namespace("delete", "later", "--force")).status).toBe(0);
  expect((await namespace("list")).stdout).toBe("default\nmusic\nphotos\n");
  const gone = await kiseki(["mount", node.dataDir, ...(await mountArguments(node)), "--namespace", "later", "-o", "nonempty"]);
  expect(gone).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^kiseki: .*no namespace later.*kiseki namespace create later.*\n$/),
  });
});

test("tenants see only their own namespaces", async () => {
  await node.credentials("stranger");
  const listed = await kiseki(["namespace", "list", ...(await mountArguments(node, "stranger"))]);
  expect(listed).toMatchObject({ status: 0, stdout: "default\n" });
  await using mount = await TestMount.mount(node, { tenant: "stranger", namespace: "all" });
  expect(await runOk("find", [mount.path, "-mindepth", "1", "-printf", "%P\\n"])).toBe("default\n");
});
