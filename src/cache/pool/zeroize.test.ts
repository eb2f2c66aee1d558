import { afterAll, afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  existsSync,
  linkSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { FailingDisk, smallDisk } from "../../../test/support/disk.ts";
import { cleanUp, runOk } from "../../../test/support/harness.ts";
import { MARKER } from "./test-pool-process.ts";
import { start } from "./test-pool-processes.ts";
import { zeroizeFiles } from "./zeroize.ts";

setDefaultTimeout(60_000);
const KIB = 1024;

let base = "";
beforeEach(() => {
  base = mkdtempSync("/tmp/kiseki-zeroize-");
});
afterEach(() => rmSync(base, { recursive: true, force: true }));
afterAll(cleanUp);

/** A second name, by which the file can be looked at after it was deleted. */
function secondName(path: string): string {
  const name = `${path}.witness`;
  linkSync(path, name);
  return name;
}

test.each([1, 100, 4_096, 65_540, 5 * 1_024 * KIB + 3])("all %d bytes are zeros when the file is gone", async (size) => {
  const path = join(base, "file");
  writeFileSync(path, Buffer.alloc(size, MARKER));
  const witness = secondName(path);
  let told = 0;
  const report = await zeroizeFiles([path, join(base, "never-there")], { onBytes: (bytes) => (told += bytes) });
  expect(report).toMatchObject({ files: 1, failed: 0, bytesLeft: 0 });
  expect(existsSync(path)).toBe(false);
  expect(readFileSync(witness).every((byte) => byte === 0)).toBe(true);
  expect(told).toBeGreaterThanOrEqual(size);
});

test("holes stay holes: a sparse file needs no more of the disk to be overwritten", async () => {
  const path = join(base, "file");
  const fd = openSync(path, "w");
  for (const at of [0, 640 * KIB, 2_048 * KIB, 3_000 * KIB]) writeSync(fd, Buffer.alloc(64 * KIB, MARKER), 0, 64 * KIB, at);
  closeSync(fd);
  const { blocks, size } = statSync(path);
  expect(blocks * 512).toBeLessThan(size);
  const witness = secondName(path);
  expect((await zeroizeFiles([path])).failed).toBe(0);
  expect(statSync(witness).blocks).toBe(blocks);
  expect(readFileSync(witness).every((byte) => byte === 0)).toBe(true);
});

test("many files at once, and one where direct writes are not possible", async () => {
  const shm = mkdtempSync("/dev/shm/kiseki-zeroize-");
  try {
    const paths = [join(shm, "memory"), ...Array.from({ length: 300 }, (_, i) => join(base, String(i)))];
    for (const path of paths) writeFileSync(path, MARKER.repeat(50));
    const witness = secondName(join(shm, "memory"));
    const report = await zeroizeFiles(paths);
    expect(report).toMatchObject({ files: 301, failed: 0 });
    expect(readFileSync(witness).every((byte) => byte === 0)).toBe(true);
  } finally {
    rmSync(shm, { recursive: true });
  }
});

test("a symbolic link is deleted, and what it names is left alone", async () => {
  const target = join(base, "target");
  writeFileSync(target, MARKER);
  symlinkSync(target, join(base, "link"));
  expect(await zeroizeFiles([join(base, "link")])).toMatchObject({ files: 1, failed: 0 });
  expect(readFileSync(target, "utf8")).toBe(MARKER);
});

test("what can't be overwritten and deleted is named", async () => {
  const disk = await smallDisk("32M");
  const path = join(disk, "file");
  writeFileSync(path, MARKER);
  await runOk("mount", ["-o", "remount,ro", disk]);
  const report = await zeroizeFiles([path]);
  expect(report).toMatchObject({ files: 0, failed: 1, bytesLeft: 4_096 });
  expect(report.faults).toEqual([{ path, reason: expect.stringContaining("read-only") }]);
});

test("where the disk refuses the zeros, the file is deleted all the same, and named", async () => {
  const disk = await FailingDisk.make("32M");
  const path = join(disk.path, "file");
  writeFileSync(path, Buffer.alloc(256 * KIB, MARKER));
  await runOk("sync", [path]);
  disk.fail("writes", await disk.rangesOf(path));
  const report = await zeroizeFiles([path]);
  expect(report).toMatchObject({ files: 1, failed: 1, bytesLeft: 0 });
  expect(report.faults).toEqual([{ path, reason: expect.stringMatching(/^not overwritten: EIO/) }]);
  expect(existsSync(path)).toBe(false);
});

test("each file of a pool that ends is overwritten, then synced, then unlinked", async () => {
  const trace = join(base, "trace");
  const process = start(
    ["hold", join(base, "cache")],
    ["strace", "-f", "-y", "-qq", "-o", trace, "-e", "trace=pwrite64,fdatasync,unlink,unlinkat"],
  );
  const id = await process.line();
  process.goOn();
  await process.end();
  // By name: the folders are opened once, and their files reached through them.
  const steps = new Map<string, string[]>();
  const paths = new Map<string, string>();
  for (const line of readFileSync(trace, "utf8").split("\n")) {
    const [, call, path = ""] = /(pwrite64|fdatasync|unlink)\w*\(.*?([^<"]*\/[^>"]*)[>"]/.exec(line) ?? [];
    if (call === undefined) continue;
    const name = basename(path);
    if (call !== "unlink" && /\/(?:chunks|files|staging)\//.test(path) && path.includes(id ?? "-")) paths.set(name, path);
    if (paths.has(name)) steps.set(name, [...(steps.get(name) ?? []), call]);
  }
  expect(steps.size).toBe(4);
  for (const calls of steps.values()) expect(calls.slice(-3)).toEqual(["pwrite64", "fdatasync", "unlink"]);
  expect([...paths.values()].every((path) => !existsSync(dirname(path)))).toBe(true);
});
