/**
 * The speed of the client's cache, on a mount from dist/kiseki beside the local filesystem: hits of the disk cache, staged files
 * through FUSE passthrough, small staged files, what a miss costs, how fast staging is. `scripts/bench` runs it; needs root.
 *
 *     bun scripts/bench-tiers.ts WORK ADDRESS CREDENTIALS [--size MIB] [--files N] [--reps N]
 *
 * WORK is a folder on the disk that is measured. "Cold": the page cache was dropped, so that every byte comes from the disk.
 */
import { spawnSync } from "node:child_process";
import { closeSync, copyFileSync, fsyncSync, mkdirSync, openSync, readdirSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const MIB = 2 ** 20;
const KISEKI = join(import.meta.dir, "../dist/kiseki");
const SMALL_BYTES = 4096;
const FILES_PER_FOLDER = 500;
const RANDOM_READS = 4_000;
/** What comes from memory takes microseconds: as many times as much of it is read. */
const WARM_RANDOM_READS = 400_000;
const WARM_PASSES = 8;
/** A miss is to cost a few percent, which is what two runs differ by: as many times as many runs. */
const MISS_RUNS = 3;
const PARALLEL_READERS = 4;
/** Insertion into the disk cache goes on behind the readers; this long is waited for it. */
const SETTLE_MAX_MS = 60_000;
/** More than the memory cache of a mount holds without options. */
const FILL_BYTES = 320 * MIB;
const SETTLE_POLL_MS = 100;
/** What getRandomValues gives at a time. */
const RANDOM_BYTES_MAX = 65_536;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: "string", default: "1024" },
    files: { type: "string", default: "10000" },
    reps: { type: "string", default: "5" },
  },
});
const [work, address, credentials] = positionals;
if (work === undefined || address === undefined || credentials === undefined)
  throw new Error("usage: bench-tiers.ts WORK ADDRESS CREDENTIALS");
const bigBytes = Number(values.size) * MIB;
const fileCount = Number(values.files);
const reps = Number(values.reps);
const mountpoint = join(work, "cache-mnt");
const cacheDir = join(work, "cache");
const local = join(work, "cache-local");
/** The same large file on the mount and beside it. */
const ours = join(mountpoint, "big/big");
const theirs = join(local, "big");
/** Another one on the mount. */
const other = join(mountpoint, "fill/fill");
const connection = ["--data-addr", address, "--tenant", "bench", "--credentials", credentials, "--cache-dir", cacheDir];

function kiseki(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(KISEKI, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`kiseki ${args.join(" ")}: exit status ${status}: ${stderr}`);
  return stdout;
}

function mount(...options: string[]): void {
  kiseki("mount", mountpoint, ...connection, "--log-file", join(work as string, "cache-mount.log"), ...options);
}

function umount(): void {
  kiseki("umount", mountpoint);
}

function dropCaches(): void {
  spawnSync("sync");
  writeFileSync("/proc/sys/vm/drop_caches", "3");
}

const buffer = Buffer.alloc(MIB);

function readAll(path: string): number {
  const fd = openSync(path, "r");
  let total = 0;
  for (let got = readSync(fd, buffer); got > 0; got = readSync(fd, buffer)) total += got;
  closeSync(fd);
  return total;
}

/** Seconds that it takes. */
function timed(body: () => void): number {
  const from = performance.now();
  body();
  return (performance.now() - from) / 1_000;
}

function median(figures: readonly number[]): number {
  return figures.toSorted((a, b) => a - b)[Math.floor(figures.length / 2)] as number;
}

/** One of two things that are compared: what is done before each run, and the run, which returns its figure. */
interface Side {
  readonly prepare: () => void;
  readonly run: () => number;
}

/** Measures both sides in turn, as such machines drift within minutes, and prints their medians. */
function compare(what: string, unit: string, ours: Side, beside: string, theirs: Side, goal: string, runs: number = reps): void {
  const figures: { ours: number[]; theirs: number[] } = { ours: [], theirs: [] };
  for (let i = 0; i < runs; i++) {
    ours.prepare();
    figures.ours.push(ours.run());
    theirs.prepare();
    figures.theirs.push(theirs.run());
  }
  const [mine, other] = [median(figures.ours), median(figures.theirs)];
  const cells = [what, unit, round(mine), `${beside} ${round(other)}`, `${((100 * mine) / other).toFixed(0)} %`, goal];
  console.log(`| ${cells.join(" | ")} |`);
}

