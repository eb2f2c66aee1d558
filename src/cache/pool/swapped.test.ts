/** Somebody puts other folders in the place of a cache's, or links into it: what is cleared is the cache, and nothing else. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { CacheFolder } from "./cache-folder.ts";
import { Pool } from "./pool.ts";
import { scrub } from "./scrub.ts";

const OWNER = { tenant: "t", cluster: "c", mode: "organic", kind: "mount", mountpoint: null } as const;
const LIMITS = { maxBytes: 1 << 30, nodeLimitBytes: () => 1 << 30 };
const CHUNK = `chunks/ab/${"ab".repeat(32)}`;
const AT = [CHUNK, "files/1-1", "staging/x.manifest"];

let base = "";
let parent = "";
beforeEach(() => {
  base = mkdtempSync("/tmp/kiseki-swapped-");
  parent = join(base, "parent");
  mkdirSync(parent);
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

function fill(poolPath: string, content: string): void {
  for (const name of AT) {
    mkdirSync(dirname(join(poolPath, name)), { recursive: true });
    writeFileSync(join(poolPath, name), content);
  }
}

/** Another folder with the same names where the cache was. Returns the cache's new place, and the pool's in both. */
function swap({ id }: Pool): { moved: string; victim: string } {
  const moved = join(base, "moved");
  renameSync(parent, moved);
  const victim = join(parent, "cache", OWNER.tenant, id);
  mkdirSync(victim, { recursive: true, mode: 0o700 });
  fill(victim, "victim");
  writeFileSync(join(victim, "pool.lock"), "");
  return { moved: join(moved, "cache", OWNER.tenant, id), victim };
}

function expectUntouched(victim: string): void {
  for (const name of AT) expect(readFileSync(join(victim, name), "utf8")).toBe("victim");
}

test("a pool whose parents were swapped is wiped where it is, emptied or at its end", async () => {
  const pool = await Pool.create(CacheFolder.open(join(parent, "cache")), OWNER, LIMITS);
  fill(pool.path, "secret");
  const { moved, victim } = swap(pool);
  expect(await pool.wipeContents()).toMatchObject({ files: 3, failed: 0 });
  for (const name of AT) expect(existsSync(join(moved, name))).toBe(false);
  fill(moved, "secret");
  expect(await pool.close({ wipe: true })).toMatchObject({ files: 3, failed: 0 });
  expect(existsSync(moved)).toBe(false);
  expectUntouched(victim);
});

test("so are dead pools, and those that were never finished", async () => {
  const folder = CacheFolder.open(join(parent, "cache"));
  const pool = await Pool.create(folder, OWNER, LIMITS);
  fill(pool.path, "secret");
  await pool.close({ wipe: false });
  const unfinished = `.new-${"cd".repeat(16)}`;
  mkdirSync(join(dirname(pool.path), unfinished));
  const { moved, victim } = swap(pool);
  const spared = join(dirname(victim), unfinished);
  mkdirSync(spared);
  // What a scrub looks through is the folder that it has opened, too.
  const again = await scrub(folder);
  expect(again.map(({ id, state, files }) => ({ id, state, files }))).toEqual([{ id: pool.id, state: "wiped", files: 3 }]);
  expect(existsSync(dirname(moved))).toBe(false);
  expect(existsSync(spared)).toBe(true);
  expectUntouched(victim);
});

test("links are removed, never followed", async () => {
  const folder = CacheFolder.open(join(parent, "cache"));
  const pool = await Pool.create(folder, OWNER, LIMITS);
  const victim = join(base, "victim");
  fill(victim, "victim");
  rmSync(join(pool.path, "chunks"), { recursive: true });
  symlinkSync(join(victim, "chunks"), join(pool.path, "chunks"));
  symlinkSync(join(victim, "files"), join(pool.path, "files", "linked"));
  symlinkSync(join(victim, AT[1] as string), join(pool.path, "files", "1-2"));
  await pool.close({ wipe: true });
  await scrub(folder);
  expect(existsSync(pool.path)).toBe(false);
  expectUntouched(victim);
});

test("a cache_dir is refused where another user or group could put another folder in its place", () => {
  chmodSync(parent, 0o775);
  expect(() => CacheFolder.open(join(parent, "cache"))).toThrow(`others can replace it: ${parent} is writable for others and not sticky`);
  chmodSync(parent, 0o1777);
  expect(CacheFolder.open(join(parent, "cache")).path).toBe(join(parent, "cache"));
  if (process.geteuid?.() !== 0) return;
  chmodSync(parent, 0o755);
  chownSync(parent, 12345, 0);
  expect(() => CacheFolder.open(join(parent, "cache"))).toThrow(`others can replace it: ${parent} belongs to user 12345`);
  chownSync(parent, 0, 0);
  chownSync(join(parent, "cache"), 12345, 0);
  expect(() => CacheFolder.open(join(parent, "cache"))).toThrow(
    "belongs to user 12345, not to user 0; use a folder of your own with mode 0700 (-o cache_dir=DIR)",
  );
});
