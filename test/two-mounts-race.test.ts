/**
 * Two mounts of one namespace, worked on at once by four processes: what close() and fsync() promise to the other mount whatever it had
 * cached, how old a name may be, and that races leave one order, nothing lost, no loops and exact link counts. KISEKI_TEST_SOAK_S lengthens
 * the soak, KISEKI_TEST_SEED repeats it.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Driver } from "./random/driver.ts";
import { Chance, howToRepeat, SEED, SOAK_S } from "./random/settings.ts";
import { cleanUp, TestMount, TestNode } from "./support/harness.ts";

const TIMEOUT_MS = 120_000;
const META_TTL_MS = 1_000;
/** The machine may be busy. */
const SLACK_MS = 1_500;
const L1_MIB = 64;
/** What a client may take beside its L1. */
const BESIDE_L1_MIB = 200;
const KIB = 1024;
/** Around a page, the inline limit, a block, a chunk. */
const SIZES = [1, 100, 4 * KIB, 32 * KIB, 32 * KIB + 1, 64 * KIB, 300 * KIB, 4 * 1024 * KIB + 5];
/** Two on each mount. */
const RACERS = 4;

let mounts: [TestMount, TestMount];
let racers: Driver[];
let node: TestNode;
let folders = 0;
const chance = new Chance(SEED);

beforeAll(async () => {
  console.log(howToRepeat("two-mounts-race"));
  node = await TestNode.start();
  const options = { args: ["--meta-ttl-ms", String(META_TTL_MS), "--cache-l1-max", `${L1_MIB}M`] };
  mounts = [await TestMount.mount(node, options), await TestMount.mount(node, options)];
  racers = Array.from({ length: RACERS }, () => new Driver("racer.py"));
}, TIMEOUT_MS);
afterAll(cleanUp);

/** The racers with even numbers work on the first mount, the others on the second. */
function pathFor(racer: number, path: string): string {
  return join((mounts[racer % 2] as TestMount).path, path);
}

function ask<T>(racer: number, what: string, args: readonly unknown[]): Promise<T> {
  return (racers[racer] as Driver).call<T>(what, args);
}

/** Does the same on all racers at once. */
function race<T>(what: string, argsOf: (racer: number) => readonly unknown[]): Promise<T[]> {
  return Promise.all(racers.map((_, racer) => ask<T>(racer, what, argsOf(racer))));
}

async function newFolder(purpose: string): Promise<string> {
  const name = `${purpose}-${++folders}`;
  expect(await ask(0, "call", ["mkdir", pathFor(0, name)])).toEqual(["ok", null]);
  expect(await ask(1, "wait_for", [pathFor(1, name), true, 10])).not.toBeNull();
  return name;
}

interface Tree {
  entries: Record<string, unknown[]>;
  wrong: string[];
}

/** Both mounts show the same tree, and its link counts are right. */
async function expectSameTree(folder: string): Promise<Tree> {
  await Bun.sleep(META_TTL_MS + 100);
  const [first, second] = await Promise.all([ask<Tree>(0, "tree", [pathFor(0, folder)]), ask<Tree>(1, "tree", [pathFor(1, folder)])]);
  expect(first.wrong).toEqual([]);
  expect(second.wrong).toEqual([]);
  expect(second.entries).toEqual(first.entries);
  return first;
}

const sum = (counts: readonly number[]): number => counts.reduce((all, one) => all + one, 0);

test(
  "an open() on one mount sees what close() or fsync() on the other wrote, whatever it had cached",
  async () => {
    const folder = await newFolder("close-to-open");
    for (let round = 0; round < 60; round++) {
      const path = join(folder, chance.pick(["f", "g"]));
      const [writer, reader] = round % 2 === 0 ? [0, 1] : [1, 0];
      const size = chance.pick(SIZES);
      const text = `round ${round}.`;
      await ask(writer, "write", [pathFor(writer, path), text, chance.pick(["close", "fsync"]), size]);
      const wrong = await ask<string | null>(reader, "expect", [pathFor(reader, path), text, size]);
      expect({ round, size, wrong }).toEqual({ round, size, wrong: null });
      if (chance.below(2) === 0) await ask(reader, "hold", [pathFor(reader, path)]);
      if (chance.below(3) === 0) await ask(chance.below(2), "release", []);
    }
    await race("release", () => []);
  },
  TIMEOUT_MS,
);

test(
  "names are at most meta_ttl_ms old",
  async () => {
    const folder = await newFolder("ttl");
    const there = (name: string) => join(pathFor(1, folder), name);
    const here = (name: string) => join(pathFor(0, folder), name);
    const soon = (seconds: number | null) => expect(seconds ?? Number.POSITIVE_INFINITY).toBeLessThan((META_TTL_MS + SLACK_MS) / 1000);
    for (let round = 0; round < 3; round++) {
      // The other mount has the absence of the name, then its presence, in its caches.
      expect(await ask(1, "call", ["stat", there("a")])).toEqual(["ENOENT"]);
      await ask(0, "write", [here("a"), "x", "close", 1]);
      soon(await ask(1, "wait_for", [there("a"), true, 10]));
      expect(await ask(0, "call", ["rename", here("a"), here("b")])).toEqual(["ok", null]);
      soon(await ask(1, "wait_for", [there("a"), false, 10]));
      soon(await ask(1, "wait_for", [there("b"), true, 10]));
      expect(await ask(0, "call", ["unlink", here("b")])).toEqual(["ok", null]);
      soon(await ask(1, "wait_for", [there("b"), false, 10]));
    }
  },
  TIMEOUT_MS,
);