function round(figure: number): string {
  return Math.round(figure).toLocaleString("en");
}

/** A figure of one path with the page cache dropped, or with the path in it. */
function cold(run: () => number): Side {
  return { prepare: dropCaches, run };
}

function warm(path: string, run: () => number): Side {
  return { prepare: () => void readAll(path), run };
}

const sequentialRate = (path: string, passes = 1): number => {
  let bytes = 0;
  const seconds = timed(() => {
    for (let i = 0; i < passes; i++) bytes += readAll(path);
  });
  if (bytes !== bigBytes * passes) throw new Error(`${path}: expected ${passes} times ${bigBytes} bytes, got ${bytes}`);
  return bytes / MIB / seconds;
};

/** 4 KiB reads a second at the same random places of the file, each place in a block of its own where there are enough. */
const randomRate = (path: string, reads = RANDOM_READS): number => {
  const fd = openSync(path, "r");
  const pages = bigBytes / SMALL_BYTES;
  let place = 12_345;
  const seconds = timed(() => {
    for (let i = 0; i < reads; i++) {
      place = (Math.imul(place, 1_103_515_245) + 12_345) >>> 0;
      readSync(fd, buffer, 0, SMALL_BYTES, (place % pages) * SMALL_BYTES);
    }
  });
  closeSync(fd);
  return reads / seconds;
};

function smallFiles(root: string): string[] {
  return readdirSync(root)
    .toSorted()
    .flatMap((folder) =>
      readdirSync(join(root, folder))
        .toSorted()
        .map((name) => join(root, folder, name)),
    );
}

const smallRate = (paths: readonly string[]): number => {
  const seconds = timed(() => {
    for (const path of paths) {
      const fd = openSync(path, "r");
      if (readSync(fd, buffer, 0, MIB, null) !== SMALL_BYTES) throw new Error(`${path}: short`);
      closeSync(fd);
    }
  });
  return paths.length / seconds;
};

function makeFiles(): void {
  for (const folder of [mountpoint, local]) mkdirSync(folder, { recursive: true });
  const big = openSync(theirs, "w");
  for (let done = 0; done < bigBytes; done += MIB) writeSync(big, randomMib());
  fsyncSync(big);
  closeSync(big);
  for (let i = 0; i < fileCount; i++) {
    const folder = join(local, "small", `d${Math.floor(i / FILES_PER_FOLDER)}`);
    if (i % FILES_PER_FOLDER === 0) mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `f${i}`), crypto.getRandomValues(new Uint8Array(SMALL_BYTES)));
  }
  mount("--cache-mode", "bypass");
  for (const folder of ["big", "fill"]) mkdirSync(join(mountpoint, folder));
  copyFileSync(theirs, ours);
  const fill = openSync(other, "w");
  for (let done = 0; done < FILL_BYTES; done += MIB) writeSync(fill, randomMib());
  closeSync(fill);
  const copied = spawnSync("cp", ["-r", join(local, "small"), mountpoint]);
  if (copied.status !== 0) throw new Error(`cp: ${copied.stderr}`);
  umount();
}

/** No two pages are alike, so that nothing is stored once for several. */
function randomMib(): Buffer {
  for (let at = 0; at < MIB; at += RANDOM_BYTES_MAX) crypto.getRandomValues(buffer.subarray(at, at + RANDOM_BYTES_MAX));
  return buffer;
}

function l2Bytes(): number {
  const stats = JSON.parse(kiseki("cache", "stats", mountpoint, "--json")) as { l2: { bytes: number } | null };
  return stats.l2?.bytes ?? 0;
}

async function diskHits(): Promise<void> {
  mount("--cache-l1-max", "64M", "--meta-ttl-ms", "600000");
  const until = performance.now() + SETTLE_MAX_MS;
  // What was dropped because the queue was full comes with the next pass.
  for (let stored = 0; stored < bigBytes && performance.now() < until; stored = l2Bytes()) {
    dropCaches();
    readAll(ours);
    await Bun.sleep(500);
  }
  const pair = (what: string, unit: string, measure: (path: string) => number, goal: string): void =>
    compare(
      what,
      unit,
      cold(() => measure(ours)),
      "local file",
      cold(() => measure(theirs)),
      goal,
    );
  pair("disk cache hit, one stream, cold", "MiB/s", sequentialRate, "1,126 or 70 %");
  pair("disk cache hit, random 4 KiB, cold", "reads/s", randomRate, "");
  umount();
}

