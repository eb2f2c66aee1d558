/**
 * Writing out: sends a file's dirty bytes as chunks, or puts few of them inline, and commits the extents and attributes that make
 * them visible, in one delta (several only when a flush touches hundreds of regions).
 */
import type { ChunkRef } from "../../crypto/chunk-seal.ts";
import { COMMIT_TARGET_BYTES, COMMIT_TARGET_CHUNKS } from "../../protocol/limits.ts";
import { regionKey } from "../../protocol/record-keys.ts";
import type { DirtyLayer } from "../inodes/file-content.ts";
import type { Inode } from "../inodes/inode.ts";
import { inodePut, unchanged } from "../inodes/inode-change.ts";
import type { Namespace } from "../inodes/namespace.ts";
import { Segment } from "../inodes/segment.ts";
import { now } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import { maxOffset } from "../posix/offsets.ts";
import { encodeRegion, inlineBytes, type StoredMap, type StoredSource } from "../records/composition.ts";
import type { ExtentMap } from "../records/extent-map.ts";
import { type InodeAttributes, nextGeneration, withGenerations } from "../records/inode-record.ts";
import type { FileRef, PlainPut } from "../shard/shard.ts";
import { compactFragments } from "./compaction.ts";
import type { ContentStore } from "./content-store.ts";
import { loadRegionList } from "./file-reader.ts";

/** A region holds at most this many bytes inline: an append of a few hundred bytes is then one small commit, and a small file one record. */
const INLINE_MAX_BYTES = 32 * 1024;
/** Regions committed by one delta: stay below COMMIT_ITEMS_MAX. */
const REGIONS_PER_DELTA = 512;
/** Other mounts may commit to the same file in between; each time the bytes are laid over what they wrote. */
const CONFLICTS_MAX = 64;

/**
 * Commits everything dirty of an inode: content and attributes. With `durable` the answer comes after it survives power loss.
 * On failure everything stays dirty. The caller holds the inode's lock.
 */
export async function writeOutLocked(namespace: Namespace, store: ContentStore, inode: Inode, durable: boolean): Promise<void> {
  if (inode.pending === null && !inode.hasContent) return await settle(namespace, inode, durable);
  const { content } = inode;
  if (inode.pending === null && content.active.isEmpty) return await settle(namespace, inode, durable);
  const frozen = content.freeze();
  try {
    for (let tries = 0; ; tries++) {
      // What follows is built from this version, and wrong when another mount's change is learned of meanwhile.
      const basis = inode.version;
      requireBase(inode);
      placeAppended(namespace, inode);
      const regions = [...frozen.regions.keys()];
      await loadRegionList(namespace, inode, regions);
      await compactFragments(store, inode, frozen);
      await uploadLarge(store, inode, frozen);
      if (await commitFrozen(namespace, inode, frozen, basis, durable)) break;
      if (tries >= CONFLICTS_MAX) throw new FsError("EIO", `inode ${inode.ino}: other mounts kept changing the file`);
      content.dropCopied();
      await namespace.fetch(inode.number);
    }
  } catch (error) {
    content.thaw();
    throw error;
  }
  const sent: Segment[] = [];
  for (const segment of frozen.segments) {
    if (segment.stored === null) store.release(segment);
    else sent.push(segment);
  }
  if (sent.length > 0) namespace.shard.releaseChunks(unnamed(sent, frozen));
  // Unless the node's disk failed, the last delta was durable.
  await settle(namespace, inode, durable);
}

/** Chunks of segments that were sent and overwritten before the commit. */
function unnamed(sent: readonly Segment[], frozen: DirtyLayer): ChunkRef[] {
  const named = new Set<unknown>();
  for (const map of frozen.regions.values()) for (const { source } of map.extents) named.add(source);
  return sent.flatMap((segment) => (segment.stored === null || named.has(segment) ? [] : segment.stored.ref));
}

/** @throws FsError EIO: what these bytes follow was lost by the node (Volume.tailLost), which has given them up */
function requireBase(inode: Inode): void {
  if (inode.isWriteLost) throw new FsError("EIO", `inode ${inode.ino}: the storage node has lost what was written before`);
}

/** What was committed may have to become durable. */
async function settle({ shard }: Namespace, inode: Inode, durable: boolean): Promise<void> {
  if (durable && inode.committedSeq > shard.durableSeq) await shard.sync();
}

/** Moves what was appended here and is not committed behind what other mounts have appended since. No commit of it may be running. */
export function placeAppended(namespace: Namespace, inode: Inode): void {
  const { stored, content, pending } = inode;
  const from = content.appendedFrom;
  if (from === null || stored.size <= from) return;
  content.moveAppended(Number(BigInt(stored.size) - BigInt(from)));
  // The kernel may have cached the bytes where they were.
  namespace.invalidate(inode);
  if (pending?.size !== undefined) pending.size = content.appendedEnd ?? pending.size;
}

/** Sends what is not to be inline. Afterwards each region has at most INLINE_MAX_BYTES in segments that aren't stored. */
async function uploadLarge(store: ContentStore, inode: Inode, frozen: DirtyLayer): Promise<void> {
  const large = new Set<Segment>();
  for (const [region, map] of frozen.regions) {
    let pending = 0;
    for (const { start, end, source } of map.extents) if (source.kind === "segment" && source.stored === null) pending += end - start;
    if (pending === 0) continue;
    const inline = inlineBytes(inode.content.storedRegion(region));
    if (pending + inline <= INLINE_MAX_BYTES) continue;
    if (pending <= INLINE_MAX_BYTES) await gatherInline(store, inode, frozen, region);
    for (const { source } of map.extents) if (source.kind === "segment" && source.stored === null) large.add(source);
  }
  await Promise.all([...large].map((segment) => store.upload(segment)));
}

