/** Limits of a tenant: who reaches one learns of it, what is there stays, deleting makes room, others don't notice. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(120_000);

const MIB = 1024 * 1024;
/** The node looks at the limits this often, and collects what was deleted. */
const PATIENCE_MS = 30_000;

let node: TestNode;
let mount: TestMount;

beforeAll(async () => {
  node = await TestNode.start({ args: ["--gc-grace", "1s"] });
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

const limitOn = (of: TestNode, ...args: string[]) => run(KISEKI, ["tenant", "limit", "t", "--data-dir", of.dataDir, ...args]);
const limit = (...args: string[]) => limitOn(node, ...args);
const write = (name: string, mib: number) =>
  run("dd", ["if=/dev/urandom", `of=${join(mount.path, name)}`, "bs=1M", `count=${mib}`, "conv=fsync", "status=none"]);

async function until(what: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await what())) {
    if (performance.now() > deadline) throw new Error(`waited for too long: ${what}`);
    await Bun.sleep(200);
  }
}

function storedBytes(of = node): number {
  const root = join(of.dataDir, "tenants", "t", "chunks");
  const files = readdirSync(root).flatMap((folder) => readdirSync(join(root, folder)).map((name) => join(root, folder, name)));
  return files.reduce((sum, file) => sum + (statSync(file, { throwIfNoEntry: false })?.size ?? 0), 0);
}

test("bytes: a writer gets EDQUOT, df shows the limit, deleting makes room, and a node that was killed counts the same", async () => {
  expect(await write("first", 20)).toMatchObject({ status: 0 });
  expect(await limit("--bytes", "40M")).toMatchObject({ status: 0, stdout: "t\tbytes 40M\tinodes no limit\tnamespaces no limit\n" });
  // What the mount was promised without a limit it gives back when it has nothing to write.
  await Bun.sleep(4_500);
  const df = async () => {
    const [size = 0, available = 0] =
      (await runOk("df", ["-B1", "--output=size,avail", mount.path])).trim().split("\n")[1]?.trim().split(/ +/).map(Number) ?? [];
    return { size, available };
  };
  await until(async () => (await df()).size === 40 * MIB);
  expect((await df()).available).toBeWithin(19 * MIB, 20 * MIB + 1);
  const refused = await write("too-large", 60);
  expect(refused.status).not.toBe(0);
  expect(refused.stderr).toContain("Disk quota exceeded");
  expect((await runOk("stat", ["-c", "%s", join(mount.path, "first")])).trim()).toBe(String(20 * MIB));
  await runOk("bash", ["-c", "rm too-large; echo small > small; mkdir folder; mv small folder"], { cwd: mount.path });
  // What was sent and not committed is collected before the node is killed: else it would be kept for who sent it.
  await until(async () => storedBytes() < 21 * MIB);
  await node.restart("SIGKILL");
  // The connection is there again, and what was counted before is counted anew.
  await until(async () => (await df()).available > 19 * MIB);
  expect((await df()).available).toBeLessThan(20 * MIB + 1);
  expect(await write("second", 15)).toMatchObject({ status: 0 });
  expect((await write("third", 15)).stderr).toContain("Disk quota exceeded");
  const other = await TestMount.mount(node, { tenant: "other" });
  await runOk("dd", ["if=/dev/urandom", `of=${join(other.path, "big")}`, "bs=1M", "count=50", "conv=fsync", "status=none"]);
  await other.unmount();
  await runOk("rm", ["-f", join(mount.path, "third")]);
  expect(await limit("--bytes", "none")).toMatchObject({ status: 0, stdout: "t\tbytes no limit\tinodes no limit\tnamespaces no limit\n" });
  await Bun.sleep(1_000);
  expect(await write("fourth", 30)).toMatchObject({ status: 0 });
  await runOk("bash", ["-c", "rm -rf *"], { cwd: mount.path });
});

