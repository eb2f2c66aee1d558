/** Where blocks come from that L1 has not got: the local disk where they are there and good, else the node. */
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import { NodeError } from "../protocol/errors.ts";
import { ReadStats } from "./control/read-stats.ts";
import type { DiskCache } from "./disk/disk-cache.ts";

/** Fills cells with the blocks of a chunk from `firstBlock` on. */
export type ReadBlocks = (ref: ChunkRef, firstBlock: number, cells: readonly number[]) => Promise<void>;

export class TieredReads {
  readonly #disk: DiskCache | null;
  readonly #canonical: ReadBlocks;
  readonly #stats: ReadStats;

  /** @param disk null: there is no L2 */
  constructor(disk: DiskCache | null, canonical: ReadBlocks, stats: ReadStats = new ReadStats()) {
    this.#disk = disk;
    this.#stats = stats;
    this.#canonical = async (ref, first, cells) => {
      const begin = performance.now();
      await canonical(ref, first, cells);
      stats.latency.canonical.observe(performance.now() - begin);
    };
  }

  /** @throws whatever the node's answer throws; never for a fault of the cache */
  async read(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    const disk = this.#disk;
    if (disk === null) {
      this.#stats.misses += cells.length;
      return await this.#canonical(ref, first, cells);
    }
    const parts: Promise<void>[] = [];
    for (let at = 0; at < cells.length; ) {
      const there = disk.has(ref, first + at, 1);
      let end = at + 1;
      while (end < cells.length && disk.has(ref, first + end, 1) === there) end++;
      const part = at === 0 && end === cells.length ? cells : cells.slice(at, end);
      parts.push(there ? this.#fromDisk(disk, ref, first + at, part) : this.#fromNode(disk, ref, first + at, part));
      at = end;
    }
    if (parts.length === 1) return await parts[0];
    // The cells are the caller's again only when nobody writes to any of them.
    const failed = (await Promise.allSettled(parts)).find((result) => result.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  /** Past both tiers (O_DIRECT), but for a chunk that only L2 has: of a staged snapshot that has been deleted or changed since. */
  async readFresh(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    this.#stats.bypasses += cells.length;
    try {
      await this.#canonical(ref, first, cells);
    } catch (error) {
      const gone = error instanceof NodeError && error.code === "not_found";
      if (!gone || this.#disk === null || !(await this.#disk.read(ref, first, cells))) throw error;
    }
  }

  async #fromDisk(disk: DiskCache, ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    const begin = performance.now();
    if (!(await disk.read(ref, first, cells))) return await this.#fromNode(disk, ref, first, cells);
    this.#stats.l2Hits += cells.length;
    this.#stats.latency.l2.observe(performance.now() - begin);
  }

  async #fromNode(disk: DiskCache, ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    this.#stats.misses += cells.length;
    disk.onMiss(ref, cells.length);
    await this.#canonical(ref, first, cells);
    disk.insert(ref, first, cells);
  }
}
