/**
 * L2: chunks on the local disk, in a pool that is this process's alone. What is read from it is checked against the CRC32 that memory
 * has of each block; whatever goes wrong shows as "not there", and is counted (disk-faults.ts).
 *
 * Into this folder come blocks that were fetched, and questions for blocks; what is there and good goes out, into cells of the arena.
 */
import { blockBytes, type ChunkRef } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import type { CacheMode } from "../../protocol/policy.ts";
import type { DiskTierStats } from "../control/stats.ts";
import { Eviction } from "../eviction/eviction.ts";
import type { ChunkIndex } from "../index/chunk-index.ts";
import type { BlockArena } from "../memory/block-arena.ts";
import type { Pool } from "../pool/pool.ts";
import { bytesOnDisk } from "../pool/space.ts";
import type { WipeProgress, WipeReport } from "../pool/wipe.ts";
import { ChunkFiles } from "./chunk-files.ts";
import { TRAILER_BYTES } from "./chunk-trailer.ts";
import { adoptChunks } from "./disk-adoption.ts";
import { blockRoom, DiskChunks, messageOf } from "./disk-chunks.ts";
import { DiskFaults, type FaultKind, faultKind } from "./disk-faults.ts";
import { DiskImages } from "./disk-images.ts";
import { DiskWriter } from "./disk-writer.ts";
import { InsertQueue } from "./insert-queue.ts";
import type { StagedImageFile, StagingDisk } from "./staging-disk.ts";
import { CacheCapacityExceeded } from "./staging-error.ts";

export interface DiskCacheOptions {
  readonly pool: Pool;
  readonly index: ChunkIndex;
  readonly mode: Exclude<CacheMode, "bypass">;
  readonly arena: BlockArena;
  readonly log: { warn(fields: object, message: string): void };
}

interface Fault {
  readonly kind: FaultKind;
  readonly detail: string;
}

/** A disk that hangs must not hold up an unmount for ever. */
const QUIET_WAIT_MS = 10_000;
/** Who waits for reads and writes to end looks this often. */
const IDLE_POLL_MS = 5;

export class DiskCache implements StagingDisk {
  readonly #pool: Pool;
  readonly #index: ChunkIndex;
  readonly #arena: BlockArena;
  readonly #eviction: Eviction;
  readonly #faults: DiskFaults;
  readonly #log: DiskCacheOptions["log"];
  readonly #files = new ChunkFiles();
  readonly #images: DiskImages;
  readonly #writer: DiskWriter;
  readonly #chunks: DiskChunks;
  readonly #queue: InsertQueue;
  /** Slots of chunk files that staging has pinned. */
  readonly #staged = new Set<number>();
  /** Reads and pinnings that run. */
  #users = 0;
  #state: "open" | "wiping" | "closed" = "open";
  #wiping: Promise<WipeReport> | null = null;

