/**
 * L2: chunks on the local disk, in a pool that is this process's alone. What is read from it was checked against the CRC32 that memory
 * has of each block; whatever goes wrong shows as "not there" and is counted (disk-faults.ts).
 *
 * Inserting never delays who reads: blocks are written by a Worker from the arena's cells, which stay pinned meanwhile, and when too many
 * wait, the next ones are dropped.
 */
import { blockBytes, blockCount, type ChunkRef } from "../crypto/chunk-seal.ts";
import { BLOCK_BYTES, MIB } from "../protocol/limits.ts";
import type { CacheMode } from "../protocol/policy.ts";
import type { BlockArena } from "./block-arena.ts";
import { ChunkFiles } from "./chunk-files.ts";
import type { ChunkIndex } from "./chunk-index.ts";
import { combineCrc32, shiftOf } from "./crc32-combine.ts";
import { DiskFaults, type FaultKind, faultKind } from "./disk-faults.ts";
import { DiskWriter } from "./disk-writer.ts";
import { Eviction } from "./eviction.ts";
import type { Pool } from "./pool.ts";
import { bytesOnDisk } from "./space.ts";

/** Blocks that wait to be written at most: memory that readers lack meanwhile, so also at most an eighth of the arena. */
const QUEUE_MAX_BYTES = 32 * MIB;
const QUEUE_ARENA_PART = 8;
/** CRC32 of the id and the data, behind the data. */
const TRAILER_BYTES = 4;

export interface DiskCacheOptions {
  readonly pool: Pool;
  readonly index: ChunkIndex;
  readonly mode: Exclude<CacheMode, "bypass">;
  readonly arena: BlockArena;
  readonly log: { warn(fields: object, message: string): void };
}

/** Counts since the mount began. */
export interface DiskCounters {
  /** In blocks. */
  insertions: number;
  dropped: number;
  /** In chunks. */
  evictions: number;
}

interface Insertion {
  readonly ref: ChunkRef;
  readonly first: number;
  readonly cells: readonly number[];
}

export class DiskCache {
  readonly counters: DiskCounters = { insertions: 0, dropped: 0, evictions: 0 };
  readonly faults: DiskFaults;
  readonly #pool: Pool;
  readonly #index: ChunkIndex;
  readonly #eviction: Eviction;
  readonly #mode: Exclude<CacheMode, "bypass">;
  readonly #arena: BlockArena;
  readonly #files = new ChunkFiles();
  readonly #writer: DiskWriter;
  readonly #queueMax: number;
  /** Cells of insertions that are being written, or wait for room. */
  #queued = 0;
  /** Insertions that wait until what was evicted is off the disk. */
  readonly #waiting: Insertion[] = [];
  /** Blocks that are being written: slot * 64 + block. */
  readonly #writing = new Set<number>();
  /** Bytes of evicted chunks that are not off the disk yet. */
  #leaving = 0;
  #closed = false;

  constructor({ pool, index, mode, arena, log }: DiskCacheOptions) {
    this.#pool = pool;
    this.#index = index;
    this.#eviction = new Eviction(index);
    this.#mode = mode;
    this.#arena = arena;
    this.faults = new DiskFaults(pool.path, log);
    this.#writer = new DiskWriter(arena.memory);
    this.#queueMax = Math.min(QUEUE_MAX_BYTES / BLOCK_BYTES, Math.floor(arena.cellCount / QUEUE_ARENA_PART));
  }

  /** All of these blocks are there. */
  has(ref: ChunkRef, first: number, count: number): boolean {
    const slot = this.#find(ref);
    return slot >= 0 && this.#index.hasBlocks(slot, first, count);
  }

  #find(ref: ChunkRef): number {
    if (!this.faults.canRead || this.#closed) return -1;
    const slot = this.#index.find(ref.id);
    return slot >= 0 && this.#index.bytes(slot) === ref.bytes ? slot : -1;
  }

