/**
 * Where file bytes come from and go to: the block arena, the chunk workers, and what is in flight between them. One for a mount.
 *
 * This folder is about bytes: reads, writes and changes of a file's shape come in from a volume; blocks of chunks go to and from src/cache and the chunk
 * workers, and extents to the shard, in the deltas of ../content/write-out.ts.
 */

import { ReadStats } from "../../cache/control/read-stats.ts";
import type { DiskCache } from "../../cache/disk/disk-cache.ts";
import type { BlockArena } from "../../cache/memory/block-arena.ts";
import { TieredReads } from "../../cache/tiered-reads.ts";
import { blockBytes, blockCount } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import type { Segment } from "../inodes/segment.ts";
import { type ChunkSource, chunkSource } from "../records/composition.ts";
import type { ChunkTransfer } from "../shard/chunk-transfer.ts";
import { toFsError } from "../shard/node-calls.ts";

/** A block that a read needs. */
export interface BlockWant {
  source: ChunkSource;
  block: number;
}

/** Blocks brought for one reader, pinned for it until it calls `release`. */
export interface BroughtBlocks {
  cells: Map<string, number>;
  release: () => void;
}

/** Blocks in one request to the node: 1 MiB keeps several requests of one stream in flight without holding many cells. */
const FETCH_BLOCKS_MAX = 16;

/** In bypass, what was read ahead and not read stays between once and twice this long. */
const UNREAD_MS = 1_000;

export class ContentStore {
  readonly arena: BlockArena;
  readonly #transfer: ChunkTransfer;
  /** L1 keeps what was read and written (cache_mode other than bypass). */
  readonly #caches: boolean;
  readonly #tiers: TieredReads;
  readonly reads = new ReadStats();
  /** 1: the cell was filled ahead of a reader, and none has come yet. */
  readonly #ahead: Uint8Array;
  readonly #fetching = new Map<string, Promise<void>>();
  #wipes = 0;
  #forgetTimer: ReturnType<typeof setTimeout> | null = null;
  readonly #uploads = new Set<Promise<ChunkSource>>();
  /** Cells that hold bytes which the node does not have yet. */
  dirtyCells = 0;
  /** Cells that held such bytes and don't any more, since the start. */
  releasedCells = 0;
  /** Has room set aside at the node for what is dirty, where a write-out copies more than was written. */
  onCopied: (() => Promise<void>) | null = null;
  readonly dirtyCellsMax: number;

  constructor(arena: BlockArena, transfer: ChunkTransfer, options: { caches: boolean; disk?: DiskCache | null }) {
    this.arena = arena;
    this.#transfer = transfer;
    this.#caches = options.caches;
    this.#tiers = new TieredReads(options.disk ?? null, (ref, first, cells) => transfer.get(ref, first, cells), this.reads);
    this.#ahead = new Uint8Array(arena.cellCount);
    this.dirtyCellsMax = Math.floor(arena.cellCount / 2);
  }