/** Writes files of 4 MiB, a MiB at a time, without fsync and in turns, until every writer is refused. Returns the error of each, and what was accepted. */
function writeUntilRefused(folders: readonly string[]): { codes: string[]; accepted: Map<string, number> } {
  const accepted = new Map<string, number>();
  const codes: string[] = folders.map(() => "");
  const data = Buffer.alloc(MIB);
  for (let i = 0; i < 100 && codes.includes(""); i++) {
    for (const [writer, folder] of folders.entries()) {
      if (codes[writer] !== "") continue;
      const path = join(folder, `w${writer}-${i}`);
      const fd = openSync(path, "w");
      try {
        for (let mib = 0; mib < 4; mib++) {
          // Else the chunks would be one.
          data.fill(i).writeUInt32LE(writer * 1_000 + i, 0);
          data.writeUInt32LE(mib, 4);
          writeSync(fd, data);
          accepted.set(path, (accepted.get(path) ?? 0) + MIB);
        }
      } catch (error) {
        codes[writer] = error instanceof Error && "code" in error ? String(error.code) : String(error);
      } finally {
        // What was accepted finds room, whatever was refused.
        fsyncSync(fd);
        closeSync(fd);
      }
    }
  }
  return { codes, accepted };
}

function expectWhole(accepted: ReadonlyMap<string, number>): void {
  for (const [path, bytes] of accepted) {
    const found = readFileSync(path);
    // The call that was refused may have written a part.
    expect(found.length).toBeWithin(bytes, bytes + MIB);
    for (let at = 0; at < bytes; at += MIB) expect(found.readUInt32LE(at + 4)).toBe(at / MIB);
  }
}

async function limitedNode(): Promise<TestNode> {
  const own = await TestNode.start({ args: ["--gc-grace", "1s"] });
  await own.credentials("t");
  expect(await limitOn(own, "--bytes", "60M")).toMatchObject({ status: 0 });
  await Bun.sleep(1_000);
  return own;
}

test("write itself is refused at the limit, what it accepted before is kept, and two mounts share one limit", async () => {
  const own = await limitedNode();
  const first = await TestMount.mount(own);
  const big = openSync(join(first.path, "big"), "w");
  let written = 0;
  let code = "";
  try {
    for (; written < 200; written++) writeSync(big, randomBytes(MIB));
  } catch (error) {
    code = error instanceof Error && "code" in error ? String(error.code) : String(error);
  }
  expect(code).toBe("EDQUOT");
  expect(written).toBeWithin(56, 60);
  fsyncSync(big);
  closeSync(big);
  await runOk("rm", [join(first.path, "big")]);
  await until(async () => storedBytes(own) < MIB);

  const second = await TestMount.mount(own);
  const both = writeUntilRefused([first.path, second.path]);
  expect(both.codes).toEqual(["EDQUOT", "EDQUOT"]);
  const sum = [...both.accepted.values()].reduce((a, b) => a + b, 0);
  // A write may be refused for the room that it could take at most, and what the other mount has asked for ahead.
  expect(sum).toBeWithin(48 * MIB, 60 * MIB);
  expect(storedBytes(own)).toBeLessThan(60 * MIB + 1);
  expectWhole(both.accepted);
  await second.unmount();
  await first.unmount();
  await own.stop();
});

test("a node that is killed under writers at the limit keeps what they were told is written", async () => {
  const own = await limitedNode();
  const first = await TestMount.mount(own);
  const second = await TestMount.mount(own);
  const path = join(first.path, "kept");
  // A process of its own: one that is started from here would close an inherited descriptor, and so wait for the node.
  const writer = Bun.spawn(["dd", `of=${path}`, "bs=1M", "iflag=fullblock", "conv=fsync", "status=none"], { stdin: "pipe" });
  const data = randomBytes(30 * MIB);
  for (let at = 0; at < data.length; at += MIB) data.writeUInt32LE(at / MIB, at + 4);
  writer.stdin.write(data);
  await writer.stdin.flush();
  await until(async () => statSync(path, { throwIfNoEntry: false })?.size === 30 * MIB);
  await own.restart("SIGKILL");
  expect(writeUntilRefused([second.path]).codes).toEqual(["EDQUOT"]);
  await writer.stdin.end();
  expect(await writer.exited).toBe(0);
  expectWhole(new Map([[path, 30 * MIB]]));
  await second.unmount();
  await first.unmount();
  await own.stop();
});

