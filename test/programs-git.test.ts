/** git on a mount: a repository of a thousand files, its history, and what is left of both after mounting elsewhere. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { someBytes } from "./support/trees.ts";

setDefaultTimeout(120_000);

const FILES = 1000;
const FILES_PER_FOLDER = 50;
const ENV = {
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_CONFIG_NOSYSTEM: "1",
  GIT_AUTHOR_NAME: "a",
  GIT_AUTHOR_EMAIL: "a@example.org",
  GIT_COMMITTER_NAME: "a",
  GIT_COMMITTER_EMAIL: "a@example.org",
  GIT_AUTHOR_DATE: "2020-01-01T00:00:00Z",
  GIT_COMMITTER_DATE: "2020-01-01T00:00:00Z",
};

let node: TestNode;
let mount: TestMount;
let local: string;
let head: string;

const git = (folder: string, ...args: string[]) => runOk("git", ["-C", folder, "-c", "gc.auto=0", ...args], { env: ENV });
const repo = () => join(mount.path, "repo");

beforeAll(async () => {
  local = join(tempFolder("git-"), "work");
  for (let i = 0; i < FILES; i++) {
    const folder = join(local, `dir-${Math.floor(i / FILES_PER_FOLDER)}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `file-${i}.txt`), `${i}\n`.repeat(1 + (i % 97)));
  }
  writeFileSync(join(local, "large.bin"), someBytes("large", 6_000_000));
  node = await TestNode.start();
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

test("init, add, commit: the same commit as on a local disk", async () => {
  await runOk("cp", ["-a", local, repo()]);
  for (const folder of [local, repo()]) {
    await git(folder, "init", "-q", "-b", "main");
    await git(folder, "add", "-A");
    await git(folder, "commit", "-q", "-m", "first");
  }
  head = (await git(repo(), "rev-parse", "HEAD")).trim();
  expect(head).toBe((await git(local, "rev-parse", "HEAD")).trim());
  expect(await git(repo(), "status", "--porcelain")).toBe("");
});

test("branches, a merge, renames, and files that change back and forth", async () => {
  await git(repo(), "checkout", "-q", "-b", "topic");
  await git(repo(), "mv", "dir-0", "renamed");
  await runOk("bash", ["-c", "for i in dir-1/*; do echo more >> $i; done; rm -r dir-2; chmod +x dir-3/*"], { cwd: repo() });
  await git(repo(), "add", "-A");
  await git(repo(), "commit", "-q", "-m", "topic");
  await git(repo(), "checkout", "-q", "main");
  await git(repo(), "diff", "--exit-code", head);
  await runOk("bash", ["-c", "echo main > dir-5/main.txt"], { cwd: repo() });
  await git(repo(), "add", "-A");
  await git(repo(), "commit", "-q", "-m", "main");
  await git(repo(), "merge", "-q", "-m", "merge", "topic");
  expect(await git(repo(), "status", "--porcelain")).toBe("");
  expect((await git(repo(), "ls-files")).split("\n").length - 1).toBe(FILES + 1 + 1 - FILES_PER_FOLDER);
  head = (await git(repo(), "rev-parse", "HEAD")).trim();
});

test("fsck, gc, fsck: the objects are sound before and after packing", async () => {
  await git(repo(), "fsck", "--strict", "--full");
  await git(repo(), "gc", "-q", "--prune=now");
  await git(repo(), "fsck", "--strict", "--full");
  expect(await git(repo(), "count-objects")).toMatch(/^0 objects/);
});

test("after mounting elsewhere the repository is whole and its work tree clean", async () => {
  await mount.unmount();
  mount = await TestMount.mount(node);
  await git(repo(), "fsck", "--strict", "--full");
  expect((await git(repo(), "rev-parse", "HEAD")).trim()).toBe(head);
  expect(await git(repo(), "status", "--porcelain")).toBe("");
  await git(repo(), "diff", "--exit-code");
});

test("clones on the mount and from it have the same tree", async () => {
  await git(mount.path, "clone", "-q", "repo", "clone");
  await git(mount.path, "clone", "-q", "--no-hardlinks", repo(), `${local}-clone`);
  for (const folder of [join(mount.path, "clone"), `${local}-clone`]) {
    expect((await git(folder, "rev-parse", "HEAD")).trim()).toBe(head);
    await git(folder, "fsck", "--strict", "--full");
    expect(await git(folder, "status", "--porcelain")).toBe("");
  }
  await git(join(mount.path, "clone"), "worktree", "add", "-q", "../worktree", "-b", "other");
  expect(await git(join(mount.path, "worktree"), "status", "--porcelain")).toBe("");
  await git(repo(), "repack", "-q", "-a", "-d", "-f");
  await git(join(mount.path, "clone"), "fsck", "--full");
});
