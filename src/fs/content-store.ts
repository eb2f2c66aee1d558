/**
 * Where file bytes come from and go to: the block arena, the chunk workers, and what is in flight between them. One for a mount.
 */
import type { BlockArena } from "../cache/block-arena.ts";
import { blockBytes, blockCount, type ChunkRef } from "../crypto/chunk-seal.ts";
import { BLOCK_BYTES } from "../protocol/limits.ts";
import { type ChunkSource, chunkSource } from "./composition.ts";
import { toFsError } from "./node-calls.ts";
import type { Segment } from "./segment.ts";

/** What the chunk workers do (transfer/transfer-pool.ts): data goes through cells of the arena. */
export interface ChunkTransfer {
  /** Hashes, seals and sends the first `byteLength` bytes of the cells as one chunk; resolves when it is durable on the node. */
  put(cells: readonly number[], byteLength: number): Promise<ChunkRef>;
  /** Fetches, opens and verifies blocks from `firstBlock` on, one for each cell. */
  get(ref: ChunkRef, firstBlock: number, cells: readonly number[]): Promise<void>;
}

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

export class ContentStore {
  readonly arena: BlockArena;
  readonly #transfer: ChunkTransfer;
  /** L1 keeps what was read and written (cache_mode other than bypass). */
  readonly #caches: boolean;
  readonly #fetching = new Map<string, Promise<void>>();
  readonly #uploads = new Set<Promise<ChunkSource>>();
  /** Cells that hold bytes which the node does not have yet. */
  dirtyCells = 0;
  readonly dirtyCellsMax: number;

  constructor(arena: BlockArena, transfer: ChunkTransfer, options: { caches: boolean }) {
    this.arena = arena;
    this.#transfer = transfer;
    this.#caches = options.caches;
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

  /** Gives a segment's cells up, to the cache if it was stored. */
  release(segment: Segment): void {
    this.dirtyCells -= segment.releaseCells(this.#caches);
  }

  /** Brings blocks and pins them. `fresh`: from the node, past the cache, and not left in it (O_DIRECT). */
  async bring(wants: readonly BlockWant[], fresh: boolean): Promise<BroughtBlocks> {
    const cells = new Map<string, number>();
    const release = (): void => {
      for (const cell of cells.values()) this.arena.unpin(cell);
      cells.clear();
    };
    try {
      await Promise.all(runsOf(wants).map((run) => this.#bringRun(run, fresh || !this.#caches, cells)));
      return { cells, release };
    } catch (error) {
      release();
      throw toFsError(error, "fetching a chunk");
    }
  }

  async #bringRun(run: Run, fresh: boolean, into: Map<string, number>): Promise<void> {
    const { source, first, count } = run;
    if (!fresh) {
      // Read-ahead may be bringing some of them: wait for it, then ask for what is still missing.
      for (let block = first; block < first + count; block++) await this.#fetching.get(blockKey(source, block))?.catch(() => undefined);
      const missing: BlockWant[] = [];
      for (let block = first; block < first + count; block++) {
        const cell = this.arena.find(source.key, block);
        if (cell < 0) {
          missing.push({ source, block });
          continue;
        }
        this.arena.pin(cell);
        into.set(blockKey(source, block), cell);
      }
      if (missing.length > 0) await Promise.all(runsOf(missing).map((part) => this.#fetchRun(part, true, into)));
      return;
    }
    await this.#fetchRun(run, false, into);
  }

  async #fetchRun({ source, first, count }: Run, cache: boolean, into: Map<string, number> | null): Promise<void> {
    const cells = into === null ? this.arena.tryTake(count) : await this.arena.take(count);
    if (cells === null) return;
    const fetching = this.#transfer.get(source.ref, first, cells);
    if (cache) for (let i = 0; i < count; i++) this.#fetching.set(blockKey(source, first + i), fetching);
    try {
      await fetching;
      cells.forEach((cell, i) => {
        if (cache) this.arena.publish(cell, source.key, first + i, blockCount(source.ref.bytes));
        if (into !== null) into.set(blockKey(source, first + i), cell);
      });
    } catch (error) {
      this.arena.unpinAll(cells);
      throw error;
    } finally {
      if (cache) for (let i = 0; i < count; i++) this.#fetching.delete(blockKey(source, first + i));
    }
    if (into === null) this.arena.unpinAll(cells);
  }

  /** Starts bringing bytes [start, end) of a chunk into the cache, if there is memory for it now. Failures are the reader's to meet. */
  readAhead(source: ChunkSource, start: number, end: number): void {
    if (!this.#caches) return;
    const last = Math.ceil(Math.min(end, source.ref.bytes) / BLOCK_BYTES);
    const wants: BlockWant[] = [];
    for (let block = Math.floor(start / BLOCK_BYTES); block < last; block++) {
      if (this.arena.find(source.key, block) < 0 && !this.#fetching.has(blockKey(source, block))) wants.push({ source, block });
    }
    for (const run of runsOf(wants)) {
      // Leaves room for readers that wait for something.
      if (this.arena.availableCount < this.arena.cellCount / 4) return;
      this.#fetchRun(run, true, null).catch(() => undefined);
    }
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