  constructor({ pool, index, mode, arena, log }: DiskCacheOptions) {
    this.#pool = pool;
    this.#index = index;
    this.#arena = arena;
    this.#eviction = new Eviction(index);
    this.#log = log;
    this.#faults = new DiskFaults(pool.path, log);
    this.#images = new DiskImages(index);
    this.#writer = new DiskWriter(arena.memory);
    this.#chunks = new DiskChunks({
      pool,
      index,
      eviction: this.#eviction,
      files: this.#files,
      writer: this.#writer,
      faults: this.#faults,
      onRoom: () => this.#queue.goOn(),
    });
    this.#queue = new InsertQueue({
      arena,
      index,
      chunks: this.#chunks,
      space: pool.space,
      pinned: mode === "pinned",
      canWrite: () => this.#state === "open" && this.#faults.canWrite,
      admits: (id, bytes) => this.#eviction.admits(id, bytes),
    });
  }

  /** Takes over what another process left in the pool, after reading and checking all of it. Never throws: what can't be read is not there. */
  async adopt(): Promise<void> {
    try {
      const { refused } = await adoptChunks(this.#pool, this.#index, this.#writer);
      if (refused > 0) this.#log.warn({ path: this.#pool.path, refused }, "damaged chunks of the pool that was taken over were destroyed");
    } catch (error) {
      this.#faults.onRead(faultKind(error), `${this.#pool.path}: ${messageOf(error)}`);
    }
  }

  /** All of these blocks are there. */
  has(ref: ChunkRef, first: number, count: number): boolean {
    const slot = this.#find(ref);
    return slot >= 0 && this.#index.hasBlocks(slot, first, count);
  }

  #find(ref: ChunkRef): number {
    if (this.#state !== "open" || !this.#faults.canRead) return -1;
    const slot = this.#index.find(ref.id);
    return slot >= 0 && this.#index.bytes(slot) === ref.bytes ? slot : -1;
  }

  /** Fills cells with blocks from `first` on. False: they are not there, or not what they were; the cells may have been written. Never throws. */
  async read(ref: ChunkRef, first: number, cells: readonly number[]): Promise<boolean> {
    const slot = this.#find(ref);
    if (slot < 0 || !this.#index.hasBlocks(slot, first, cells.length)) return false;
    const { image, firstBlock } = this.#index.place(slot);
    const path = image === 0 ? this.#chunks.path(ref.id) : this.#images.acquire(image);
    if (path === null) return false;
    this.#index.hold(slot);
    this.#users++;
    try {
      // Images have the numbers below 0.
      const file = image === 0 ? slot : -image;
      const fault = await this.#readBlocks(slot, ref, first, cells, { file, path, offset: (firstBlock + first) * BLOCK_BYTES });
      if (fault === null) {
        this.#eviction.onRead(slot, cells.length);
        return true;
      }
      // Removed meanwhile: its bytes may be zeros by now.
      if (this.#index.isRemoved(slot) || this.#state !== "open") return false;
      this.#faults.onRead(fault.kind, fault.detail);
      if (image === 0) this.#discard(slot);
      else for (let i = 0; i < cells.length; i++) this.#index.clearBlock(slot, first + i);
      return false;
    } finally {
      this.#users--;
      this.#index.release(slot);
      if (image !== 0) this.#images.release(image);
    }
  }

  async #readBlocks(
    slot: number,
    ref: ChunkRef,
    first: number,
    cells: readonly number[],
    { file, path, offset }: { file: number; path: string; offset: number },
  ): Promise<Fault | null> {
    // Whole cells, also where the chunk's last block is shorter: what a direct read takes.
    const aligned = file < 0 || ref.bytes >= BLOCK_BYTES;
    const views = cells.map((cell, i) => (aligned ? this.#arena.bytes(cell) : this.#view(ref, first + i, cell)));
    const wanted = Math.min(ref.bytes, (first + cells.length) * BLOCK_BYTES) - first * BLOCK_BYTES;
    let got: number;
    try {
      got = await this.#files.read(file, path, views, offset, aligned);
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

  #view(ref: ChunkRef, block: number, cell: number): Uint8Array {
    const view = this.#arena.bytes(cell);
    const bytes = blockBytes(ref.bytes, block);
    return bytes === BLOCK_BYTES ? view : view.subarray(0, bytes);
  }

  #discard(slot: number): void {
    this.#staged.delete(slot);
    void this.#chunks.remove(slot);
  }

  /** `count` blocks were asked for that are not there. */
  onMiss(ref: ChunkRef, count: number): void {
    this.#eviction.onMiss(ref.id, count * BLOCK_BYTES, ref.bytes);
  }

  /** Keeps blocks that stand in pinned cells and don't change any more, if it can do so without delaying anybody. Never throws. */
  insert(ref: ChunkRef, first: number, cells: readonly number[]): void {
    if (this.#state === "open") this.#queue.add(ref, first, cells);
  }

  addImage(image: StagedImageFile): number {
    return this.#images.add(image, (slot) => {
      if (this.#staged.has(slot)) return false;
      void this.#chunks.remove(slot);
      return true;
    });
  }

  async dropImage(number: number): Promise<void> {
    await this.#images.drop(number);
    this.#files.drop(-number);
  }

  /** @throws CacheCapacityExceeded; DiskError */
  async pinChunk(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    this.#requireOpen();
    this.#users++;
    try {
      await this.#pinBlocks(ref, first, cells);
    } finally {
      this.#users--;
    }
  }

  async #pinBlocks(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    for (let at = 0; at < cells.length; ) {
      const slot = this.#index.find(ref.id);
      if (slot >= 0 && this.#index.place(slot).image !== 0) return;
      if (slot >= 0) this.#pinSlot(slot);
      if (slot >= 0 && this.#index.hasBlocks(slot, first + at, 1)) {
        at++;
        continue;
      }
      if (this.#chunks.isTaken(slot, first + at)) {
        // A reader's insertion writes it; should that fail, it is written here.
        await this.#chunks.settled(slot);
        continue;
      }
      let end = at + 1;
      while (end < cells.length && !this.#chunks.isTaken(slot, first + end)) end++;
      const room = blockRoom(ref.bytes, first + at, end - at);
      if (!(await this.#reserve(room))) throw this.#capacityExceeded();
      // Somebody else may have begun to write some of them.
      if (this.#index.find(ref.id) !== slot || this.#isAnyTaken(slot, first + at, end - at)) {
        this.#pool.space.cancel(room);
        continue;
      }
      const written = this.#chunks.write(ref, first + at, cells.slice(at, end), true);
      this.#staged.add(this.#index.find(ref.id));
      await written.catch((error) => {
        throw faultKind(error) === "no_space" ? this.#capacityExceeded(error) : error;
      });
      at = end;
    }
  }

  #isAnyTaken(slot: number, first: number, count: number): boolean {
    for (let i = 0; i < count; i++) if (this.#chunks.isTaken(slot, first + i)) return true;
    return false;
  }

  #pinSlot(slot: number): void {
    this.#index.setPinned(slot, true);
    this.#staged.add(slot);
  }

  #capacityExceeded(cause?: unknown): CacheCapacityExceeded {
    const { usedBytes, maxBytes } = this.#pool.space;
    const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(2);
    const what = `the disk cache has no room: ${gigabytes(usedBytes)} GB of ${gigabytes(maxBytes)} GB are in use`;
    return new CacheCapacityExceeded(`${what}, and what is pinned stays; release datasets, or raise cache_l2_max`, { cause });
  }

  pin(ref: ChunkRef): boolean {
    const slot = this.#find(ref);
    if (slot < 0 || !this.#index.isComplete(slot)) return false;
    if (this.#index.place(slot).image === 0) this.#pinSlot(slot);
    return true;
  }

  async unpinChunk(ref: ChunkRef): Promise<void> {
    const slot = this.#index.find(ref.id);
    if (slot < 0 || !this.#staged.delete(slot)) return;
    await this.#chunks.remove(slot);
  }

  async makeRoom(bytes: number): Promise<boolean> {
    if (!(await this.#reserve(bytes))) return false;
    this.#pool.space.cancel(bytes);
    return true;
  }

  /** Reserves room, and evicts what is not pinned for it. */
  async #reserve(bytes: number): Promise<boolean> {
    const { space } = this.#pool;
    while (!(await space.reserveSoon(bytes))) {
      // A file takes up to a page more than its blocks.
      const evictable = this.#index.totalBytes - this.#index.pinnedBytes + this.#index.size * bytesOnDisk(TRAILER_BYTES);
      if (space.usedBytes - evictable + bytes > space.maxBytes) return false;
      if (!this.#chunks.isEvicting && !this.#chunks.evict(bytes) && !this.#chunks.isEvicting) return false;
      while (this.#chunks.isEvicting) await Bun.sleep(IDLE_POLL_MS);
    }
    return true;
  }

  onFault(kind: FaultKind, detail: string): void {
    this.#faults.onRead(kind, detail);
  }

  stats(): DiskTierStats {
    const { maxBytes, usedBytes } = this.#pool.space;
    return {
      maxBytes,
      bytes: usedBytes,
      pinnedBytes: this.#index.pinnedBytes,
      entries: this.#index.size,
      insertions: this.#chunks.insertedBlocks,
      dropped: this.#queue.dropped,
      refused: this.#queue.refused,
      evictions: this.#chunks.evictedChunks,
      faults: { ...this.#faults.counts },
      outOfUse: this.#faults.outOfUse,
    };
  }

  /** Overwrites and deletes everything, staged files too; the pool stays and can be used again. */
  wipe(onProgress?: (progress: WipeProgress) => void): Promise<WipeReport> {
    this.#wiping ??= this.#wipe(onProgress).finally(() => {
      this.#wiping = null;
    });
    return this.#wiping;
  }

  async #wipe(onProgress?: (progress: WipeProgress) => void): Promise<WipeReport> {
    this.#requireOpen();
    this.#state = "wiping";
    try {
      if (!(await this.#quiet())) throw new Error("the disk cache can't be wiped: its disk does not answer");
      for (const slot of this.#index.entries()) this.#index.remove(slot);
      this.#staged.clear();
      this.#images.clear();
      this.#files.close();
      return await this.#pool.wipeContents(onProgress);
    } finally {
      if (this.#state === "wiping") this.#state = "open";
    }
  }

  /** Ends all use of the pool; resolves when nothing of it is being read or written any more. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    await this.#wiping?.catch(() => undefined);
    await this.#quiet();
    await this.#writer.close();
    this.#files.close();
  }

  /** Waits until nobody reads or writes; nobody begins to any more. False: that takes too long. */
  async #quiet(): Promise<boolean> {
    this.#queue.clear();
    const deadline = performance.now() + QUIET_WAIT_MS;
    while (this.#users > 0 || this.#writer.pendingCount > 0) {
      if (performance.now() > deadline) return false;
      await Bun.sleep(IDLE_POLL_MS);
    }
    return true;
  }

  #requireOpen(): void {
    if (this.#state !== "open") throw new Error(`the disk cache is ${this.#state}`);
  }
}