test("fallocate sets room aside: others find it taken, the file's own writes find it, and what cuts the file gives it back", async () => {
  const own = await limitedNode();
  const mount = await TestMount.mount(own);
  const other = await TestMount.mount(own);
  const program = `
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
top, there = sys.argv[1:]
MIB = 2**20; KEEP, PUNCH = 1, 2
def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0: raise OSError(ctypes.get_errno(), "fallocate")
def name(call, *args):
    try: call(*args); return "ok"
    except OSError as e: return errno.errorcode[e.errno]
def fill(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC); n = 0
    try:
        while True: os.write(fd, os.urandom(MIB // 2)); n += 1
    except OSError as e: said = errno.errorcode[e.errno]
    try: os.fsync(fd)
    except OSError as e: said += " " + errno.errorcode[e.errno]
    os.close(fd)
    return said, n / 2
def free(): s = os.statvfs(top); return s.f_bavail * s.f_frsize / MIB
fd = os.open(top + "/reserved", os.O_RDWR | os.O_CREAT)
before = free()
print("fallocate", name(fallocate, fd, 0, 0, 30 * MIB), os.fstat(fd).st_size // MIB, os.fstat(fd).st_blocks * 512 // MIB)
import time; time.sleep(2.5)
print("df", round(before - free()) in (30, 31, 32))
print("more", name(fallocate, fd, 0, 30 * MIB, 40 * MIB), os.fstat(fd).st_size // MIB)
print("zeros", os.pread(fd, MIB, 20 * MIB) == bytes(MIB))
time.sleep(4.5)
said, n = fill(there + "/other"); print("other mount", said, 18 < n < 30)
said, n = fill(top + "/same"); print("same mount", said, n < 8)
# Its own writes: pieces out of order, unaligned, and again what was written.
for at in range(29, -1, -1): os.pwrite(fd, os.urandom(MIB), at * MIB)
print("written", name(os.fsync, fd), os.fstat(fd).st_blocks * 512 // MIB)
os.unlink(top + "/same"); os.unlink(there + "/other"); os.close(fd); os.unlink(top + "/reserved")
deadline = time.monotonic() + 30
while free() < before - 2 and time.monotonic() < deadline: time.sleep(0.5)
print("back", free() >= before - 2)
fd = os.open(top + "/log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
print("keep size", name(fallocate, fd, KEEP, 0, 40 * MIB), os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512 // MIB)
said, n = fill(top + "/same"); print("beside it", said, n < 20)
for i in range(40 * 4): os.write(fd, os.urandom(MIB // 4))
print("appended", name(os.fsync, fd), os.fstat(fd).st_size // MIB)
os.unlink(top + "/same"); os.ftruncate(fd, 0)
deadline = time.monotonic() + 30
while name(fallocate, fd, 0, 0, 20 * MIB) != "ok" and time.monotonic() < deadline: time.sleep(0.5)
fallocate(fd, KEEP | PUNCH, 0, 5 * MIB); print("punched", os.fstat(fd).st_blocks * 512 // MIB)
os.ftruncate(fd, 10 * MIB); print("truncated", os.fstat(fd).st_blocks * 512 // MIB)
os.ftruncate(fd, 0); print("cut", os.fstat(fd).st_blocks)
`;
  expect((await runOk("python3", ["-c", program, mount.path, other.path])).split("\n")).toEqual([
    "fallocate ok 30 30",
    "df True",
    "more EDQUOT 30",
    "zeros True",
    "other mount EDQUOT True",
    "same mount EDQUOT True",
    "written ok 30",
    "back True",
    "keep size ok 0 40",
    "beside it EDQUOT True",
    "appended ok 40",
    "punched 15",
    "truncated 5",
    "cut 0",
    "",
  ]);
});

test("names and extended attributes meet the limit too; renaming, changing and deleting go on", async () => {
  const own = await limitedNode();
  const at = (await TestMount.mount(own)).path;
  const filler = `
import errno, os, sys
def until_refused(call):
    for i in range(100_000):
        try: call(i)
        except OSError as e: return errno.errorcode[e.errno], i
    return "never", i
os.chdir(sys.argv[1])
open("file", "w").close(); os.mkdir("folder")
print(*until_refused(lambda i: os.setxattr("file", f"user.{i}", b"x" * 32_768)))
print(*until_refused(lambda i: os.symlink("t" * 4_000, "folder/" + "n" * 200 + str(i))))
print(*until_refused(lambda i: os.link("file", "folder/" + "l" * 200 + str(i))))
os.rename("file", "f" * 250); os.chmod("f" * 250, 0o640); os.utime("f" * 250); os.setxattr("f" * 250, "user.1", b"y" * 32_768)
for name in os.listdir("folder")[:20]: os.unlink("folder/" + name)
os.removexattr("f" * 250, "user.0")
open("folder/new", "w").close()
`;
  const [xattrs = "", symlinks = "", links = ""] = (await runOk("python3", ["-c", filler, at])).split("\n");
  for (const refused of [xattrs, symlinks, links]) expect(refused).toStartWith("EDQUOT ");
  // 60 MiB, some of which the mount was promised for content.
  expect(Number(xattrs.split(" ")[1])).toBeWithin(200, 60 * 32 + 1);
});

