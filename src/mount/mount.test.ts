/** A real mount of a filesystem in memory: what applications see of the layer between kernel and Vfs. */
import { expect, test } from "bun:test";
import * as fs from "node:fs";
import { Mounted, sys } from "./testing/mounted.ts";

const O_DIRECT = 0o40000;

/** The errno name of what fails. */
function failure(call: () => unknown): string {
  try {
    call();
    return "no failure";
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

function randomBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

test("what was written is read back, in large requests", async () => {
  await using mount = await Mounted.start();
  const content = randomBytes(5_000_001);
  fs.writeFileSync(mount.at("file"), content);
  expect(fs.statSync(mount.at("file")).size).toBe(content.length);
  expect(Buffer.compare(fs.readFileSync(mount.at("file")), content)).toBe(0);
  const fd = fs.openSync(mount.at("file"), fs.constants.O_RDONLY | O_DIRECT);
  const direct = Buffer.alloc(4 * 1024 * 1024);
  expect(fs.readSync(fd, direct, 0, direct.length, 0)).toBe(direct.length);
  fs.closeSync(fd);
  expect(Buffer.compare(direct, content.subarray(0, direct.length))).toBe(0);
  const seen = await mount.ask({ do: "calls" });
  expect(seen.largestRead).toBe(1024 * 1024);
  expect(seen.largestWrite).toBe(1024 * 1024);
});

test("a read may be answered in many pieces, and they are released once each", async () => {
  await using mount = await Mounted.start();
  const content = randomBytes(3_000_000);
  fs.writeFileSync(mount.at("file"), content);
  expect(sys.setxattr(mount.at("file"), "user.pieces", Buffer.from("1"))).toBe(0);
  const fd = fs.openSync(mount.at("file"), fs.constants.O_RDONLY | O_DIRECT);
  const back = Buffer.alloc(content.length);
  expect(fs.readSync(fd, back, 0, back.length, 0)).toBe(content.length);
  fs.closeSync(fd);
  expect(Buffer.compare(back, content)).toBe(0);
  expect(await mount.calls("release-of-read")).toBe(await mount.calls("read"));
});

test("writes answered later are answered right", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "");
  sys.setxattr(mount.at("file"), "user.later", Buffer.from("1"));
  const content = randomBytes(300_000);
  fs.writeFileSync(mount.at("file"), content);
  expect(Buffer.compare(fs.readFileSync(mount.at("file")), content)).toBe(0);
});

for (const later of [false, true]) {
  test(`10,000 names of random bytes are listed once each${later ? ", answered later" : ""}`, async () => {
    await using mount = await Mounted.start();
    const names = new Set<string>();
    while (names.size < 10_000) {
      const length = 1 + Math.floor(Math.random() * 255);
      const bytes = Array.from({ length }, () => 1 + Math.floor(Math.random() * 255));
      const name = String.fromCharCode(...bytes.map((byte) => (byte === 0x2f ? 0x5f : byte)));
      if (name !== "." && name !== "..") names.add(name);
    }
    const inMount = (name: string) => Buffer.concat([Buffer.from(`${mount.path}/dir/`), Buffer.from(name, "latin1")]);
    fs.mkdirSync(mount.at("dir"));
    for (const name of names) fs.closeSync(fs.openSync(inMount(name), "w"));
    if (later) sys.setxattr(mount.at("dir"), "user.later", Buffer.from("1"));
    const listed = fs.readdirSync(mount.at("dir"), { encoding: "buffer" }).map((name) => name.toString("latin1"));
    expect(listed.length).toBe(names.size);
    expect(new Set(listed)).toEqual(names);
  });
}

test("errors reach the caller as their errno", async () => {
  await using mount = await Mounted.start();
  fs.mkdirSync(mount.at("dir"));
  fs.writeFileSync(mount.at("dir", "file"), "x");
  expect(failure(() => fs.statSync(mount.at("absent")))).toBe("ENOENT");
  expect(failure(() => fs.mkdirSync(mount.at("dir")))).toBe("EEXIST");
  expect(failure(() => fs.rmdirSync(mount.at("dir")))).toBe("ENOTEMPTY");
  expect(failure(() => fs.statSync(mount.at("rejects-later")))).toBe("EDQUOT");
  expect(failure(() => fs.statSync(mount.at("n".repeat(256))))).toBe("ENAMETOOLONG");
  fs.writeFileSync(mount.at("n".repeat(255)), "longest");
  expect(fs.readFileSync(mount.at("n".repeat(255)), "utf8")).toBe("longest");
});

