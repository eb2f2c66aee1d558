import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { CacheFolder } from "./cache-folder.ts";
import { Pool, type PoolOwner } from "./pool.ts";
import { scrub } from "./scrub.ts";

const MIB = 2 ** 20;
const owner: PoolOwner = { tenant: "acme", cluster: "test", mode: "organic", kind: "mount", mountpoint: "/mnt/data" };
const limits = { maxBytes: 256 * MIB };

let base = "";
beforeEach(() => {
  base = mkdtempSync("/tmp/kiseki-pool-");
});
afterEach(() => rmSync(base, { recursive: true, force: true }));
const cacheDir = () => join(base, "cache");

test("a pool is private, and nothing of it is left after close", async () => {
  const folder = CacheFolder.open(cacheDir());
  const pool = await Pool.create(folder, owner, limits);
  expect(pool.id).toMatch(/^[0-9a-f]{32}$/);
  expect(pool.path).toBe(join(folder.path, "acme", pool.id));
  for (const path of [folder.path, pool.path, join(pool.path, "chunks"), pool.filesPath]) expect(statSync(path).mode & 0o777).toBe(0o700);
  writeFileSync(pool.chunkPath("ab".repeat(32)), "plain text");
  writeFileSync(join(pool.filesPath, "1-1"), "plain text");
  const report = await pool.close({ wipe: true });
  expect(report).toMatchObject({ files: 2, failed: 0, faults: [] });
  expect(existsSync(pool.path)).toBe(false);
  expect(readdirSync(folder.path)).toEqual(["node.lock"]);
});

test("wiping the contents leaves the pool in use", async () => {
  const folder = CacheFolder.open(cacheDir());
  const pool = await Pool.create(folder, owner, limits);
  expect(pool.space.reserve(4096)).toBe(true);
  writeFileSync(pool.chunkPath("ab".repeat(32)), "plain text");
  pool.space.settle(4096);
  await pool.wipeContents();
  expect(pool.space.usedBytes).toBe(0);
  writeFileSync(pool.chunkPath("ab".repeat(32)), "again");
  await expect(Pool.adopt(folder, pool.id, owner, limits)).rejects.toMatchObject({ code: "in_use" });
  await pool.close({ wipe: true });
});

test("an image that a program still reads is left to it, and scrubbed once it is closed", async () => {
  const folder = CacheFolder.open(cacheDir());
  const pool = await Pool.create(folder, owner, limits);
  writeFileSync(join(pool.filesPath, "1-1"), "plain text");
  writeFileSync(join(pool.filesPath, "2-1"), "plain text");
  const reader = openSync(join(pool.filesPath, "1-1"), "r");
  const report = await pool.close({ wipe: true });
  expect(report).toMatchObject({ failed: 1, bytesLeft: 4096, faults: [{ path: join(pool.filesPath, "1-1") }] });
  expect(readFileSync(reader, "utf8")).toBe("plain text");
  expect(await scrub(folder)).toMatchObject([{ id: pool.id, state: "failed" }]);
  expect(readdirSync(pool.filesPath)).toEqual(["1-1"]);
  closeSync(reader);
  expect(await scrub(folder)).toMatchObject([{ id: pool.id, state: "wiped" }]);
  expect(existsSync(pool.path)).toBe(false);
});

test("a dead pool is adopted by its tenant only", async () => {
  const folder = CacheFolder.open(cacheDir());
  const dead = await Pool.create(folder, owner, limits);
  await dead.close({ wipe: false });
  await expect(Pool.adopt(folder, "0".repeat(32), owner, limits)).rejects.toMatchObject({ code: "not_found" });
  await expect(Pool.adopt(folder, dead.id, { ...owner, tenant: "other" }, limits)).rejects.toMatchObject({ code: "not_yours" });
  await expect(Pool.adopt(folder, dead.id, { ...owner, cluster: "other" }, limits)).rejects.toMatchObject({ code: "not_yours" });
  const adopted = await Pool.adopt(folder, dead.id, owner, limits);
  await adopted.close({ wipe: true });
  expect(existsSync(adopted.path)).toBe(false);
});

test("a cache folder that is not the user's alone is refused with a reason", () => {
  const path = CacheFolder.open(cacheDir()).path;
  chmodSync(path, 0o770);
  expect(() => CacheFolder.open(path)).toThrow("others can write into it (mode 0770)");
  chmodSync(path, 0o700);
  symlinkSync(path, join(base, "link"));
  expect(() => CacheFolder.open(join(base, "link"))).toThrow("is a symbolic link");
  writeFileSync(join(base, "file"), "");
  expect(() => CacheFolder.open(join(base, "file"))).toThrow("is not a folder");
  expect(() => CacheFolder.open("/proc/1/cache")).toThrow(/^cache_dir \/proc\/1\/cache: /);
  chmodSync(base, 0o777);
  expect(() => CacheFolder.open(path)).toThrow(`${base} is writable for others and not sticky`);
  chmodSync(base, 0o1777);
  CacheFolder.open(path);
});
