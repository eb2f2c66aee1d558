/**
 * Room that fallocate(2) has set aside: ranges of files that are to be written later, and what that may take at the node. It is part of the mount's
 * credit (space-credit.ts), so it holds for as long as the mount does: what is not written by then is free again.
 */
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import type { Inode } from "../inodes/inode.ts";
import type { Offset } from "../posix/vfs.ts";
import { ExtentMap } from "../records/extent-map.ts";

/** Ranges of one file; writing into the middle of one makes two. A file that has so many keeps what is written into them set aside. */
const RANGES_MAX = 4_096;

/** What dirty bytes take at the node at most. */
export interface OwedSizes {
  /** Of each block of 64 KiB. */
  readonly blockBytes: number;
  /** Beyond that, of whatever is dirty at a time: it is set aside once while there is any reservation. */
  readonly onceBytes: number;
}

export class Reservations {
  readonly #sizes: OwedSizes;
  readonly #ranges = new Map<Inode, ExtentMap<null>>();
  #bytes = 0;

  constructor(sizes: OwedSizes) {
    this.#sizes = sizes;
  }

  /** What all of it takes at the node. */
  get owedBytes(): number {
    return this.#bytes === 0 ? 0 : this.#owedFor(this.#bytes) + this.#sizes.onceBytes;
  }

  #owedFor(bytes: number): number {
    return Math.ceil((bytes / BLOCK_BYTES) * this.#sizes.blockBytes);
  }

  /** What adding so many bytes would take more. */
  owedForMore(bytes: number): number {
    return this.#owedFor(this.#bytes + bytes) + this.#sizes.onceBytes - this.owedBytes;
  }

  /** Those of [start, end) that are not set aside yet, in bytes. */
  missingIn(inode: Inode, start: number, end: number): number {
    return end - start - this.#coveredIn(inode, start, end);
  }

  /** What is set aside for a write there, as it is owed. */
  owedIn(inode: Inode, offset: Offset, length: number): number {
    if (this.#bytes === 0 || typeof offset !== "number") return 0;
    const covered = this.#coveredIn(inode, offset, offset + length);
    return covered === 0 ? 0 : this.#owedFor(covered) + this.#sizes.onceBytes;
  }

  #coveredIn(inode: Inode, start: number, end: number): number {
    const ranges = this.#ranges.get(inode);
    if (ranges === undefined) return 0;
    let covered = 0;
    for (let i = ranges.indexAfter(start); i < ranges.extents.length; i++) {
      const range = ranges.extents[i];
      if (range === undefined || range.start >= end) break;
      covered += Math.min(end, range.end) - Math.max(start, range.start);
    }
    return covered;
  }

  add(inode: Inode, start: number, end: number): void {
    let ranges = this.#ranges.get(inode);
    if (ranges === undefined) {
      ranges = new ExtentMap<null>();
      this.#ranges.set(inode, ranges);
    }
    // The position as offset: neighbours become one.
    ranges.set(start, end, null, start);
    this.#count(inode, ranges);
  }

  /** Bytes there are written, or are no part of the file any more. */
  remove(inode: Inode, start: Offset, end: Offset): void {
    const ranges = this.#ranges.get(inode);
    if (ranges === undefined || typeof start !== "number") return;
    const last = typeof end === "number" ? end : Number.MAX_SAFE_INTEGER;
    const at = ranges.at(start);
    if (ranges.extents.length >= RANGES_MAX && at !== undefined && at.start < start && at.end > last) return;
    ranges.clear(start, last);
    this.#count(inode, ranges);
  }

  /** The file is gone. */
  drop(inode: Inode): void {
    this.remove(inode, 0, Number.MAX_SAFE_INTEGER);
  }

  #count(inode: Inode, ranges: ExtentMap<null>): void {
    const bytes = ranges.coveredBytes;
    this.#bytes += bytes - inode.reservedBytes;
    inode.reservedBytes = bytes;
    if (bytes === 0) this.#ranges.delete(inode);
  }
}