/**
 * A region's inline bytes and the few new ones are together too many: copies both into one segment, in file order, so that a log
 * written in small appends becomes chunks of some size.
 */
async function gatherInline(store: ContentStore, inode: Inode, frozen: DirtyLayer, region: number): Promise<void> {
  const map = frozen.regions.get(region);
  if (map === undefined) return;
  const merged = inode.content.storedRegion(region).clone() as ExtentMap<StoredSource | Segment>;
  merged.overlay(map as ExtentMap<StoredSource | Segment>);
  const gathered = new Segment(store.arena);
  gathered.addCells(await store.arena.take(gathered.cellsNeeded(2 * INLINE_MAX_BYTES)));
  frozen.segments.add(gathered);
  await store.copies(gathered);
  for (const { start, end, source, offset } of [...merged.extents]) {
    if (source.kind === "chunk" || (source.kind === "segment" && source.stored !== null)) continue;
    const bytes = source.kind === "inline" ? source.data.subarray(offset, offset + (end - start)) : source.copy(offset, end - start);
    map.set(start, end, gathered, gathered.append(bytes));
    if (source.kind === "inline") frozen.copied.push({ region, start, end });
  }
}

/** Commits the frozen layer, which was prepared on a version of the inode. Returns false on a conflict. */
async function commitFrozen(
  namespace: Namespace,
  inode: Inode,
  frozen: DirtyLayer,
  preparedOn: number,
  durable: boolean,
): Promise<boolean> {
  const { shard } = namespace;
  const { content } = inode;
  let basis = preparedOn;
  let left = [...frozen.regions.keys()];
  do {
    requireBase(inode);
    if (inode.version !== basis) return false;
    const puts: PlainPut[] = [];
    const some = new Map<number, StoredMap>();
    let bytes = 0;
    let chunks = 0;
    let allocated = inode.stored.allocated;
    const generation = nextGeneration(inode.stored.generation);
    for (const region of left) {
      if (some.size >= REGIONS_PER_DELTA || bytes >= COMMIT_TARGET_BYTES || chunks >= COMMIT_TARGET_CHUNKS) break;
      const before = content.storedRegion(region);
      const after = mergeRegion(before, frozen.regions.get(region) as DirtyMap);
      const put = regionPut(inode, region, after, generation);
      puts.push(put);
      bytes += put.plaintext.length;
      chunks += put.chunks?.length ?? 0;
      allocated += after.coveredBytes - before.coveredBytes;
      some.set(region, after);
    }
    left = left.slice(some.size);
    const written = inode.pending;
    const attributes = attributesToCommit(inode, frozen, allocated);
    if (some.size > 0) {
      attributes.generation = generation;
      attributes.regionGenerations = withGenerations(attributes.regionGenerations, some.keys(), generation);
    }
    const result = await shard.commit({
      checks: [unchanged(inode)],
      puts: [...puts, inodePut(inode.number, attributes)],
      leases: inode.leased ? [] : [inode.number],
      durable: durable && left.length === 0,
    });
    if (!result.ok) return false;
    const followsKernel = inode.kernelGeneration === inode.stored.generation;
    basis = result.seq;
    if (inode.committed(result.seq, attributes) && result.leased.length > 0) inode.leased = true;
    // The kernel's pages have what was written through it; they are those of the new generation.
    if (followsKernel) inode.kernelGeneration = attributes.generation;
    if (inode.pending === written) inode.pending = null;
    content.replaceStored(some);
  } while (left.length > 0);
  content.commitFrozen();
  if (!content.active.isEmpty) inode.pending = { ...inode.pending, size: maxOffset(inode.stored.size, content.active.end) };
  return true;
}

type DirtyMap = DirtyLayer["regions"] extends Map<number, infer M> ? M : never;

function attributesToCommit(inode: Inode, frozen: DirtyLayer, allocated: number): InodeAttributes {
  const attributes = inode.merged();
  // Not the pending size: bytes that were written since the write-out began are not in this delta.
  attributes.size = maxOffset(inode.stored.size, frozen.end);
  attributes.allocated = allocated;
  const { sec, nsec } = inode.pending?.ctime ?? now();
  [attributes.ctimeSec, attributes.ctimeNsec] = [sec, nsec];
  return attributes;
}

/** The put of a region's record, written with a generation of the file. */
export function regionPut(file: FileRef, region: number, map: StoredMap, generation: number): PlainPut {
  const { plaintext, chunks } = encodeRegion(map, generation);
  return { key: regionKey(file.number, region), fileId: file.fileId, link: 0, chunks, plaintext };
}

/** A region's stored map with dirty bytes laid over it: chunks where they were sent, inline else. */
function mergeRegion(before: StoredMap, dirty: DirtyMap): StoredMap {
  const after = before.clone();
  for (const { start, end, source, offset } of dirty.extents) {
    if (source.kind !== "segment") after.set(start, end, source, offset);
    else if (source.stored !== null) after.set(start, end, source.stored, offset);
    else after.set(start, end, { kind: "inline", data: source.copy(offset, end - start) }, 0);
  }
  return after;
}
