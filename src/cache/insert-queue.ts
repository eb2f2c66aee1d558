/**
 * Blocks on their way into L2. They stand in cells of the arena, pinned until they are written; when too many wait, the next ones are
 * dropped: inserting never delays who reads.
 */
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import { BLOCK_BYTES, MIB } from "../protocol/limits.ts";
import type { BlockArena } from "./block-arena.ts";
import type { ChunkIndex } from "./chunk-index.ts";
import { blockRoom, type DiskChunks } from "./disk-chunks.ts";
import type { Space } from "./space.ts";

/** Waiting blocks at most: memory that readers lack meanwhile, so also at most a quarter of the arena. */
const QUEUE_MAX_BYTES = 32 * MIB;
const QUEUE_ARENA_PART = 4;

interface Insertion {
  readonly ref: ChunkRef;
  readonly first: number;
  readonly cells: readonly number[];
}

export interface InsertQueueParts {
  readonly arena: BlockArena;
  readonly index: ChunkIndex;
  readonly chunks: DiskChunks;
  readonly space: Space;
  /** What is inserted stays, and nothing has to go for it. */
  readonly pinned: boolean;
  /** Something may be written now. */
  readonly canWrite: () => boolean;
  /** There is no room: are these bytes worth more than what would have to go? */
  readonly admits: (id: Uint8Array, bytes: number) => boolean;
}

export class InsertQueue {
  readonly #parts: InsertQueueParts;
  readonly #cellsMax: number;
  /** Cells that are pinned here. */
  #cells = 0;
  /** Until room that is being made is free. */
  readonly #waiting: Insertion[] = [];
  /** In blocks. */
  dropped = 0;

  constructor(parts: InsertQueueParts) {
    this.#parts = parts;
    this.#cellsMax = Math.min(QUEUE_MAX_BYTES / BLOCK_BYTES, Math.floor(parts.arena.cellCount / QUEUE_ARENA_PART));
  }

  /** Takes pinned cells whose bytes don't change any more; pins them itself. Never throws. */
  add(ref: ChunkRef, first: number, cells: readonly number[]): void {
    if (!this.#parts.canWrite()) return;
    if (this.#cells + cells.length > this.#cellsMax) {
      this.dropped += cells.length;
      return;
    }
    this.#pin(cells);
    const insertion = { ref, first, cells };
    if (this.#waiting.length > 0) this.#waiting.push(insertion);
    else this.#begin(insertion);
  }

  /** Room came free. */
  goOn(): void {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const before = this.#waiting.length;
      if (!this.#parts.canWrite()) {
        this.#drop(next);
        continue;
      }
      this.#begin(next);
      if (this.#waiting.length > before) return;
    }
  }

  /** Drops what waits for room. What is being written goes on. */
  clear(): void {
    for (const insertion of this.#waiting.splice(0)) this.#drop(insertion);
  }

  /** Writes what there is room for; where there is none, it waits for room that is being made, or is dropped. */
  #begin({ ref, first, cells }: Insertion): void {
    const { index, chunks, space } = this.#parts;
    const slot = index.find(ref.id);
    // What stands in an image is not written a second time.
    if (slot >= 0 && (index.place(slot).image !== 0 || index.bytes(slot) !== ref.bytes)) {
      this.#unpin(cells);
      return;
    }
    for (let at = 0; at < cells.length; ) {
      if (chunks.isTaken(slot, first + at)) {
        at++;
        continue;
      }
      let end = at + 1;
      while (end < cells.length && !chunks.isTaken(slot, first + end)) end++;
      const room = blockRoom(ref.bytes, first + at, end - at);
      if (!space.reserve(room)) {
        this.#unpin(cells.slice(0, at));
        const rest = { ref, first: first + at, cells: cells.slice(at) };
        if (this.#makesRoom(ref, room)) this.#waiting.unshift(rest);
        else this.#drop(rest);
        return;
      }
      void this.#write(ref, first + at, cells.slice(at, end));
      at = end;
    }
    this.#unpin(cells);
  }

  #makesRoom(ref: ChunkRef, bytes: number): boolean {
    const { chunks, pinned, admits } = this.#parts;
    return !pinned && admits(ref.id, bytes) && chunks.evict(bytes);
  }

  async #write(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    this.#pin(cells);
    try {
      await this.#parts.chunks.write(ref, first, cells, this.#parts.pinned);
    } catch {
      // Counted where it happened.
    } finally {
      this.#unpin(cells);
    }
  }

  #drop({ cells }: Insertion): void {
    this.dropped += cells.length;
    this.#unpin(cells);
  }

  #pin(cells: readonly number[]): void {
    for (const cell of cells) this.#parts.arena.pin(cell);
    this.#cells += cells.length;
  }

  #unpin(cells: readonly number[]): void {
    this.#parts.arena.unpinAll(cells);
    this.#cells -= cells.length;
  }
}
