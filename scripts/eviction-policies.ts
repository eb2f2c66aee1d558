/** Well known eviction policies, as scripts/bench-cache.ts compares them with src/cache/eviction/eviction.ts. Written for clarity, not for use. */
import type { Outcome, Policy, Trace } from "../src/cache/eviction/test-eviction.ts";

type Queue = Map<number, number>;

/** Takes the first entry, [chunk, count], out of a queue: maps iterate in the order of insertion. */
function shift(queue: Queue): [number, number] {
  for (const entry of queue) {
    queue.delete(entry[0]);
    return entry;
  }
  throw new Error("empty");
}

/** Puts a chunk at the end of a queue of limited length. */
function remember(queue: Queue, chunk: number, limit: number): void {
  queue.set(chunk, 0);
  if (queue.size > limit) shift(queue);
}

/** 2Q (Johnson and Shasha, 1994): a quarter of the cache is a FIFO; who comes back after it has left that goes to an LRU. */
export function twoQueues({ capacity, chunks }: Trace): Outcome {
  const recent: Queue = new Map();
  const often: Queue = new Map();
  const ghosts: Queue = new Map();
  let hits = 0;
  for (const chunk of chunks) {
    if (often.delete(chunk)) {
      often.set(chunk, 0);
      hits++;
      continue;
    }
    if (recent.has(chunk)) {
      hits++;
      continue;
    }
    if (recent.size + often.size >= capacity) {
      if (recent.size > capacity / 4 || often.size === 0) remember(ghosts, shift(recent)[0], capacity / 2);
      else shift(often);
    }
    (ghosts.delete(chunk) ? often : recent).set(chunk, 0);
  }
  return { hits, insertions: chunks.length - hits };
}

/** S3-FIFO (Yang et al., 2023): a small FIFO of a tenth, a main one in which up to 3 uses give as many second chances. */
export function s3fifo({ capacity, chunks }: Trace): Outcome {
  const small: Queue = new Map();
  const main: Queue = new Map();
  const ghosts: Queue = new Map();
  const evictMain = (): void => {
    for (;;) {
      const [chunk, uses] = shift(main);
      if (uses === 0) return;
      main.set(chunk, uses - 1);
    }
  };
  const evict = (): void => {
    while (small.size > 0 && (small.size >= capacity / 10 || main.size === 0)) {
      const [chunk, uses] = shift(small);
      if (uses === 0) {
        remember(ghosts, chunk, capacity);
        return;
      }
      main.set(chunk, 0);
      if (main.size > capacity * 0.9) break;
    }
    if (main.size > 0) evictMain();
  };
  let hits = 0;
  for (const chunk of chunks) {
    const queue = small.has(chunk) ? small : main;
    const uses = queue.get(chunk);
    if (uses !== undefined) {
      hits++;
      queue.set(chunk, Math.min(3, uses + 1));
      continue;
    }
    while (small.size + main.size >= capacity) evict();
    (ghosts.delete(chunk) ? main : small).set(chunk, 0);
  }
  return { hits, insertions: chunks.length - hits };
}

/** W-TinyLFU (Einziger et al., 2017) with exact counts, halved every 10 caches: an LRU window, then who was used more often stays in a segmented LRU. */
export function windowTinyLfu(windowPart: number): Policy {
  return ({ capacity, chunks }) => {
    const windowMax = Math.max(1, Math.floor(capacity * windowPart));
    const protectedMax = Math.floor((capacity - windowMax) * 0.8);
    const window: Queue = new Map();
    const probation: Queue = new Map();
    const kept: Queue = new Map();
    const counts: Queue = new Map();
    const count = (chunk: number): number => counts.get(chunk) ?? 0;
    let hits = 0;
    chunks.forEach((chunk, i) => {
      counts.set(chunk, Math.min(15, count(chunk) + 1));
      if (i % (10 * capacity) === 0) {
        for (const [key, value] of counts) {
          if (value > 1) counts.set(key, value >> 1);
          else counts.delete(key);
        }
      }
      if (window.delete(chunk)) {
        window.set(chunk, 0);
        hits++;
      } else if (kept.delete(chunk) || probation.delete(chunk)) {
        kept.set(chunk, 0);
        hits++;
        if (kept.size > protectedMax) probation.set(shift(kept)[0], 0);
      } else {
        window.set(chunk, 0);
        if (window.size <= windowMax) return;
        const [candidate] = shift(window);
        if (probation.size + kept.size >= capacity - windowMax) {
          const from = probation.size > 0 ? probation : kept;
          const [victim] = from.keys();
          if (victim === undefined || count(candidate) <= count(victim)) return;
          from.delete(victim);
        }
        probation.set(candidate, 0);
      }
    });
    return { hits, insertions: chunks.length - hits };
  };
}