test("a handler that throws or rejects gives EIO and a log line, and the mount goes on", async () => {
  await using mount = await Mounted.start();
  for (const name of ["throws", "rejects"]) expect(failure(() => fs.statSync(mount.at(name)))).toBe("EIO");
  fs.writeFileSync(mount.at("file"), "still there");
  expect(fs.readFileSync(mount.at("file"), "utf8")).toBe("still there");
  expect(await mount.unmount()).toBe(0);
  expect(await mount.line()).toEqual({ ended: true });
  const log = await mount.log;
  expect(log).toContain("thrown on purpose");
  expect(log).toContain("rejected on purpose");
  expect(log).toContain('"lookup"');
});

test("names that are not there are remembered by the kernel", async () => {
  await using mount = await Mounted.start();
  for (let i = 0; i < 10; i++) expect(fs.existsSync(mount.at("absent"))).toBe(false);
  expect(await mount.calls("lookup")).toBe(1);
});

test("without timeouts nothing is remembered", async () => {
  await using mount = await Mounted.start({ attrTimeoutSec: 0, entryTimeoutSec: 0, negativeTimeoutSec: 0 });
  for (let i = 0; i < 10; i++) expect(fs.existsSync(mount.at("absent"))).toBe(false);
  expect(await mount.calls("lookup")).toBe(10);
});

test("attributes, links, times and device numbers pass both ways", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "12345");
  fs.chmodSync(mount.at("file"), 0o640);
  fs.chownSync(mount.at("file"), 1234, 5678);
  fs.utimesSync(mount.at("file"), new Date("1960-01-02T03:04:05.500Z"), new Date("2100-01-02T03:04:05.250Z"));
  const stat = fs.statSync(mount.at("file"), { bigint: true });
  expect([stat.mode & 0o7777n, stat.uid, stat.gid, stat.size]).toEqual([0o640n, 1234n, 5678n, 5n]);
  expect(stat.atimeNs).toBe(BigInt(Date.parse("1960-01-02T03:04:05.500Z")) * 1_000_000n);
  expect(stat.mtimeNs).toBe(BigInt(Date.parse("2100-01-02T03:04:05.250Z")) * 1_000_000n);
  fs.linkSync(mount.at("file"), mount.at("second"));
  expect(fs.statSync(mount.at("second")).nlink).toBe(2);
  fs.symlinkSync("some/where \u00e9", mount.at("link"));
  expect(fs.readlinkSync(mount.at("link"))).toBe("some/where \u00e9");
  expect(sys.mknod(mount.at("device"), 0o20644, (5 << 8) | 1)).toBe(0);
  expect(fs.statSync(mount.at("device")).rdev).toBe((5 << 8) | 1);
  fs.truncateSync(mount.at("file"), 3);
  expect(fs.readFileSync(mount.at("file"), "utf8")).toBe("123");
});

test("sizes beyond 2^53 are exact", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "x");
  const fd = fs.openSync(mount.at("file"), "r+");
  for (const size of [2n ** 63n - 1n, 2n ** 53n + 1n, 2n ** 53n - 1n, 2n ** 40n + 1n]) {
    expect(sys.ftruncate(fd, size)).toBe(0);
    expect(fs.fstatSync(fd, { bigint: true }).size).toBe(size);
  }
  fs.closeSync(fd);
});

test("rename with flags", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("a"), "A");
  fs.writeFileSync(mount.at("b"), "B");
  expect(sys.rename(mount.at("a"), mount.at("b"), 1)).toBe(-17);
  expect(sys.rename(mount.at("a"), mount.at("b"), 2)).toBe(0);
  expect(fs.readFileSync(mount.at("a"), "utf8")).toBe("B");
  fs.renameSync(mount.at("a"), mount.at("c"));
  expect(fs.readdirSync(mount.path).sort()).toEqual(["b", "c"]);
});

test("lseek, fallocate and copy_file_range reach the filesystem", async () => {
  await using mount = await Mounted.start();
  fs.writeFileSync(mount.at("file"), "0123456789");
  const fd = fs.openSync(mount.at("file"), "r+");
  const copy = fs.openSync(mount.at("copy"), "w+");
  expect(sys.lseek(fd, 2, 4)).toBe(10);
  expect(sys.lseek(fd, 100, 3)).toBe(-6);
  sys.lseek(fd, 0, 0);
  expect(sys.copyFileRange(fd, copy, 10)).toBe(10);
  expect(await mount.calls("copy_file_range")).toBe(1);
  expect(sys.fallocate(copy, 0, 5000)).toBe(0);
  fs.closeSync(fd);
  fs.closeSync(copy);
  expect(fs.readFileSync(mount.at("copy")).length).toBe(5000);
});

