/** Reading: collects the pieces of a byte range, fetches what is missing, and reads ahead of sequential readers. */
import { NodeError } from "../../protocol/errors.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import type { Inode } from "../inodes/inode.ts";
import type { Namespace } from "../inodes/namespace.ts";
import { FsError } from "../posix/errno.ts";
import { addOffset, distance, REGION_BYTES, regionSpans } from "../posix/offsets.ts";
import type { MaybePromise, Offset, ReadResult } from "../posix/vfs.ts";
import { regionFits } from "../records/inode-record.ts";
import { type BlockWant, type BroughtBlocks, blockKey, type ContentStore } from "./content-store.ts";
import { loadFirstRegion } from "./sibling-prefetch.ts";

/** The first window of a sequential reader, and the greatest: deep enough for the round trip at full speed. */
const READ_AHEAD_MIN_BYTES = 256 * 1024;
const READ_AHEAD_MAX_BYTES = 16 * 1024 * 1024;
/** The kernel sends a sequential reader's requests in parallel, so they arrive somewhat out of order. */
const REORDER_BYTES = 2 * 1024 * 1024;
/** A read whose blocks were evicted before it could use them tries again this often. */
const GATHER_TRIES_MAX = 8;
const ZEROS = new Uint8Array(BLOCK_BYTES);

/** How one handle has been read so far. */
export class ReadPattern {
  /** Where the next sequential read would begin. */
  expected: Offset = 0;
  windowBytes = 0;
  /** How far ahead has been asked for. */
  aheadEnd: Offset = 0;
}

export class FileReader {
  readonly #store: ContentStore;
  readonly #readAheadMaxBytes: number;

  constructor(store: ContentStore) {
    this.#store = store;
    this.#readAheadMaxBytes = Math.min(READ_AHEAD_MAX_BYTES, Math.floor((store.arena.cellCount * BLOCK_BYTES) / 8));
  }

  /** Bytes [offset, offset + size) of a file, cut at its end. `fresh`: O_DIRECT, past the caches. */
  read(namespace: Namespace, inode: Inode, offset: Offset, size: number, fresh: boolean): MaybePromise<ReadResult> {
    const length = distance(offset, inode.size, size);
    if (length === 0) return { pieces: [] };
    const begin = performance.now();
    const gathered = this.#gather(inode, offset, length, null, fresh);
    if (!Array.isArray(gathered)) {
      // Holes and what stands in records come from no tier.
      if (gathered.release !== undefined) this.#store.reads.latency.l1.observe(performance.now() - begin);
      return gathered;
    }
    return this.#fetchAndGather(namespace, inode, offset, length, gathered, fresh);
  }

