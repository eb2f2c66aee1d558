/**
 * Where written bytes wait: a log of at most one chunk's size, filled in the order in which writes arrive, so that a sequential
 * writer fills it with one run and a random writer's small ranges are packed together. Uploaded whole, it becomes a chunk.
 */
import type { BlockArena } from "../../cache/memory/block-arena.ts";
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import type { ChunkSource, StoredSource } from "../records/composition.ts";

/** Content that is stored, or still in this client's memory. */
export type Source = StoredSource | Segment;

export class Segment {
  readonly kind = "segment";
  readonly #arena: BlockArena;
  #cells: number[] = [];
  #length = 0;
  /** All bytes belong to one run of the file, in order. */
  isOneRun = true;
  /** Set once the node has it; the cells are then the cache's. */
  stored: ChunkSource | null = null;
  /** Set while it is being sent: its bytes must not change. */
  upload: Promise<ChunkSource> | null = null;

  constructor(arena: BlockArena) {
    this.#arena = arena;
  }

  get length(): number {
    return this.#length;
  }

  get cells(): readonly number[] {
    return this.#cells;
  }

  get roomBytes(): number {
    return CHUNK_MAX_BYTES - this.#length;
  }

  /** Its bytes may still be changed in place. */
  get isMutable(): boolean {
    return this.stored === null && this.upload === null;
  }

  /** Cells that must be added before `bytes` more can be appended. */
  cellsNeeded(bytes: number): number {
    return Math.ceil((this.#length + bytes) / BLOCK_BYTES) - this.#cells.length;
  }

  /** Hands over cells that the caller has taken. */
  addCells(cells: readonly number[]): void {
    this.#cells.push(...cells);
  }

  /** Appends data for which there is room and cells; returns where it stands. */
  append(data: Uint8Array): number {
    const at = this.#length;
    this.#length += data.length;
    this.overwrite(at, data);
    return at;
  }

  /** Replaces bytes that were appended before. */
  overwrite(at: number, data: Uint8Array): void {
    let position = at;
    let done = 0;
    while (done < data.length) {
      const within = position % BLOCK_BYTES;
      const count = Math.min(BLOCK_BYTES - within, data.length - done);
      const cell = this.#arena.bytes(this.#cells[Math.floor(position / BLOCK_BYTES)] as number);
      cell.set(done === 0 && count === data.length ? data : data.subarray(done, done + count), within);
      position += count;
      done += count;
    }
  }

  /** Views of [at, at + length), in order, pinned for the caller: it unpins `cells` when done. */
  pieces(at: number, length: number, into: Uint8Array[], cells: number[]): void {
    let position = at;
    const end = at + length;
    while (position < end) {
      const within = position % BLOCK_BYTES;
      const count = Math.min(BLOCK_BYTES - within, end - position);
      const cell = this.#cells[Math.floor(position / BLOCK_BYTES)] as number;
      this.#arena.pin(cell);
      cells.push(cell);
      into.push(this.#arena.bytes(cell).subarray(within, within + count));
      position += count;
    }
  }

  /** A copy of bytes [at, at + length). */
  copy(at: number, length: number): Uint8Array {
    const pieces: Uint8Array[] = [];
    const cells: number[] = [];
    this.pieces(at, length, pieces, cells);
    const copy = Buffer.concat(pieces, length);
    this.#arena.unpinAll(cells);
    return copy;
  }

  /** Gives the cells up: to the cache when `stored` is set and caching is on, else to the free ones. Returns how many there were. */
  releaseCells(cache: boolean): number {
    const cells = this.#cells;
    this.#cells = [];
    cells.forEach((cell, block) => {
      if (cache && this.stored !== null) this.#arena.publish(cell, this.stored.key, block, cells.length);
      this.#arena.unpin(cell);
    });
    return cells.length;
  }
}