test("extended attributes: sizes, ERANGE, flags, families", async () => {
  await using mount = await Mounted.start();
  const file = mount.at("file");
  fs.writeFileSync(file, "x");
  const value = randomBytes(65536);
  expect(sys.setxattr(file, "user.big", value)).toBe(0);
  expect(sys.getxattr(file, "user.big", new Uint8Array(0))).toBe(65536);
  expect(sys.getxattr(file, "user.big", new Uint8Array(65535))).toBe(-34);
  const back = new Uint8Array(65536);
  expect(sys.getxattr(file, "user.big", back)).toBe(65536);
  expect(Buffer.compare(back, value)).toBe(0);
  expect(sys.setxattr(file, "user.empty", Buffer.alloc(0))).toBe(0);
  expect(sys.getxattr(file, "user.empty", new Uint8Array(8))).toBe(0);
  expect(sys.setxattr(file, "user.empty", value.subarray(0, 3), 1)).toBe(-17);
  expect(sys.setxattr(file, "user.other", value.subarray(0, 3), 2)).toBe(-61);
  expect(sys.getxattr(file, "user.absent", back)).toBe(-61);
  expect(sys.setxattr(file, "trusted.t", value.subarray(0, 3))).toBe(0);
  expect(sys.setxattr(file, "system.posix_acl_access", value.subarray(0, 28))).toBe(-95);
  const length = sys.listxattr(file, new Uint8Array(0));
  const list = new Uint8Array(length);
  expect(sys.listxattr(file, list)).toBe(length);
  expect(Buffer.from(list).toString("latin1").split("\0").filter(Boolean).sort()).toEqual(["trusted.t", "user.big", "user.empty"]);
  expect(sys.listxattr(file, new Uint8Array(3))).toBe(-34);
  expect(sys.removexattr(file, "user.big")).toBe(0);
  expect(sys.removexattr(file, "user.big")).toBe(-61);
});

test("fsync and fdatasync, flush and release arrive once each", async () => {
  await using mount = await Mounted.start();
  const fd = fs.openSync(mount.at("file"), "w");
  fs.writeSync(fd, "x");
  fs.fsyncSync(fd);
  fs.fdatasyncSync(fd);
  fs.closeSync(fd);
  expect(await mount.calls("fsync")).toBe(1);
  expect(await mount.calls("fdatasync")).toBe(1);
  expect(await mount.calls("flush")).toBe(1);
  expect(await mount.calls("release")).toBe(1);
});

test("the kernel does not ask for capabilities before each write, and says when set-id bits must go", async () => {
  await using mount = await Mounted.start();
  const fd = fs.openSync(mount.at("file"), "w", 0o777);
  for (let i = 0; i < 100; i++) fs.writeSync(fd, "x");
  fs.closeSync(fd);
  expect(await mount.calls("write")).toBe(100);
  expect(await mount.calls("getxattr")).toBeLessThan(5);
});

test("the filesystem is told when a write must clear set-id bits", async () => {
  await using mount = await Mounted.start({ allowOther: true });
  fs.writeFileSync(mount.at("file"), "x");
  fs.chmodSync(mount.at("file"), 0o4777);
  expect((await mount.ask({ do: "calls" })).killPriv).toBe(false);
  const command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", `echo y >> ${mount.at("file")}`];
  fs.chmodSync(mount.path, 0o755);
  expect(await Bun.spawn(command, { stdio: ["ignore", "ignore", "inherit"] }).exited).toBe(0);
  expect((await mount.ask({ do: "calls" })).killPriv).toBe(true);
});

test("uid, gid and read-only mounts", async () => {
  await using mount = await Mounted.start({ uid: 4321, gid: 8765, readOnly: true });
  const stat = fs.statSync(mount.path);
  expect([stat.uid, stat.gid]).toEqual([4321, 8765]);
  expect(failure(() => fs.writeFileSync(mount.at("file"), "x"))).toBe("EROFS");
});

test("statfs", async () => {
  await using mount = await Mounted.start();
  const stat = fs.statfsSync(mount.path);
  expect([stat.bsize, stat.blocks, stat.bfree, stat.files, stat.ffree]).toEqual([4096, 1e9, 5e8, 1e6, 9e5]);
});
