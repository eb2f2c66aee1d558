/** rsync -aHAX to a mount and from it: the second run has nothing to do, also after mounting elsewhere. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { describeTree, makeTree } from "./support/trees.ts";

setDefaultTimeout(120_000);

let node: TestNode;
let mount: TestMount;
let local: string;

beforeAll(async () => {
  local = tempFolder("rsync-");
  await makeTree(join(local, "tree"));
  node = await TestNode.start();
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

/** Has rsync compare nanoseconds too: else it takes the time of a file that it has just made for the right one. */
const EXACT_TIMES = "--modify-window=-1";

/** What rsync did, one line an item. */
const rsync = (from: string, to: string, ...more: string[]) =>
  runOk("rsync", ["-aHAX", "--numeric-ids", "--itemize-changes", ...more, `${from}/`, `${to}/`]);

test("to the mount: the second run copies nothing", async () => {
  const tree = join(local, "tree");
  const copy = join(mount.path, "copy");
  const first = await rsync(tree, copy);
  expect(first).toContain(">f+++++++++ size-4194305");
  expect(await describeTree(copy)).toBe(await describeTree(tree));
  expect(await rsync(tree, copy)).toBe("");
  expect(await rsync(tree, copy, "--checksum", "--delete")).toBe("");
});

test("the same after mounting elsewhere", async () => {
  await mount.unmount();
  mount = await TestMount.mount(node);
  expect(await rsync(join(local, "tree"), join(mount.path, "copy"), "--checksum", "--delete")).toBe("");
});

test("only what changed is copied; what is gone is deleted", async () => {
  const changed = join(local, "changed");
  await runOk("cp", ["-a", join(local, "tree"), changed]);
  const script =
    "echo more >> size-16384; rm -r folder-7; mv folder-6 new; setfattr -n user.colour -v red size-1; chmod 700 folder-3; ln -f size-4095 'hard link 2'";
  await runOk("bash", ["-c", script], { cwd: changed });
  const items = await rsync(changed, join(mount.path, "copy"), "--delete", EXACT_TIMES);
  expect(items).toContain("size-16384");
  expect(items).not.toContain("size-65536");
  expect(await describeTree(join(mount.path, "copy"))).toBe(await describeTree(changed));
  expect(await rsync(changed, join(mount.path, "copy"), "--delete", EXACT_TIMES)).toBe("");
});

test("in place, with blocks compared: only a part of a large file is written", async () => {
  const changed = join(local, "changed");
  await runOk("bash", ["-c", "printf XYZ | dd of=size-4194305 bs=1 seek=2000000 conv=notrunc status=none"], { cwd: changed });
  const told = await rsync(changed, join(mount.path, "copy"), "--inplace", "--no-whole-file", "--stats", EXACT_TIMES);
  expect(Number(/Literal data: ([\d,]+)/.exec(told)?.[1]?.replaceAll(",", ""))).toBeLessThan(100_000);
  expect(await describeTree(join(mount.path, "copy"))).toBe(await describeTree(changed));
});

test("from the mount: the second run copies nothing", async () => {
  const copy = join(mount.path, "copy");
  await rsync(copy, join(local, "back"), EXACT_TIMES);
  expect(await describeTree(join(local, "back"))).toBe(await describeTree(copy));
  expect(await rsync(copy, join(local, "back"), "--checksum")).toBe("");
});