  /** The pieces if all are there, else what is missing: blocks, or (an empty list) regions. */
  #gather(inode: Inode, offset: Offset, length: number, brought: BroughtBlocks | null, fresh: boolean): ReadResult | BlockWant[] {
    const { arena } = this.#store;
    const { content } = inode;
    const pieces: Uint8Array[] = [];
    const pinned: number[] = [];
    const missing: BlockWant[] = [];
    const found: number[] = [];
    /** Cells of which the last byte is read. */
    const ended: number[] = [];
    for (const { region, start, end } of regionSpans(offset, length)) {
      if (!content.isRegionKnown(region) && !content.isDirtyThroughout(region, start, end)) {
        arena.unpinAll(pinned);
        return [];
      }
      content.visit(region, start, end, (from, to, extent) => {
        if (extent === null) {
          for (let left = to - from; left > 0; left -= ZEROS.length) pieces.push(left < ZEROS.length ? ZEROS.subarray(0, left) : ZEROS);
          return;
        }
        const at = extent.offset + (from - extent.start);
        let { source } = extent;
        if (source.kind === "segment") {
          if (source.stored === null) {
            source.pieces(at, to - from, pieces, pinned);
            return;
          }
          source = source.stored;
        }
        if (source.kind === "inline") {
          pieces.push(source.data.subarray(at, at + (to - from)));
          return;
        }
        for (let position = at, last = at + (to - from); position < last; ) {
          const block = Math.floor(position / BLOCK_BYTES);
          const within = position % BLOCK_BYTES;
          const count = Math.min(BLOCK_BYTES - within, last - position);
          let cell = brought?.cells.get(blockKey(source, block)) ?? -1;
          if (cell < 0 && !fresh) {
            cell = arena.find(source.key, block);
            if (cell >= 0) found.push(cell);
          }
          if (cell < 0) {
            missing.push({ source, block });
          } else {
            arena.pin(cell);
            pinned.push(cell);
            pieces.push(arena.bytes(cell).subarray(within, within + count));
            if (within + count === BLOCK_BYTES || position + count === source.ref.bytes) ended.push(cell);
          }
          position += count;
        }
      });
    }
    if (missing.length > 0) {
      arena.unpinAll(pinned);
      return missing;
    }
    for (const cell of found) this.#store.countHit(cell);
    for (const cell of ended) this.#store.onReadToEnd(cell);
    return pinned.length === 0 ? { pieces } : { pieces, release: () => arena.unpinAll(pinned) };
  }

  async #fetchAndGather(
    namespace: Namespace,
    inode: Inode,
    offset: Offset,
    length: number,
    firstMissing: BlockWant[],
    fresh: boolean,
  ): Promise<ReadResult> {
    let missing = firstMissing;
    for (let tries = 0; tries < GATHER_TRIES_MAX; tries++) {
      let brought: BroughtBlocks | null = null;
      if (missing.length === 0 && inode.isGone) throw new FsError("ESTALE");
      // The first try of a small file brings its neighbours too; a file that changes meanwhile is asked for alone.
      if (missing.length === 0 && tries === 0 && inode.size <= REGION_BYTES) await loadFirstRegion(namespace, inode);
      else if (missing.length === 0) await loadRegions(namespace, inode, offset, length);
      else {
        brought = await this.#bring(namespace, inode, missing, fresh);
        if (brought === null) {
          missing = [];
          continue;
        }
      }
      const gathered = this.#gather(inode, offset, length, brought, fresh);
      brought?.release();
      if (!Array.isArray(gathered)) return gathered;
      missing = gathered;
    }
    throw new FsError("EIO", `inode ${inode.ino}: content kept changing while it was read`);
  }

  /** null: the file was changed, and what it consisted of is gone. @throws FsError, also where the node has lost what the file still consists of */
  async #bring(namespace: Namespace, inode: Inode, missing: readonly BlockWant[], fresh: boolean): Promise<BroughtBlocks | null> {
    try {
      return await this.#store.bring(missing, fresh);
    } catch (error) {
      const isLost = error instanceof FsError && error.cause instanceof NodeError && error.cause.code === "not_found";
      if (!isLost || inode.isGone) throw error;
      const { version } = inode;
      await namespace.fetch(inode.number);
      if (inode.version !== version) return null;
      throw new FsError("EIO", `inode ${inode.ino}: the storage node has lost a part of it`, { cause: error });
    }
  }

  /** Asks for what a sequential reader will read next. */
  readAhead(inode: Inode, pattern: ReadPattern, offset: Offset, size: number): void {
    const end = addOffset(offset, size);
    const isSequential =
      distance(pattern.expected, offset, REORDER_BYTES) + distance(offset, pattern.expected, REORDER_BYTES) < REORDER_BYTES;
    if (!isSequential) {
      pattern.windowBytes = 0;
      pattern.expected = end;
      pattern.aheadEnd = end;
      return;
    }
    if (end > pattern.expected) pattern.expected = end;
    if (pattern.aheadEnd < end) pattern.aheadEnd = end;
    const ahead = distance(end, pattern.aheadEnd, READ_AHEAD_MAX_BYTES);
    if (ahead > pattern.windowBytes / 2) return;
    pattern.windowBytes = Math.min(Math.max(pattern.windowBytes * 2, READ_AHEAD_MIN_BYTES), this.#readAheadMaxBytes);
    const wanted = distance(pattern.aheadEnd, inode.size, pattern.windowBytes - ahead);
    if (wanted === 0) return;
    for (const { region, start, end: last } of regionSpans(pattern.aheadEnd, wanted)) {
      if (!inode.content.isRegionKnown(region)) return;
      inode.content.visit(region, start, last, (from, to, extent) => {
        if (extent === null) return;
        const source = extent.source.kind === "segment" ? extent.source.stored : extent.source;
        const at = extent.offset + (from - extent.start);
        if (source?.kind === "chunk") this.#store.readAhead(source, at, at + (to - from));
      });
    }
    pattern.aheadEnd = addOffset(pattern.aheadEnd, wanted);
  }
}

/** Makes the regions of a byte range known. */
export async function loadRegions(namespace: Namespace, inode: Inode, offset: Offset, length: number): Promise<void> {
  const regions = regionSpans(offset, length).map(({ region }) => region);
  await loadRegionList(namespace, inode, regions);
}

/** Makes regions known, as far as nobody changes the file meanwhile: then they are asked for again. */
export async function loadRegionList(namespace: Namespace, inode: Inode, regions: readonly number[]): Promise<void> {
  const { content } = inode;
  for (let tries = 0; tries < GATHER_TRIES_MAX; tries++) {
    const wanted = regions.filter((region) => !content.isRegionKnown(region)).slice(0, REGIONS_PER_ANSWER);
    if (wanted.length === 0) return;
    const askedAt = content.changes;
    const stored = await namespace.shard.regions(inode, wanted);
    if (content.changes !== askedAt) continue;
    if (stored.some(({ generation }, i) => !regionFits(inode.stored, wanted[i] as number, generation))) {
      await requireNewer(namespace, inode);
      continue;
    }
    tries = -1;
    stored.forEach((one, i) => {
      content.adoptStored(wanted[i] as number, one);
    });
  }
  throw new FsError("EIO", `inode ${inode.ino}: its extents kept changing while they were read`);
}

/**
 * Extents came that are of another time than the attributes that are known: so the attributes must have changed.
 * @throws FsError EIO: they have not
 */
export async function requireNewer(namespace: Namespace, inode: Inode): Promise<void> {
  const { version } = inode;
  await namespace.fetch(inode.number);
  if (inode.version === version) throw namespace.shard.mistrust(inode.number, "its extents are of another time than its attributes");
}

/** Region records asked for at once: each may have a megabyte. */
const REGIONS_PER_ANSWER = 4;
