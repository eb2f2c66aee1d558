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
const PARALLEL_READERS = 4;
/** Insertion into the disk cache goes on behind the readers; this long is waited for it. */
const SETTLE_MAX_MS = 60_000;
/** What getRandomValues gives at a time. */
const RANDOM_BYTES_MAX = 65_536;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: "string", default: "1024" },
    files: { type: "string", default: "10000" },
    reps: { type: "string", default: "3" },
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

/** The median of several runs, each prepared. */
function repeated(prepare: () => void, body: () => number): number {
  return median(
    Array.from({ length: reps }, () => {
      prepare();
      return body();
    }),
  );
}

const sequentialRate = (path: string): number => {
  let bytes = 0;
  const seconds = timed(() => {
    bytes = readAll(path);
  });
  if (bytes !== bigBytes) throw new Error(`${path}: expected ${bigBytes} bytes, got ${bytes}`);
  return bytes / MIB / seconds;
};

/** 4 KiB reads a second at the same random places of the file, each place in a block of its own where there are enough. */
const randomRate = (path: string): number => {
  const fd = openSync(path, "r");
  const pages = bigBytes / SMALL_BYTES;
  let place = 12_345;
  const seconds = timed(() => {
    for (let i = 0; i < RANDOM_READS; i++) {
      place = (Math.imul(place, 1_103_515_245) + 12_345) >>> 0;
      readSync(fd, buffer, 0, SMALL_BYTES, (place % pages) * SMALL_BYTES);
    }
  });
  closeSync(fd);
  return RANDOM_READS / seconds;
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

const rows: string[] = [];
function row(what: string, unit: string, ours: number, beside: string, other: number, goal: string): void {
  const line = `| ${what} | ${unit} | ${Math.round(ours).toLocaleString("en")} | ${beside} ${Math.round(other).toLocaleString("en")} | ${((100 * ours) / other).toFixed(0)} % | ${goal} |`;
  rows.push(line);
  console.log(line);
}

function makeFiles(): void {
  for (const folder of [mountpoint, local]) mkdirSync(folder, { recursive: true });
  const big = openSync(join(local, "big"), "w");
  for (let done = 0; done < bigBytes; done += MIB) writeSync(big, randomMib());
  fsyncSync(big);
  closeSync(big);
  for (let i = 0; i < fileCount; i++) {
    const folder = join(local, "small", `d${Math.floor(i / FILES_PER_FOLDER)}`);
    if (i % FILES_PER_FOLDER === 0) mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `f${i}`), crypto.getRandomValues(new Uint8Array(SMALL_BYTES)));
  }
  mount("--cache-mode", "bypass");
  mkdirSync(join(mountpoint, "big"));
  copyFileSync(join(local, "big"), join(mountpoint, "big/big"));
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
  const stats = JSON.parse(kiseki("cache", "stats", mountpoint, "--json")) as { l2: { bytes: number } };
  return stats.l2.bytes;
}

async function diskHits(): Promise<void> {
  const disk = repeated(dropCaches, () => sequentialRate(join(local, "big")));
  mount("--cache-l1-max", "64M", "--meta-ttl-ms", "600000");
  const path = join(mountpoint, "big/big");
  const until = performance.now() + SETTLE_MAX_MS;
  // What was dropped because the queue was full comes with the next pass.
  for (let stored = 0; stored < bigBytes && performance.now() < until; stored = l2Bytes()) {
    dropCaches();
    readAll(path);
    await Bun.sleep(500);
  }
  row(
    "disk cache hit, one stream, cold",
    "MiB/s",
    repeated(dropCaches, () => sequentialRate(path)),
    "local file",
    disk,
    "1,126 or 70 %",
  );
  const localRandom = repeated(dropCaches, () => randomRate(join(local, "big")));
  row(
    "disk cache hit, random 4 KiB, cold",
    "reads/s",
    repeated(dropCaches, () => randomRate(path)),
    "local file",
    localRandom,
    "",
  );
  umount();
}

/** A pass over everything by several programs at once: what staging is compared with. */
function parallelRead(): number {
  const list = [join(mountpoint, "big/big"), ...smallFiles(join(mountpoint, "small"))];
  const command = `xargs -0 -P ${PARALLEL_READERS} -n 200 cat > /dev/null`;
  return timed(() => {
    const { status } = spawnSync("sh", ["-c", command], { input: list.join("\0") });
    if (status !== 0) throw new Error("cat failed");
  });
}

const LOCAL_GOAL = "95 %";

function staged(): void {
  const totalMib = (bigBytes + fileCount * SMALL_BYTES) / MIB;
  const plain = repeated(
    () => {},
    () => {
      mount("--cache-mode", "bypass");
      dropCaches();
      const seconds = timed(() => {
        parallelRead();
      });
      umount();
      return totalMib / seconds;
    },
  );
  let pool = "";
  const stage = repeated(
    () => {
      if (pool !== "") kiseki("stage", "--release-all", "--pool", pool, "--cache-dir", cacheDir);
      dropCaches();
    },
    () => {
      const seconds = timed(() => {
        pool = kiseki("stage", "--dataset", "/", "--daemon", ...connection).trim();
      });
      return totalMib / seconds;
    },
  );
  row(`staging ${fileCount.toLocaleString("en")} small files and a large one`, "MiB/s", stage, `${PARALLEL_READERS} x cat`, plain, "80 %");
  mount("-o", `pool_id=${pool}`);
  const ours = join(mountpoint, "big/big");
  const theirs = join(local, "big");
  const both = (what: string, unit: string, measure: (path: string) => number, cold: boolean): void => {
    const prepare = (path: string) => () => {
      if (cold) dropCaches();
      else readAll(path);
    };
    row(
      what,
      unit,
      repeated(prepare(ours), () => measure(ours)),
      "local file",
      repeated(prepare(theirs), () => measure(theirs)),
      LOCAL_GOAL,
    );
  };
  both("staged file, one stream, cold", "MiB/s", sequentialRate, true);
  both("staged file, one stream, warm", "MiB/s", sequentialRate, false);
  both("staged file, random 4 KiB, cold", "reads/s", randomRate, true);
  both("staged file, random 4 KiB, warm", "reads/s", randomRate, false);
  const mine = smallFiles(join(mountpoint, "small"));
  const others = smallFiles(join(local, "small"));
  row(
    "small staged files, open+read+close, cold",
    "files/s",
    repeated(dropCaches, () => smallRate(mine)),
    "local files",
    repeated(dropCaches, () => smallRate(others)),
    "60 %",
  );
  umount();
}

function misses(): void {
  const missRate = (mode: string, measure: (path: string) => number): number =>
    repeated(
      () => {
        mount("--cache-mode", mode);
        readdirSync(join(mountpoint, "big"));
        dropCaches();
      },
      () => {
        const rate = measure(join(mountpoint, "big/big"));
        umount();
        return rate;
      },
    );
  row("miss, random 4 KiB", "reads/s", missRate("organic", randomRate), "bypass", missRate("bypass", randomRate), "90 %");
  row("miss, one stream", "MiB/s", missRate("organic", sequentialRate), "bypass", missRate("bypass", sequentialRate), "90 %");
}

try {
  makeFiles();
  console.log("| what | unit | kiseki | beside | ratio | goal |\n|---|---|---:|---|---:|---|");
  await diskHits();
  misses();
  staged();
} finally {
  spawnSync(KISEKI, ["umount", mountpoint]);
  for (const folder of [local, cacheDir]) rmSync(folder, { recursive: true, force: true });
}
