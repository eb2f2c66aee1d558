/** mount -t kiseki, fstab and umount, through /sbin/mount.kiseki. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mountProcessEnded, mountpoint } from "./support/cli.ts";
import { cleanUp, isMounted, KISEKI, onCleanUp, run, runOk, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const HELPERS = ["/sbin/mount.kiseki", "/sbin/mount.fuse.kiseki"];
const END_PATIENCE_MS = 20_000;

let node: TestNode;
let credentials: string;
let folder: string;

beforeAll(async () => {
  folder = tempFolder("mount8-");
  for (const helper of HELPERS) {
    if (existsSync(helper)) continue;
    symlinkSync(KISEKI, helper);
    const remove = () => rmSync(helper, { force: true });
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

test("remount changes what it names and nothing else, by mount(8), with and without fstab, and by kiseki mount", async () => {
  const path = mountpoint();
  const fstab = join(folder, "fstab-remount");
  writeFileSync(fstab, `${node.addr}/t/default  ${path}  kiseki  ${options("_netdev,nosuid,nodiratime")}  0  0\n`);
  await runOk("mount", ["--fstab", fstab, path]);
  const flags = () => mountinfo(path).split(" ")[5]?.split(",") ?? [];
  const touch = () => run("touch", [join(path, "touched")]);
  expect(flags()).toEqual(expect.arrayContaining(["rw", "nosuid"]));
  expect((await touch()).status).toBe(0);
  const ways: [string, (words: string) => Promise<unknown>][] = [
    ["mount(8)", (words) => runOk("mount", ["-o", `remount,${words}`, path])],
    ["mount(8) and fstab", (words) => runOk("mount", ["--fstab", fstab, "-o", `remount,${words}`, path])],
    ["kiseki mount", (words) => runOk(KISEKI, ["mount", path, "-o", `remount,${words}`])],
  ];
  for (const [name, way] of ways) {
    await way("ro");
    expect({ name, flags: flags() }).toEqual({ name, flags: expect.arrayContaining(["ro", "nosuid"]) });
    expect((await touch()).stderr).toContain("Read-only file system");
    await way("rw");
    expect({ name, flags: flags() }).toEqual({ name, flags: expect.arrayContaining(["rw", "nosuid"]) });
    expect((await touch()).status).toBe(0);
  }
  await runOk(KISEKI, ["mount", path, "-o", "remount,noexec,nodiratime"]);
  expect(flags()).toEqual(expect.arrayContaining(["noexec", "nosuid", "nodiratime"]));
  const none = await run(KISEKI, ["mount", folder, "-o", "remount,ro"]);
  expect(none).toMatchObject({ status: 1, stderr: expect.stringMatching(/^kiseki: .*no kiseki mount to change.*\n$/) });
  await runOk("umount", [path]);
});

/** mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS", and the words that README names. What mountinfo must show, and must not. */
const WORDS: readonly (readonly [word: string, shows: string | null, hides: string | null])[] = [
  ["async", null, null],
  ["atime", null, "noatime"],
  ["noatime", "noatime", null],
  ["auto", null, null],
  ["noauto", null, null],
  ["defaults", "rw", "nosuid"],
  ["dev", null, "nodev"],
  ["nodev", "nodev", null],
  ["diratime", null, "nodiratime"],
  ["nodiratime", null, null],
  ["exec", null, "noexec"],
  ["noexec", "noexec", null],
  ["group", "nosuid", null],
  ["nofail", null, null],
  ["relatime", null, "noatime"],
  ["norelatime", null, null],
  ["strictatime", null, "noatime"],
  ["nostrictatime", null, null],
  ["lazytime", null, null],
  ["nolazytime", null, null],
  ["suid", null, "nosuid"],
  ["nosuid", "nosuid", null],
  ["owner", "nosuid", null],
  ["_netdev", null, null],
  ["ro", "ro", "rw"],
  ["rw", "rw", null],
  ["user", "noexec", null],
  ["nouser", null, null],
  ["users", "noexec", null],
  ["x-anything", null, null],
  ["X-anything", null, null],
  ["sync", "sync", null],
  ["silent", null, null],
  ["loud", null, null],
  ["noiversion", null, null],
  ["nomand", null, null],
];

test("each word of mount(8) is taken by mount(8), from fstab, and by kiseki mount", async () => {
  const source = `${node.addr}/t/default`;
  const direct = ["--data-addr", node.addr, "--tenant", "t", "--credentials", credentials];
  const [byMount, byFstab, byKiseki] = [mountpoint(), mountpoint(), mountpoint()];
  const fstab = join(folder, "fstab-word");
  const ways: [way: string, path: string, mount: (word: string) => Promise<unknown>][] = [
    ["mount(8)", byMount, (word) => runOk("mount", ["-t", "kiseki", source, byMount, "-o", options(word)])],
    ["fstab", byFstab, () => runOk("mount", ["--fstab", fstab, byFstab])],
    [
      "kiseki mount",
      byKiseki,
      (word) => runOk(KISEKI, ["mount", byKiseki, ...direct, "-o", `${word},log_file=${join(folder, "words.log")}`]),
    ],
  ];
  for (const [word, shows, hides] of WORDS) {
    writeFileSync(fstab, `${source}  ${byFstab}  kiseki  ${options(word)}  0  0\n`);
    await Promise.all(
      ways.map(async ([way, path, mount]) => {
        await mount(word);
        // Those of the mount, and those of the filesystem.
        const [, , , , , own, ...rest] = mountinfo(path).split(" ");
        const flags = `${own},${rest.at(-1)}`.split(",");
        // kiseki mount is nosuid,nodev unless root says otherwise.
        const hidden = hides !== null && own?.split(",").includes(hides) && !(way === "kiseki mount" && word === "defaults");
        expect({ word, way, shows: shows === null || flags.includes(shows), hidden }).toEqual({ word, way, shows: true, hidden: false });
        await runOk("umount", [path]);
      }),
    );
  }
}, 240_000);

test("words that kiseki can't keep are refused by name", async () => {
  const path = mountpoint();
  for (const word of ["dirsync", "mand", "iversion"]) {
    const result = await run("mount", ["-t", "kiseki", `${node.addr}/t/default`, path, "-o", options(word)]);
    expect(result).toMatchObject({ status: 1, stderr: `kiseki: -o ${word}: unknown mount option; see: kiseki mount --help\n` });
  }
});