/**
 * A mount that has been in use: its memory cache is full, and the disk cache has what goes there. The first time that it is used, memory
 * comes from the hypervisor: 25 to 500 ms for 256 MiB on this kind of machine, more than what is measured here.
 */
function fillMemory(): void {
  readAll(other);
  const until = performance.now() + SETTLE_MAX_MS;
  for (let before = -1, now = l2Bytes(); now !== before && performance.now() < until; now = l2Bytes()) {
    before = now;
    Bun.sleepSync(SETTLE_POLL_MS);
  }
}

function misses(): void {
  const miss = (mode: string, measure: (path: string) => number): Side => ({
    prepare: () => {
      mount("--cache-mode", mode);
      readdirSync(join(mountpoint, "big"));
      fillMemory();
      dropCaches();
    },
    run: () => {
      const rate = measure(ours);
      umount();
      return rate;
    },
  });
  const pair = (what: string, unit: string, measure: (path: string) => number): void =>
    compare(what, unit, miss("organic", measure), "bypass", miss("bypass", measure), "90 %", MISS_RUNS * reps);
  pair("miss, random 4 KiB", "reads/s", randomRate);
  pair("miss, one stream", "MiB/s", sequentialRate);
  mount("--cache-mode", "bypass");
  rmSync(other);
  umount();
}

/** Everything read by several programs at once: what staging is compared with. */
function readInParallel(): void {
  const list = [ours, ...smallFiles(join(mountpoint, "small"))];
  const command = `xargs -0 -P ${PARALLEL_READERS} -n 200 cat > /dev/null`;
  const { status } = spawnSync("sh", ["-c", command], { input: list.join("\0") });
  if (status !== 0) throw new Error("cat failed");
}

/** Returns the id of a pool that has everything. */
function staging(): string {
  const totalMib = (bigBytes + fileCount * SMALL_BYTES) / MIB;
  let pool = "";
  const stage: Side = {
    prepare: () => {
      if (pool !== "") kiseki("stage", "--release-all", "--pool", pool, "--cache-dir", cacheDir);
      dropCaches();
    },
    run: () => {
      const seconds = timed(() => {
        pool = kiseki("stage", "--dataset", "/", "--daemon", ...connection).trim();
      });
      return totalMib / seconds;
    },
  };
  const read: Side = {
    prepare: () => {
      mount("--cache-mode", "bypass");
      dropCaches();
    },
    run: () => {
      const seconds = timed(readInParallel);
      umount();
      return totalMib / seconds;
    },
  };
  compare(
    `staging ${fileCount.toLocaleString("en")} small files and a large one`,
    "MiB/s",
    stage,
    `${PARALLEL_READERS} x cat`,
    read,
    "80 %",
  );
  return pool;
}

function staged(pool: string): void {
  mount("-o", `pool_id=${pool}`);
  type Measure = (path: string, times?: number) => number;
  const pair = (what: string, unit: string, measure: Measure, warmTimes: number): void => {
    const side = (path: string): Side => cold(() => measure(path));
    const warmSide = (path: string): Side => warm(path, () => measure(path, warmTimes));
    compare(`${what}, cold`, unit, side(ours), "local file", side(theirs), "95 %");
    compare(`${what}, warm`, unit, warmSide(ours), "local file", warmSide(theirs), "95 %");
  };
  pair("staged file, one stream", "MiB/s", sequentialRate, WARM_PASSES);
  pair("staged file, random 4 KiB", "reads/s", randomRate, WARM_RANDOM_READS);
  const [mine, others] = [smallFiles(join(mountpoint, "small")), smallFiles(join(local, "small"))];
  const what = "small staged files, open+read+close, cold";
  compare(
    what,
    "files/s",
    cold(() => smallRate(mine)),
    "local files",
    cold(() => smallRate(others)),
    "60 %",
  );
  umount();
}

try {
  makeFiles();
  console.log("| what | unit | kiseki | beside | ratio | goal |\n|---|---|---:|---|---:|---|");
  await diskHits();
  misses();
  staged(staging());
} finally {
  spawnSync(KISEKI, ["umount", mountpoint]);
  for (const folder of [local, cacheDir]) rmSync(folder, { recursive: true, force: true });
}