  /** Sends a segment's bytes, once; its cells then belong to the cache. */
  upload(segment: Segment): Promise<ChunkSource> {
    if (segment.stored !== null) return Promise.resolve(segment.stored);
    if (segment.upload === null) {
      const upload = this.#upload(segment).finally(() => {
        segment.upload = null;
        this.#uploads.delete(upload);
      });
      segment.upload = upload;
      this.#uploads.add(upload);
    }
    return segment.upload;
  }

  /** Segments that are being sent. */
  get uploadCount(): number {
    return this.#uploads.size;
  }

  /** Resolves when one of the running uploads is done, throws when it has failed; false: none was running. */
  async uploadDone(): Promise<boolean> {
    if (this.#uploads.size === 0) return false;
    // A failure came at the request's deadline: who waits for room must not wait for another one.
    await Promise.race(this.#uploads);
    return true;
  }

  async #upload(segment: Segment): Promise<ChunkSource> {
    try {
      const ref = await this.#transfer.put(segment.cells, segment.length);
      segment.stored = chunkSource(ref);
      this.release(segment);
      return segment.stored;
    } catch (error) {
      throw toFsError(error, "sending a chunk");
    }
  }

  /** A write-out has made this segment, to copy into it what is stored already. */
  async copies(segment: Segment): Promise<void> {
    this.dirtyCells += segment.cells.length;
    await this.onCopied?.();
  }

  /** Gives a segment's cells up, to the cache if it was stored. */
  release(segment: Segment): void {
    const released = segment.releaseCells(this.#caches);
    this.dirtyCells -= released;
    this.releasedCells += released;
  }

  /** Brings blocks and pins them; of those that another reader was fetching already, some may be missing. `fresh`: from the node, past the cache, and not left in it (O_DIRECT). */
  async bring(wants: readonly BlockWant[], fresh: boolean): Promise<BroughtBlocks> {
    // Without a cache there is what was read ahead.
    const shared = !fresh;
    const blocks = runsOf(wants).flatMap(({ source, first, count }) =>
      Array.from({ length: count }, (_, i) => ({ source, block: first + i })),
    );
    // Read-ahead may be bringing some of them: wait for it, then ask for what is still missing.
    if (shared) for (const { source, block } of blocks) await this.#fetching.get(blockKey(source, block))?.catch(() => undefined);
    const find = ({ source, block }: BlockWant): number => (shared ? this.arena.find(source.key, block) : -1);
    const cells = new Map<string, number>();
    const release = (): void => {
      for (const cell of cells.values()) this.arena.unpin(cell);
      cells.clear();
    };
    // All cells at once, and holding none meanwhile: readers that each held some and waited for more would wait for each other.
    let spare = await this.arena.take(blocks.filter((want) => find(want) < 0).length);
    if (blocks.filter((want) => find(want) < 0).length > spare.length) {
      // Others have evicted some that were there.
      this.arena.unpinAll(spare);
      spare = await this.arena.take(blocks.length);
    }
    const missing: BlockWant[] = [];
    const joined: Promise<void>[] = [];
    for (const want of blocks) {
      const cell = find(want);
      const fetching = cell < 0 && shared ? this.#fetching.get(blockKey(want.source, want.block)) : undefined;
      if (cell >= 0) {
        this.arena.pin(cell);
        cells.set(blockKey(want.source, want.block), cell);
        this.countHit(cell);
      } else if (fetching !== undefined) {
        // Another reader began to fetch it meanwhile. The caller finds it afterwards, or asks again.
        joined.push(fetching.catch(() => undefined));
      } else {
        missing.push(want);
      }
    }
    const fetches = runsOf(missing).map((run) => {
      const own = spare.splice(0, run.count);
      own.forEach((cell, i) => {
        cells.set(blockKey(run.source, run.first + i), cell);
      });
      return this.#fetchRun(run, own, this.#caches && !fresh);
    });
    this.arena.unpinAll(spare);
    // Every one of them has to be over before the cells may be given back.
    const failed = (await Promise.allSettled([...fetches, ...joined])).find((result) => result.status === "rejected");
    if (failed === undefined) return { cells, release };
    release();
    throw toFsError(failed.reason, "fetching a chunk");
  }

  /** Fetches blocks into pinned cells, and makes them findable when `publish` is set. The cells stay the caller's. */
  async #fetchRun({ source, first, count }: Run, cells: readonly number[], publish: boolean): Promise<void> {
    const { ref } = source;
    const fetching = publish && this.#caches ? this.#tiers.read(ref, first, cells) : this.#tiers.readFresh(ref, first, cells);
    const wipes = this.#wipes;
    for (const cell of cells) this.#ahead[cell] = 0;
    if (publish) for (let i = 0; i < count; i++) this.#fetching.set(blockKey(source, first + i), fetching);
    try {
      await fetching;
      if (!publish || wipes !== this.#wipes) return;
      cells.forEach((cell, i) => {
        this.arena.publish(cell, source.key, first + i, blockCount(source.ref.bytes));
      });
    } finally {
      if (publish) for (let i = 0; i < count; i++) this.#fetching.delete(blockKey(source, first + i));
    }
  }

  /**
   * Starts bringing bytes [start, end) of a chunk, if there is memory for it now. Failures are the reader's to meet. Where nothing is
   * cached, they stay until they are read, or for a short time.
   */
  readAhead(source: ChunkSource, start: number, end: number): void {
    const last = Math.ceil(Math.min(end, source.ref.bytes) / BLOCK_BYTES);
    const wants: BlockWant[] = [];
    for (let block = Math.floor(start / BLOCK_BYTES); block < last; block++) {
      if (this.arena.find(source.key, block) < 0 && !this.#fetching.has(blockKey(source, block))) wants.push({ source, block });
    }
    for (const run of runsOf(wants)) {
      // Leaves room for readers that wait for something.
      if (this.arena.availableCount < this.arena.cellCount / 4) return;
      const cells = this.arena.tryTake(run.count);
      if (cells === null) return;
      const fetch = this.#fetchRun(run, cells, true);
      for (const cell of cells) this.#ahead[cell] = 1;
      fetch.catch(() => undefined).finally(() => this.arena.unpinAll(cells));
      if (!this.#caches) this.#forgetUnread();
    }
  }

  /** Where nothing is cached, what was read ahead and then not read goes after a while. */
  #forgetUnread(): void {
    this.#forgetTimer ??= setTimeout(() => {
      this.#forgetTimer = null;
      this.arena.forgetStale();
      if (this.arena.cachedCount > 0) this.#forgetUnread();
    }, UNREAD_MS).unref();
  }

  /** A reader has read a block to its end: where nothing is cached, nobody else is to find it. The reader has it pinned. */
  onReadToEnd(cell: number): void {
    if (!this.#caches) this.arena.forget(cell);
  }

  /** A reader has found its block in L1. The first time after read-ahead is none: that block was counted where it came from. */
  countHit(cell: number): void {
    if (this.#ahead[cell] === 1) this.#ahead[cell] = 0;
    else this.reads.l1Hits++;
  }

  /** Empties L1; what is being fetched is not kept either. Returns the bytes that were in it. */
  wipe(): number {
    this.#wipes++;
    return this.arena.wipe() * BLOCK_BYTES;
  }

  /** The bytes of a cell that holds block `block` of a chunk. */
  blockView(source: ChunkSource, block: number, cell: number): Uint8Array {
    return this.arena.bytes(cell).subarray(0, blockBytes(source.ref.bytes, block));
  }
}

/** Names one block of a chunk. */
export function blockKey(source: ChunkSource, block: number): string {
  return source.key + String.fromCharCode(block);
}

interface Run {
  source: ChunkSource;
  first: number;
  count: number;
}

/** Groups neighbouring blocks of one chunk into requests; each block once. */
function runsOf(wants: readonly BlockWant[]): Run[] {
  const runs: Run[] = [];
  const seen = new Set<string>();
  for (const { source, block } of wants) {
    const key = blockKey(source, block);
    if (seen.has(key)) continue;
    seen.add(key);
    const last = runs.at(-1);
    if (last !== undefined && last.source.key === source.key && last.first + last.count === block && last.count < FETCH_BLOCKS_MAX) {
      last.count++;
    } else {
      runs.push({ source, first: block, count: 1 });
    }
  }
  return runs;
}