  /** Fills cells with blocks from `first` on. False: they are not there, or not what they were; the cells may have been written. Never throws. */
  async read(ref: ChunkRef, first: number, cells: readonly number[]): Promise<boolean> {
    const slot = this.#find(ref);
    if (slot < 0 || !this.#index.hasBlocks(slot, first, cells.length)) return false;
    this.#index.hold(slot);
    try {
      const fault = await this.#readBlocks(slot, ref, first, cells);
      if (fault === null) {
        this.#eviction.onRead(slot, cells.length);
        return true;
      }
      // Removed meanwhile: its bytes may be zeros by now.
      if (this.#index.isRemoved(slot) || this.#closed) return false;
      this.faults.onRead(fault.kind, fault.detail);
      this.#remove(slot);
      return false;
    } finally {
      this.#index.release(slot);
    }
  }

  async #readBlocks(
    slot: number,
    ref: ChunkRef,
    first: number,
    cells: readonly number[],
  ): Promise<{ kind: FaultKind; detail: string } | null> {
    // Whole cells, also where the chunk's last block is shorter: what a direct read takes.
    const aligned = ref.bytes >= BLOCK_BYTES;
    const views = cells.map((cell, i) => (aligned ? this.#arena.bytes(cell) : this.#view(ref, first + i, cell)));
    const wanted = Math.min(ref.bytes, (first + cells.length) * BLOCK_BYTES) - first * BLOCK_BYTES;
    const path = this.#path(ref.id);
    let got: number;
    try {
      got = await this.#files.read(slot, path, views, first * BLOCK_BYTES, aligned);
    } catch (error) {
      return { kind: faultKind(error), detail: `${path}: ${messageOf(error)}` };
    }
    if (got < wanted) return { kind: "short", detail: `${path} was cut short` };
    for (const [i, cell] of cells.entries()) {
      if (Bun.hash.crc32(this.#view(ref, first + i, cell)) !== this.#index.blockCrc(slot, first + i)) {
        return { kind: "crc", detail: `${path}: block ${first + i} fails its checksum` };
      }
    }
    return null;
  }

  /** Blocks that are on their way to a reader will not come from here: they were not there. */
  onMiss(ref: ChunkRef, count: number): void {
    this.#eviction.onMiss(ref.id, count * BLOCK_BYTES);
  }

  /**
   * Keeps blocks that stand in pinned cells and don't change any more. It pins the cells itself, and may let them go at once: when the
   * disk is slow, full or broken, nothing is kept.
   */
  insert(ref: ChunkRef, first: number, cells: readonly number[]): void {
    if (this.#closed || !this.faults.canWrite) return;
    if (this.#queued + cells.length > this.#queueMax) {
      this.counters.dropped += cells.length;
      return;
    }
    for (const cell of cells) this.#arena.pin(cell);
    this.#queued += cells.length;
    const insertion = { ref, first, cells };
    if (this.#waiting.length > 0) this.#waiting.push(insertion);
    else this.#tryInsert(insertion);
  }

  /** Writes what there is room for; makes room and waits where there is none. */
  #tryInsert(insertion: Insertion): void {
    const { ref, first, cells } = insertion;
    const slot = this.#index.find(ref.id);
    for (let i = 0; i < cells.length; ) {
      if (this.#isThere(slot, first + i)) {
        i++;
        continue;
      }
      let end = i + 1;
      while (end < cells.length && !this.#isThere(slot, first + end)) end++;
      const bytes = diskBytes(ref.bytes, first + i, end - i);
      if (!this.#pool.space.reserve(bytes)) {
        const left = { ref, first: first + i, cells: cells.slice(i) };
        this.#done(cells.slice(0, i));
        if (this.#makeRoom(ref, bytes)) this.#waiting.unshift(left);
        else this.#drop(left);
        return;
      }
      void this.#write(ref, first + i, cells.slice(i, end), bytes);
      i = end;
    }
    this.#done(cells);
  }

  #isThere(slot: number, block: number): boolean {
    if (slot < 0) return false;
    return this.#index.hasBlocks(slot, block, 1) || this.#writing.has(slot * 64 + block);
  }

  /** Evicts as much as `bytes` need. False: they are not worth it, or nothing may go. */
  #makeRoom(ref: ChunkRef, bytes: number): boolean {
    if (this.#leaving >= bytes) return true;
    if (this.#mode === "pinned" || !this.#eviction.admits(ref.id, bytes)) return false;
    while (this.#leaving < bytes) {
      const victim = this.#eviction.victim();
      if (victim < 0) return false;
      this.counters.evictions++;
      this.#remove(victim);
    }
    return true;
  }

  async #write(ref: ChunkRef, first: number, cells: readonly number[], bytes: number): Promise<void> {
    for (const cell of cells) this.#arena.pin(cell);
    this.#queued += cells.length;
    const index = this.#index;
    let slot = index.find(ref.id);
    const create = slot < 0;
    if (create) {
      slot = index.add(ref.id, ref.bytes);
      if (this.#mode === "pinned") index.setPinned(slot, true);
    }
    index.hold(slot);
    for (let i = 0; i < cells.length; i++) this.#writing.add(slot * 64 + first + i);
    const path = this.#path(ref.id);
    try {
      const crcs = await this.#writer.write({ path, create, chunkBytes: ref.bytes, firstBlock: first, cells });
      if (index.isRemoved(slot)) return;
      for (const [i, crc] of crcs.entries()) index.setBlock(slot, first + i, crc);
      this.counters.insertions += cells.length;
      if (index.isComplete(slot)) await this.#writer.writeTrailer({ path, chunkBytes: ref.bytes, crc: this.#chunkCrc(slot) });
    } catch (error) {
      if (!this.#closed) this.faults.onWrite(faultKind(error), `${path}: ${messageOf(error)}`);
      if (!index.isRemoved(slot)) this.#remove(slot);
    } finally {
      // What could not be written may be on the disk in part: its room is released with the chunk's.
      this.#pool.space.settle(bytes);
      for (let i = 0; i < cells.length; i++) this.#writing.delete(slot * 64 + first + i);
      index.release(slot);
      this.#done(cells);
    }
  }

  /** Forgets a chunk, and destroys its file. Its room is free again when that is done. */
  #remove(slot: number): void {
    const index = this.#index;
    const id = index.id(slot);
    let bytes = 0;
    for (let block = 0; block < index.blockCount(slot); block++) {
      if (this.#isThere(slot, block)) bytes += diskBytes(index.bytes(slot), block, 1);
    }
    index.remove(slot);
    this.#files.drop(slot);
    this.#leaving += bytes;
    const path = this.#path(id);
    this.#writer
      .destroy(path)
      .then(
        () => this.#pool.space.release(bytes),
        // It is still on the disk, so its room stays taken.
        (error) => {
          if (!this.#closed) this.faults.onWrite(faultKind(error), `${path}: ${messageOf(error)}`);
        },
      )
      .finally(() => {
        this.#leaving -= bytes;
        this.#goOn();
      });
  }

  /** Takes up the insertions that wait for room. */
  #goOn(): void {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (this.#closed || !this.faults.canWrite) {
        this.#drop(next);
        continue;
      }
      const before = this.#waiting.length;
      this.#tryInsert(next);
      // It waits again.
      if (this.#waiting.length > before) return;
    }
  }

  #drop({ cells }: Insertion): void {
    this.counters.dropped += cells.length;
    this.#done(cells);
  }

  #done(cells: readonly number[]): void {
    this.#queued -= cells.length;
    this.#arena.unpinAll(cells);
  }

  /** CRC32 of the id and then the data, from the blocks' own. */
  #chunkCrc(slot: number): number {
    const bytes = this.#index.bytes(slot);
    let crc: number = Bun.hash.crc32(this.#index.id(slot));
    for (let block = 0; block < blockCount(bytes); block++) {
      const length = blockBytes(bytes, block);
      crc = combineCrc32(crc, this.#index.blockCrc(slot, block), length === BLOCK_BYTES ? BLOCK_SHIFT : shiftOf(length));
    }
    return crc;
  }

  #view(ref: ChunkRef, block: number, cell: number): Uint8Array {
    const view = this.#arena.bytes(cell);
    const bytes = blockBytes(ref.bytes, block);
    return bytes === BLOCK_BYTES ? view : view.subarray(0, bytes);
  }

  #path(id: Uint8Array): string {
    return this.#pool.chunkPath(Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString("hex"));
  }

  /** Ends all use of the pool; resolves when nothing of it is being read or written any more. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const insertion of this.#waiting.splice(0)) this.#drop(insertion);
    await this.#writer.close();
    this.#files.close();
  }
}

const BLOCK_SHIFT = shiftOf(BLOCK_BYTES);

/** What blocks of a chunk take up in its file; the last one has the trailer with it. */
function diskBytes(bytes: number, first: number, count: number): number {
  const end = first + count;
  if (end < blockCount(bytes)) return count * BLOCK_BYTES;
  return bytesOnDisk(bytes + TRAILER_BYTES) - first * BLOCK_BYTES;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
