/**
 * Blocks on their way into L2. They stand in cells of the arena, pinned until they are written; when too many wait, the next ones are
 * dropped: inserting never delays who reads.
 */
import { blockCount, type ChunkRef } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES, MIB } from "../../protocol/limits.ts";
import type { ChunkIndex } from "../index/chunk-index.ts";
import type { BlockArena } from "../memory/block-arena.ts";
import type { Space } from "../pool/space.ts";
import { blockRoom, type DiskChunks } from "./disk-chunks.ts";

/** Waiting blocks at most: memory that readers lack meanwhile, so also at most a quarter of the arena. */
const QUEUE_MAX_BYTES = 32 * MIB;
const QUEUE_ARENA_PART = 4;

/**
 * A sequential reader's requests are parts of a chunk, and their answers come out of order: they are collected until none has come for this
 * long, or for twice that, so that a chunk is written at once. That costs a third of what its parts do.
 */
const COLLECT_MS = 30;
/** Chunks that are being collected at most: more come only from random reads, which have nothing to wait for. The oldest half goes then, at once. */
const COLLECTED_MAX = 32;

/** Blocks of a chunk that are to be written together. */
interface Collected {
  readonly ref: ChunkRef;
  /** By block; NO_CELL where there is none. */
  readonly cells: Int32Array;
  count: number;
  /** Some came since the last look. */
  isNew: boolean;
}

const NO_CELL = -1;

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
  /** Oldest first. */
  readonly #collected: Collected[] = [];
  #timer: ReturnType<typeof setTimeout> | null = null;
  /** Until room that is being made is free. */
  readonly #waiting: Insertion[] = [];
  /** Blocks that were not written for want of time. */
  dropped = 0;
  /** Blocks for which there was no room, and that were not worth what would have had to go. */
  refused = 0;

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
    let collected = this.#collected.find((one) => one.ref === ref);
    if (collected === undefined) {
      if (this.#collected.length === COLLECTED_MAX) for (const oldest of this.#collected.splice(0, COLLECTED_MAX / 2)) this.#write(oldest);
      collected = { ref, cells: new Int32Array(blockCount(ref.bytes)).fill(NO_CELL), count: 0, isNew: true };
      this.#collected.push(collected);
    }
    collected.isNew = true;
    for (const [i, cell] of cells.entries()) {
      if (collected.cells[first + i] === NO_CELL) {
        collected.cells[first + i] = cell;
        collected.count++;
      } else {
        this.#unpin([cell]);
      }
    }
    if (collected.count === collected.cells.length) {
      this.#collected.splice(this.#collected.indexOf(collected), 1);
      this.#write(collected);
    } else {
      this.#timer ??= setTimeout(() => this.#collectedLongEnough(), COLLECT_MS);
    }
  }

  #collectedLongEnough(): void {
    this.#timer = null;
    for (const collected of this.#collected.splice(0)) {
      if (collected.isNew) this.#collected.push(collected);
      else this.#write(collected);
      collected.isNew = false;
    }
    if (this.#collected.length > 0) this.#timer = setTimeout(() => this.#collectedLongEnough(), COLLECT_MS);
  }

  /** Writes what was collected of a chunk. */
  #write({ ref, cells }: Collected): void {
    for (let first = 0; first < cells.length; ) {
      if (cells[first] === NO_CELL) {
        first++;
        continue;
      }
      let end = first + 1;
      while (end < cells.length && cells[end] !== NO_CELL) end++;
      const insertion = { ref, first, cells: Array.from(cells.subarray(first, end)) };
      if (this.#waiting.length > 0) this.#waiting.push(insertion);
      else this.#begin(insertion);
      first = end;
    }
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

  /** Drops what waits. What is being written goes on. */
  clear(): void {
    for (const insertion of this.#waiting.splice(0)) this.#drop(insertion);
    for (const { ref, cells } of this.#collected.splice(0))
      this.#drop({ ref, first: 0, cells: Array.from(cells).filter((cell) => cell !== NO_CELL) });
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Writes what there is room for; where there is none, it waits for room that is being made, or is refused. */
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
        else this.#refuse(rest);
        return;
      }
      void this.#writeRun(ref, first + at, cells.slice(at, end));
      at = end;
    }
    this.#unpin(cells);
  }

  #makesRoom(ref: ChunkRef, bytes: number): boolean {
    const { chunks, pinned, admits } = this.#parts;
    return !pinned && admits(ref.id, bytes) && chunks.evict(bytes);
  }

  async #writeRun(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void> {
    this.#pin(cells);
    try {
      await this.#parts.chunks.write(ref, first, cells, this.#parts.pinned);
    } catch {
      // Counted where it happened.
    } finally {
      this.#unpin(cells);
    }
  }

  #refuse({ cells }: Insertion): void {
    this.refused += cells.length;
    this.#unpin(cells);
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
