/**
 * Keeps a region's extents few enough for one record: the fragmented parts of a region are read and written again as runs. It happens
 * within a write-out, before its delta is made, so that no reader ever sees anything but the same bytes.
 */
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import type { DirtyLayer } from "../inodes/file-content.ts";
import type { Inode } from "../inodes/inode.ts";
import { Segment, type Source } from "../inodes/segment.ts";
import { FsError } from "../posix/errno.ts";
import { REGION_BYTES } from "../posix/offsets.ts";
import type { InlineSource } from "../records/composition.ts";
import type { Extent, ExtentMap } from "../records/extent-map.ts";
import { type BlockWant, type BroughtBlocks, blockKey, type ContentStore } from "./content-store.ts";

/** More extents than this in one region are too many: a file written page by page in random order has 16,384. */
const REGION_EXTENTS_MAX = 20_000;
/** Windows of one chunk's size with more extents than this are written again; the others stay as they are. */
const WINDOW_EXTENTS_KEPT = 256;
/**
 * A hole that lies inside one page of this size becomes zeros. So a window has at most one run a page, whatever the holes between its
 * fragments, and a region fewer than REGION_EXTENTS_MAX. Local filesystems have no holes below 4 KiB either.
 */
const HOLE_MIN_BYTES = 4096;
const ZEROS: InlineSource = { kind: "inline", data: new Uint8Array(HOLE_MIN_BYTES) };
/** Blocks that are fetched at a time: each fragment may be in another one. */
const BLOCKS_AT_ONCE = 64;
const BRING_TRIES_MAX = 8;

/** Puts runs into the frozen layer in place of fragments, where a region would have too many extents. Its regions must be known. */
export async function compactFragments(store: ContentStore, inode: Inode, frozen: DirtyLayer): Promise<void> {
  for (const [region, dirty] of frozen.regions) {
    const stored = inode.content.storedRegion(region) as ExtentMap<Source>;
    if (stored.extents.length + dirty.extents.length <= REGION_EXTENTS_MAX) continue;
    const merged = stored.clone();
    merged.overlay(dirty);
    if (merged.extents.length <= REGION_EXTENTS_MAX) continue;
    for (let start = 0; start < REGION_BYTES; start += CHUNK_MAX_BYTES) {
      const pieces: Extent<Source>[] = [];
      merged.visit(start, start + CHUNK_MAX_BYTES, (from, to, extent) => {
        if (extent !== null) pieces.push({ start: from, end: to, source: extent.source, offset: extent.offset + (from - extent.start) });
        else if (inOnePage(from - 1, to)) pieces.push({ start: from, end: to, source: ZEROS, offset: 0 });
      });
      if (pieces.length > WINDOW_EXTENTS_KEPT) await rewrite(store, frozen, region, dirty, pieces);
    }
  }
}

function inOnePage(a: number, b: number): boolean {
  return Math.floor(a / HOLE_MIN_BYTES) === Math.floor(b / HOLE_MIN_BYTES);
}

/** Copies pieces of one window into a segment of their own. */
async function rewrite(
  store: ContentStore,
  frozen: DirtyLayer,
  region: number,
  dirty: ExtentMap<Source>,
  pieces: readonly Extent<Source>[],
): Promise<void> {
  const segment = new Segment(store.arena);
  const bytes = pieces.reduce((sum, { start, end }) => sum + (end - start), 0);
  segment.addCells(await store.arena.take(segment.cellsNeeded(bytes)));
  frozen.segments.add(segment);
  await store.copies(segment);
  for (let from = 0; from < pieces.length; ) {
    const wants: BlockWant[] = [];
    let to = from;
    for (; to < pieces.length && wants.length < BLOCKS_AT_ONCE; to++) wants.push(...blocksOf(pieces[to] as Extent<Source>));
    const brought = await bringAll(store, wants);
    for (const piece of pieces.slice(from, to)) {
      const at = segment.length;
      for (const part of bytesOf(store, piece, brought.cells)) segment.append(part);
      dirty.set(piece.start, piece.end, segment, at);
      if (piece.source.kind !== "segment") frozen.copied.push({ region, start: piece.start, end: piece.end });
    }
    brought.release();
    from = to;
  }
  // At once: the windows of a region together may be larger than L1.
  await store.upload(segment);
}

/** What another reader was fetching may be missing at first: it is there, or is fetched, the next time. */
async function bringAll(store: ContentStore, wants: readonly BlockWant[]): Promise<BroughtBlocks> {
  for (let tries = 0; tries < BRING_TRIES_MAX; tries++) {
    const brought = await store.bring(wants, false);
    if (wants.every(({ source, block }) => brought.cells.has(blockKey(source, block)))) return brought;
    brought.release();
  }
  throw new FsError("EIO", "blocks to be written together kept being evicted");
}

/** The chunk that a piece stands in, if it is one. */
function chunkOf({ source }: Extent<Source>) {
  if (source.kind === "chunk") return source;
  return source.kind === "segment" ? source.stored : null;
}

function blocksOf(piece: Extent<Source>): BlockWant[] {
  const source = chunkOf(piece);
  if (source === null) return [];
  const last = piece.offset + (piece.end - piece.start) - 1;
  const wants: BlockWant[] = [];
  for (let block = Math.floor(piece.offset / BLOCK_BYTES); block <= Math.floor(last / BLOCK_BYTES); block++) wants.push({ source, block });
  return wants;
}

function* bytesOf(store: ContentStore, piece: Extent<Source>, cells: ReadonlyMap<string, number>): Generator<Uint8Array> {
  const { source, offset } = piece;
  const length = piece.end - piece.start;
  const chunk = chunkOf(piece);
  if (chunk === null) {
    if (source.kind === "inline") yield source.data.subarray(offset, offset + length);
    else if (source.kind === "segment") yield source.copy(offset, length);
    return;
  }
  for (let position = offset; position < offset + length; ) {
    const block = Math.floor(position / BLOCK_BYTES);
    const within = position % BLOCK_BYTES;
    const count = Math.min(BLOCK_BYTES - within, offset + length - position);
    const cell = cells.get(blockKey(chunk, block));
    if (cell === undefined) throw new Error("compaction: a block that was brought is not there");
    yield store.arena.bytes(cell).subarray(within, within + count);
    position += count;
  }
}
