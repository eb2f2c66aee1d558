/**
 * The cache's bookkeeping, without any I/O:
 *
 *     bun scripts/bench-cache.ts index [chunks ...]       memory and time of ChunkIndex and Eviction (default 10000 1000000 10000000)
 *     bun scripts/bench-cache.ts eviction [capacity]      hit ratios of Eviction beside other policies, caches of so many chunks (default 2000)
 */

import { Eviction } from "../src/cache/eviction/eviction.ts";
import { best, lru, type Policy, rounds, traces } from "../src/cache/eviction/test-eviction.ts";
import { ChunkIndex } from "../src/cache/index/chunk-index.ts";
import { BLOCK_BYTES, CHUNK_ID_BYTES, CHUNK_MAX_BYTES, MIB } from "../src/protocol/limits.ts";
import { s3fifo, twoQueues, windowTinyLfu } from "./eviction-policies.ts";

/** Operations that are timed at each size. */
const SAMPLES = 1_000_000;

if (process.argv[2] === "eviction") printEviction(Number(process.argv[3] ?? 2000));
else if (process.argv[2] === "index") for (const count of process.argv.slice(3)) printIndex(Number(count));
else await runAll();

/** Each size in a process of its own: memory that one has given back would blur the next one's. */
async function runAll(): Promise<void> {
  console.log(
    [
      "chunks",
      "bytes/chunk",
      "RSS/chunk",
      "add ns",
      "99.99% us",
      "worst us",
      "find ns",
      "absent ns",
      "read ns",
      "turn ns",
      "99.99% us",
      "worst us",
    ]
      .map((title) => title.padStart(12))
      .join(""),
  );
  for (const count of [10_000, 1_000_000, 10_000_000]) {
    const child = Bun.spawn([process.execPath, import.meta.path, "index", String(count)], { stdout: "inherit", stderr: "inherit" });
    await child.exited;
  }
  printEviction(2000);
}

/** Random bytes, as chunk ids are. */
function randomIds(count: number): Uint8Array {
  const ids = new Uint8Array(count * CHUNK_ID_BYTES);
  for (let at = 0; at < ids.length; at += 65_536) crypto.getRandomValues(ids.subarray(at, at + 65_536));
  return ids;
}

/** One block for most chunks, as small files have; some of a few blocks, some of all. */
function chunkBytes(n: number): number {
  if (n % 16 === 0) return CHUNK_MAX_BYTES;
  return n % 16 < 13 ? BLOCK_BYTES : BLOCK_BYTES * (2 + (n % 7));
}

/** The longest of many short times. */
class Pauses {
  #counts = new Uint32Array(1 << 20);
  #noted = 0;
  #worst = 0;

  note(ns: number): void {
    // The first calls are those of the interpreter.
    if (++this.#noted < 5000) return;
    this.#worst = Math.max(this.#worst, ns);
    const at = Math.min(this.#counts.length - 1, Math.floor(ns / 1000));
    this.#counts[at] = (this.#counts[at] as number) + 1;
  }

  /** Microseconds that one in 10,000 takes at least, and that the longest takes. */
  get columns(): [number, number] {
    let above = 0;
    let at = this.#counts.length;
    while (at > 0 && above < this.#noted / 10_000) above += this.#counts[--at] as number;
    return [at, this.#worst / 1000];
  }
}

function printIndex(count: number): void {
  const ids = randomIds(count);
  const absent = randomIds(Math.min(count, SAMPLES));
  const id = (from: Uint8Array, n: number): Uint8Array => from.subarray(n * CHUNK_ID_BYTES, (n + 1) * CHUNK_ID_BYTES);
  // What is looked up, in random order, copied so that fetching the id itself costs nothing.
  const asked = new Uint8Array(SAMPLES * CHUNK_ID_BYTES);
  for (let n = 0; n < SAMPLES; n++) asked.set(id(ids, Math.floor(Math.random() * count)), n * CHUNK_ID_BYTES);
  Bun.gc(true);
  const rss = process.memoryUsage.rss();
  const index = new ChunkIndex();
  const eviction = new Eviction(index);
  const adds = new Pauses();
  let blocks = 0;
  const begin = Bun.nanoseconds();
  let last = begin;
  for (let n = 0; n < count; n++) {
    const slot = index.add(id(ids, n), chunkBytes(n));
    for (let block = index.blockCount(slot) - 1; block >= 0; block--) index.setBlock(slot, block, n);
    blocks += index.blockCount(slot);
    const now = Bun.nanoseconds();
    adds.note(now - last);
    last = now;
  }
  const addNs = (last - begin) / count;
  Bun.gc(true);
  const grown = process.memoryUsage.rss() - rss;
  const time = (samples: number, work: (n: number) => void): number => {
    const from = Bun.nanoseconds();
    for (let n = 0; n < samples; n++) work(n);
    return (Bun.nanoseconds() - from) / samples;
  };
  let found = 0;
  const find = (n: number): void => {
    if (index.find(id(asked, n)) >= 0) found++;
  };
  time(SAMPLES, find);
  const findNs = time(SAMPLES, find);
  if (found !== 2 * SAMPLES) throw new Error("lost some");
  const absentNs = time(Math.min(count, SAMPLES), (n) => index.find(id(absent, n)));
  const readNs = time(SAMPLES, (n) => {
    const slot = index.find(id(asked, n));
    eviction.onRead(slot, index.blockCount(slot));
  });
  const turns = new Pauses();
  const turnover = Math.min(count, SAMPLES);
  const evictNs = time(turnover, (n) => {
    const from = Bun.nanoseconds();
    eviction.onMiss(id(absent, n), BLOCK_BYTES, BLOCK_BYTES);
    eviction.admits(id(absent, n), BLOCK_BYTES);
    const victim = eviction.victim();
    index.remove(victim);
    index.setBlock(index.add(id(absent, n), BLOCK_BYTES), 0, n);
    turns.note(Bun.nanoseconds() - from);
  });
  const memory = index.memoryBytes + eviction.memoryBytes;
  const columns = [count, memory / count, grown / count, addNs, ...adds.columns, findNs, absentNs, readNs, evictNs, ...turns.columns];
  console.log(columns.map((value) => value.toFixed(0).padStart(12)).join(""));
  if (count === 10_000_000) console.log(`  (${(blocks / count).toFixed(1)} blocks a chunk; all of it ${(memory / MIB).toFixed(0)} MiB)`);
}

function printEviction(capacity: number): void {
  const policies: Record<string, Policy> = {
    best,
    ours: rounds,
    LRU: lru,
    "2Q": twoQueues,
    "S3-FIFO": s3fifo,
    "TinyLFU 1%": windowTinyLfu(0.01),
    "TinyLFU 10%": windowTinyLfu(0.1),
  };
  console.log(`\nhits in % of reads, and chunks written in % of reads; a cache of ${capacity} chunks`);
  console.log(
    "".padEnd(50) +
      Object.keys(policies)
        .map((name) => name.padStart(14))
        .join(""),
  );
  for (const trace of traces(capacity)) {
    const cells = Object.values(policies).map((policy) => {
      const { hits, insertions } = policy(trace);
      const percent = (count: number): string => ((100 * count) / trace.chunks.length).toFixed(1).padStart(6);
      return `${percent(hits)} ${percent(insertions)}`.padStart(14);
    });
    console.log(trace.name.padEnd(50) + cells.join(""));
  }
}