async function raceAppenders(count: number): Promise<void> {
  const path = join(await newFolder("append"), "log");
  const counts = await race<number>("append", (racer) => [pathFor(racer, path), `w${racer}`, count, SEED + racer + folders]);
  const expected = Object.fromEntries(counts.map((acknowledged, racer) => [`w${racer}`, acknowledged]));
  for (const racer of [0, 1]) expect(await ask<string | null>(racer, "check_appended", [pathFor(racer, path), expected])).toBeNull();
}

test(
  "O_APPEND writers on both mounts lose nothing, and each record stays whole",
  async () => {
    for (let round = 0; round < 3; round++) await raceAppenders(100);
  },
  TIMEOUT_MS,
);

async function raceWriters(blocks: number, length: number): Promise<void> {
  const path = join(await newFolder("blocks"), "file");
  await race("write_blocks", (racer) => [pathFor(racer, path), `w${racer}`, racer, RACERS, blocks, length, SEED + racer + folders]);
  const whos = racers.map((_, racer) => `w${racer}`);
  for (const racer of [0, 1]) expect(await ask<unknown[]>(racer, "check_blocks", [pathFor(racer, path), whos, blocks, length])).toEqual([]);
}

test(
  "writers of one file on both mounts keep each other's bytes",
  async () => {
    for (const length of [100, 1000, 4096, 70_000]) await raceWriters(400, length);
  },
  TIMEOUT_MS,
);

async function raceCreators(names: number): Promise<void> {
  const folder = await newFolder("excl");
  const all = ["file", "folder", "symlink", "link"].flatMap((kind) => Array.from({ length: names }, (_, i) => `${kind}-${i}`));
  const won = await race<string[]>("claim", (racer) => [pathFor(racer, folder), `w${racer}`, all, SEED + racer]);
  expect(won.flat().sort()).toEqual([...all].sort());
  await expectSameTree(folder);
}

test(
  "each name is made by exactly one of those who race for it",
  async () => {
    await raceCreators(40);
  },
  TIMEOUT_MS,
);

async function raceFolders(count: number): Promise<void> {
  const folder = await newFolder("folders");
  const names = Array.from({ length: 8 }, (_, i) => `d${i}`);
  for (const name of names) expect(await ask(0, "call", ["mkdir", join(pathFor(0, folder), name)])).toEqual(["ok", null]);
  const done = await race<number>("move_folders", (racer) => [pathFor(racer, folder), count, SEED + racer + folders]);
  expect(sum(done)).toBeGreaterThan(0);
  const { entries } = await expectSameTree(folder);
  // A folder that came to lie in itself would be reachable no more.
  const found = Object.keys(entries).map((path) => path.split("/").at(-1));
  expect(found.sort()).toEqual(names);
}

test(
  "folders that are renamed into each other stay one tree",
  async () => {
    await raceFolders(120);
  },
  TIMEOUT_MS,
);

async function raceChurn(count: number): Promise<void> {
  const folder = await newFolder("churn");
  const done = await race<number>("churn", (racer) => [pathFor(racer, folder), count, SEED + racer + folders]);
  expect(sum(done)).toBeGreaterThan(0);
  await expectSameTree(folder);
}

test(
  "creating, linking, renaming and removing in one folder leaves one state with exact link counts",
  async () => {
    for (let round = 0; round < 2; round++) await raceChurn(200);
  },
  TIMEOUT_MS,
);

/** Resident memory in MiB. */
function residentMib(pid: number): number {
  const [, kib] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib) / 1024;
}

test(
  `soak: all of that for ${SOAK_S} s, in bounded memory`,
  async () => {
    const end = performance.now() + SOAK_S * 1000;
    const races = [
      () => raceAppenders(60),
      () => raceWriters(120, 9_000),
      () => raceCreators(15),
      () => raceFolders(60),
      () => raceChurn(120),
    ];
    let rounds = 0;
    while (performance.now() < end) {
      await chance.pick(races)();
      rounds++;
    }
    const resident = mounts.map(({ pid }) => Math.round(residentMib(pid)));
    console.log(`${rounds} rounds; clients ${resident.join(" and ")} MiB, node ${residentMib(node.pid).toFixed(0)} MiB`);
    for (const mib of resident) expect(mib).toBeLessThan(L1_MIB + BESIDE_L1_MIB);
  },
  SOAK_S * 1000 + 60_000,
);