test("inodes and namespaces: the next one is refused, and one that is deleted makes room for another", async () => {
  await runOk("bash", ["-c", "mkdir d && touch d/1 d/2 d/3 && sync d/1"], { cwd: mount.path });
  // The root, the folder and three files.
  expect(await limit("--inodes", "6", "--namespaces", "2")).toMatchObject({
    status: 0,
    stdout: "t\tbytes no limit\tinodes 6\tnamespaces 2\n",
  });
  await Bun.sleep(1_000);
  const make = (name: string) => run("mkdir", [join(mount.path, "d", name)]);
  expect(await make("4")).toMatchObject({ status: 0 });
  for (let i = 0; i < 3; i++) expect((await make("5")).stderr).toContain("Disk quota exceeded");
  await runOk("rm", [join(mount.path, "d", "1")]);
  expect(await make("5")).toMatchObject({ status: 0 });
  const args = ["--data-addr", node.addr, "--credentials", await node.credentials("t")];
  expect(await run(KISEKI, ["namespace", "create", "second", ...args])).toMatchObject({ status: 0 });
  expect(await run(KISEKI, ["namespace", "create", "third", ...args])).toMatchObject({
    status: 1,
    stderr: "kiseki: tenant t may have 2 namespaces\n",
  });
  await mount.unmount();
});

test("kiseki tenant limit says what is wrong with its arguments", async () => {
  for (const args of [
    ["--bytes", "many"],
    ["--inodes", "1.5"],
    ["--namespaces", "-1"],
  ]) {
    expect(await limit(...args)).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/^kiseki: --[a-z]+ [^\n]*expected a number[^\n]*\n$/),
    });
  }
  expect(JSON.parse((await limit("--json")).stdout)).toEqual({ tenant: "t", inodes: 6, namespaces: 2 });
});

test("over the network with the CA: in force at once, df -i shows it, what is used is printed; another CA changes nothing", async () => {
  const there = await TestNode.start();
  const mounted = await TestMount.mount(there);
  const network = ["tenant", "limit", "t", "--data-addr", there.addr, "--ca", join(there.dataDir, "pki")];
  await runOk("touch", ["a", "b"], { cwd: mounted.path });
  const set = await run(KISEKI, [...network, "--inodes", "10", "--json"]);
  expect({ status: set.status, stderr: set.stderr }).toEqual({ status: 0, stderr: "" });
  expect(JSON.parse(set.stdout)).toEqual({ tenant: "t", inodes: 10, used: { bytes: expect.any(Number), inodes: 3, namespaces: 1 } });
  const made = await run(
    "touch",
    Array.from({ length: 20 }, (_, i) => `file ${i}`),
    { cwd: mounted.path },
  );
  expect(made.stderr).toContain("Disk quota exceeded");
  expect(readdirSync(mounted.path).length).toBe(9);
  await until(async () => (await runOk("df", ["--output=iavail", mounted.path])).trim().split("\n")[1]?.trim() === "0");
  expect((await run(KISEKI, network)).stdout).toMatch(/^t\tbytes \S+ of no limit\tinodes 10 of 10\tnamespaces 1 of no limit\n$/);

  const stranger = await TestNode.start();
  await stranger.credentials("t");
  const foreign = await run(KISEKI, [
    "tenant",
    "limit",
    "t",
    "--data-addr",
    there.addr,
    "--ca",
    join(stranger.dataDir, "pki"),
    "--inodes",
    "none",
  ]);
  expect({ ...foreign, status: foreign.status !== 0 }).toMatchObject({
    status: true,
    stdout: "",
    stderr: expect.stringMatching(/^kiseki: .+\n$/),
  });
  expect((await run(KISEKI, [...network.slice(0, 5), "--inodes", "none"])).status).toBe(2);
  expect((await run(KISEKI, network)).stdout).toContain("inodes 10 of 10");
  await mounted.unmount();
});
