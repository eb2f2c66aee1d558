/** Options, environment variables and -o words, seen through what a mount does with them. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { kiseki, mountArguments, mountProcesses, mountpoint } from "./support/cli.ts";
import { cleanUp, isMounted, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

let node: TestNode;
let folder: string;

beforeAll(async () => {
  node = await TestNode.start();
  folder = tempFolder("options-");
  expect((await kiseki(["namespace", "create", "other", ...(await mountArguments(node))])).status).toBe(0);
});
afterAll(cleanUp);

const source = (path: string) =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .find((fields) => fields[4] === path)
    ?.at(-2);

test("the environment alone is enough, -o beats it, a long option beats both", async () => {
  const path = mountpoint();
  const env = {
    KISEKI_DATA_ADDR: node.addr,
    KISEKI_TENANT: "t",
    KISEKI_NAMESPACE: "other",
    KISEKI_CREDENTIALS: await node.credentials("t"),
    KISEKI_CACHE_MODE: "bypass",
    KISEKI_CACHE_DIR: join(folder, "cache"),
    KISEKI_CACHE_L1_MAX: "32M",
    KISEKI_CACHE_L2_MAX: "1G",
    KISEKI_CACHE_META_TTL_MS: "100",
  };
  const log = ["--log-file", join(folder, "log")];
  const cases = [
    { args: [], namespace: "other" },
    { args: ["-o", "namespace=default"], namespace: "default" },
    { args: ["-o", "namespace=other", "--namespace", "default"], namespace: "default" },
  ];
  for (const { args, namespace } of cases) {
    expect(await kiseki(["mount", path, ...args, ...log], { env })).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(source(path)).toBe(`${node.addr}/t/${namespace}`);
    expect((await kiseki(["umount", path])).status).toBe(0);
  }
  // An empty variable is none: the default counts.
  expect((await kiseki(["mount", path, ...log], { env: { ...env, KISEKI_NAMESPACE: "" } })).status).toBe(0);
  expect(source(path)).toBe(`${node.addr}/t/default`);
  expect((await kiseki(["umount", path])).status).toBe(0);
});

test("every bad value, wherever it stands: 2, and one line with the option, the value and what is allowed", async () => {
  const path = mountpoint();
  const args = ["mount", path, ...(await mountArguments(node)), "--log-file", join(folder, "log")];
  const cases: [string[], Record<string, string>, RegExp][] = [
    [["--cache-mode", "some"], {}, /--cache-mode: expected pinned, organic or bypass, got "some"/],
    [["-o", "cache_mode=some"], {}, /-o cache_mode: .*"some"/],
    [[], { KISEKI_CACHE_MODE: "some" }, /KISEKI_CACHE_MODE: .*"some"/],
    [[], { KISEKI_CACHE_L1_MAX: "1" }, /KISEKI_CACHE_L1_MAX: expected a size from 16M/],
    [[], { KISEKI_CACHE_L2_MAX: "-1" }, /KISEKI_CACHE_L2_MAX: .*"-1"/],
    [[], { KISEKI_CACHE_META_TTL_MS: "1.5" }, /KISEKI_CACHE_META_TTL_MS: .*"1\.5"/],
    [[], { KISEKI_CACHE_POOL_ID: "xyz" }, /KISEKI_CACHE_POOL_ID: .*32 hexadecimal/],
    [[], { KISEKI_CACHE_DIR: "relative" }, /KISEKI_CACHE_DIR: .*absolute/],
    [["--cache-dir", join(path, "inside")], {}, /--cache-dir: .*inside the mountpoint/],
    [["--meta-ttl-ms", "-5"], {}, /--meta-ttl-ms: .*"-5"/],
    [["--uid", "root"], {}, /--uid: .*"root"/],
    [["-o", "gid=4294967295"], {}, /-o gid: .*"4294967295"/],
    [["-o", "attr_timeout=long"], {}, /-o attr_timeout: .*"long"/],
    [["-o", "entry_timeout"], {}, /-o entry_timeout: expected entry_timeout=/],
    [["-o", "ro=maybe"], {}, /-o ro: expected true or false, got "maybe"/],
    [["--log-level", "loud"], {}, /--log-level: .*"loud"/],
    [["-o", "colour=red"], {}, /-o colour=red: unknown mount option.*kiseki mount --help/],
    [["--colour"], {}, /unknown option '--colour'/],
    [["--data-addr", "no port:x"], {}, /--data-addr: .*HOST:PORT/],
    [["--namespace", "UPPER"], {}, /--namespace: .*"UPPER"/],
    [["extra"], {}, /too many arguments/],
  ];
  for (const [more, env, message] of cases) {
    const result = await kiseki([...args, ...more], { env });
    expect(result.stderr, more.join(" ")).toMatch(message);
    expect(result.stderr).toMatch(/^kiseki: .+\n$/);
    expect(result, more.join(" ")).toMatchObject({ status: 2, stdout: "" });
  }
  expect(isMounted(path)).toBe(false);
});

test("uid and gid only change what is shown; ro refuses changes", async () => {
  await using plain = await TestMount.mount(node);
  await runOk("bash", ["-c", "echo x > file; chown 12:34 file"], { cwd: plain.path });
  await using shown = await TestMount.mount(node, { args: ["--uid", "1234", "-o", "gid=5678"] });
  expect(await runOk("stat", ["-c", "%u:%g", join(shown.path, "file")])).toBe("1234:5678\n");
  expect(await runOk("stat", ["-c", "%u:%g", join(plain.path, "file")])).toBe("12:34\n");
  await using readOnly = await TestMount.mount(node, { args: ["-o", "ro"] });
  for (const command of ["echo > file", "rm file", "mkdir d", "chmod 600 file", "mv file other", "setfattr -n user.a -v b file"]) {
    const result = await run("bash", ["-c", command], { cwd: readOnly.path });
    expect(result.stderr, command).toContain("Read-only file system");
  }
  expect(await runOk("cat", [join(readOnly.path, "file")])).toBe("x\n");
  for (const mount of [plain, shown, readOnly]) await mount.unmount();
});

for (const words of ["writeback_cache", "cache_mode=bypass", "cache_mode=pinned", "meta_ttl_ms=0,attr_timeout=0,entry_timeout=0"]) {
  test(`-o ${words}: files are what they were written`, async () => {
    await using mount = await TestMount.mount(node, { args: ["-o", words] });
    const script =
      "rm -rf d; mkdir d; cd d; seq 200000 > a; cp a b; cat a b > c; truncate -s 1000 b; echo end >> b; mv c e; sha256sum a b e";
    const local = join(folder, "same");
    await runOk("mkdir", ["-p", local]);
    const expected = await runOk("bash", ["-c", script], { cwd: local });
    expect(await runOk("bash", ["-c", script], { cwd: mount.path })).toBe(expected);
    await mount.unmount();
    await using again = await TestMount.mount(node);
    expect(await runOk("sha256sum", ["a", "b", "e"], { cwd: join(again.path, "d") })).toBe(expected);
    // Not killed: the next mount would wait for the leases of this one to expire.
    await again.unmount();
  });
}

test("in the background: the command returns, its process is another session's, and the log has mode 0600", async () => {
  const path = mountpoint();
  const logFile = join(folder, "made", "background.log");
  const began = await kiseki(["mount", path, ...(await mountArguments(node)), "--log-file", logFile]);
  expect(began).toEqual({ status: 0, stdout: "", stderr: "" });
  const [pid, ...others] = mountProcesses(path);
  expect(others).toEqual([]);
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  expect(Number(fields[3])).toBe(pid as number);
  expect(await runOk("readlink", [`/proc/${pid}/cwd`])).toBe("/\n");
  expect(statSync(logFile).mode & 0o777).toBe(0o600);
  for (const line of readFileSync(logFile, "utf8").trim().split("\n")) expect(JSON.parse(line)).toHaveProperty("level");
  expect((await kiseki(["umount", path])).status).toBe(0);
  expect(mountProcesses(path)).toEqual([]);
});

test("a log that can't be written is said before anything is mounted", async () => {
  const path = mountpoint();
  const result = await kiseki(["mount", path, ...(await mountArguments(node)), "--log-file", "/proc/nosuch/log"]);
  expect(result).toMatchObject({ status: 1, stderr: expect.stringMatching(/^kiseki: .*\/proc\/nosuch\/log.*--log-file\n$/) });
  expect(isMounted(path)).toBe(false);
});
