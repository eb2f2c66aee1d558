/**
 * The chunk files of a pool: written block by block, and destroyed. A file may have holes; its trailer is written when every block is
 * there. Who writes has reserved the room before (blockRoom), and it is free again when the file is off the disk.
 */
import { blockCount, type ChunkRef } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import type { Eviction } from "../eviction/eviction.ts";
import type { ChunkIndex } from "../index/chunk-index.ts";
import type { Pool } from "../pool/pool.ts";
import { bytesOnDisk } from "../pool/space.ts";
import type { ChunkFiles } from "./chunk-files.ts";
import { chunkCrc32, TRAILER_BYTES } from "./chunk-trailer.ts";
import { type DiskFaults, faultKind } from "./disk-faults.ts";
import type { DiskWriter } from "./disk-writer.ts";

/** Blocks of a chunk that are being written. */
interface Write {
  readonly first: number;
  readonly end: number;
  readonly done: Promise<void>;
}

/** What blocks of a chunk take up in its file; the last one has the trailer with it. */
export function blockRoom(chunkBytes: number, first: number, count: number): number {
  const end = first + count;
  if (end < blockCount(chunkBytes)) return count * BLOCK_BYTES;
  return bytesOnDisk(chunkBytes + TRAILER_BYTES) - first * BLOCK_BYTES;
}

export interface DiskChunksParts {
  readonly pool: Pool;
  readonly index: ChunkIndex;
  readonly eviction: Eviction;
  readonly files: ChunkFiles;
  readonly writer: DiskWriter;
  readonly faults: DiskFaults;
  /** Room has come free. */
  readonly onRoom: () => void;
}

export class DiskChunks {
  readonly #parts: DiskChunksParts;
  /** By slot. */
  readonly #writing = new Map<number, Write[]>();
  /** Room of destroyed chunks that is not free yet. */
  #leavingBytes = 0;
  insertedBlocks = 0;
  evictedChunks = 0;

  constructor(parts: DiskChunksParts) {
    this.#parts = parts;
  }

  path(id: Uint8Array): string {
    return this.#parts.pool.chunkPath(Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString("hex"));
  }

  /** The block is there, or on its way. @param slot -1: the chunk is not in the index */
  isTaken(slot: number, block: number): boolean {
    if (slot < 0) return false;
    const writes = this.#writing.get(slot);
    if (writes?.some(({ first, end }) => first <= block && block < end) === true) return true;
    return this.#parts.index.hasBlocks(slot, block, 1);
  }

  /** Resolves when no block of the chunk is being written any more that is now. */
  async settled(slot: number): Promise<void> {
    await Promise.allSettled((this.#writing.get(slot) ?? []).map(({ done }) => done));
  }

  /**
   * Writes blocks that are not taken; they are there when it resolves, unless the chunk was removed meanwhile. Room is reserved already.
   * @param pinned the chunk is not to be evicted
   * @throws DiskError, which is counted; the chunk is gone then
   */
  async write(ref: ChunkRef, first: number, cells: readonly number[], pinned: boolean): Promise<void> {
    const { index, pool, faults } = this.#parts;
    let slot = index.find(ref.id);
    const create = slot < 0;
    if (create) slot = index.add(ref.id, ref.bytes);
    if (pinned) index.setPinned(slot, true);
    index.hold(slot);
    const write = { first, end: first + cells.length, done: this.#writeBlocks(slot, ref, first, cells, create) };
    const writes = this.#writing.get(slot) ?? [];
    writes.push(write);
    this.#writing.set(slot, writes);
    try {
      await write.done;
    } catch (error) {
      // Where the chunk is gone already, its file is too: nothing new.
      if (!index.isRemoved(slot)) {
        faults.onWrite(faultKind(error), `${this.path(ref.id)}: ${messageOf(error)}`);
        this.remove(slot);
      }
      throw error;
    } finally {
      // What could not be written may be on the disk in part: its room is released with the chunk's.
      pool.space.settle(blockRoom(ref.bytes, first, cells.length));
      writes.splice(writes.indexOf(write), 1);
      if (writes.length === 0) this.#writing.delete(slot);
      index.release(slot);
    }
  }

  async #writeBlocks(slot: number, ref: ChunkRef, first: number, cells: readonly number[], create: boolean): Promise<void> {
    const { index, writer } = this.#parts;
    const { id, bytes } = ref;
    const path = this.path(id);
    const crcs = await writer.write({ path, id, create, chunkBytes: bytes, firstBlock: first, cells });
    if (index.isRemoved(slot)) return;
    index.setBlocks(slot, first, crcs);
    this.insertedBlocks += cells.length;
    if (cells.length < blockCount(bytes) && index.isComplete(slot)) {
      const sums = Array.from({ length: blockCount(bytes) }, (_, block) => index.blockCrc(slot, block));
      await writer.writeTrailer({ path, chunkBytes: bytes, crc: chunkCrc32(id, bytes, sums) });
    }
  }

  /** Forgets a chunk, and destroys its file. Resolves when its room is free again, or it could not be destroyed. */
  async remove(slot: number): Promise<void> {
    const { index, files, writer, pool, faults } = this.#parts;
    const path = this.path(index.id(slot));
    let bytes = 0;
    for (let block = 0; block < index.blockCount(slot); block++) {
      if (this.isTaken(slot, block)) bytes += blockRoom(index.bytes(slot), block, 1);
    }
    index.remove(slot);
    files.drop(slot);
    this.#leavingBytes += bytes;
    try {
      await writer.destroy(path);
      pool.space.release(bytes);
    } catch (error) {
      // It is still on the disk, so its room stays taken.
      faults.onWrite(faultKind(error), `${path}: ${messageOf(error)}`);
    } finally {
      this.#leavingBytes -= bytes;
      this.#parts.onRoom();
    }
  }

  /** Destroys chunks until room for `bytes` is on its way (see remove). False: no more may go. */
  evict(bytes: number): boolean {
    const { eviction } = this.#parts;
    while (this.#leavingBytes < bytes) {
      const victim = eviction.victim();
      if (victim < 0) return false;
      this.evictedChunks++;
      void this.remove(victim);
    }
    return true;
  }

  /** Room is on its way. */
  get isEvicting(): boolean {
    return this.#leavingBytes > 0;
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
