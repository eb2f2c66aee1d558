/** Changing a file's extents other than by writing: truncate, fallocate, seeking in holes, sharing chunks between files. */
import { regionKey, regionPrefix } from "../../protocol/record-keys.ts";
import { applyPending, pendingOf } from "../inodes/attributes.ts";
import type { Inode, PendingAttributes } from "../inodes/inode.ts";
import { changeInode } from "../inodes/inode-change.ts";
import type { Namespace } from "../inodes/namespace.ts";
import { modeAfterWrite } from "../inodes/set-id.ts";
import { now } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import {
  addOffset,
  distance,
  FILE_MAX_BYTES,
  maxOffset,
  offsetInRegion,
  REGION_BYTES,
  regionOf,
  regionSpans,
  withinRegion,
} from "../posix/offsets.ts";
import { type Caller, FallocateMode, type Offset, type SetAttr, Whence } from "../posix/vfs.ts";
import type { StoredMap, StoredSource } from "../records/composition.ts";
import {
  generationsBelow,
  type InodeAttributes,
  NO_REGIONS,
  nextGeneration,
  regionFits,
  withGenerations,
} from "../records/inode-record.ts";
import type { PlainPut } from "../shard/shard.ts";
import { loadRegionList, loadRegions, requireNewer } from "./file-reader.ts";
import type { FileWriter } from "./file-writer.ts";
import { regionPut } from "./write-out.ts";

/** Region records changed by one delta at most (COMMIT_ITEMS_MAX, less what else it holds). */
const REGIONS_PER_DELTA = 1_000;
/** Whole region records cleared by one delta: only the first and the last are written again, the others go. */
const REGIONS_PER_CLEAR = 512;
/** Region records read at once when walking a file's regions. */
const REGIONS_PER_WALK = 8;
/** One copy_file_range call copies at most this much, which changes two regions: bounds the delta (COMMIT_CHUNKS_MAX). The caller goes on with the rest. */
export const COPY_MAX_BYTES = REGION_BYTES;

/** Sets a file's size, with whatever else a setattr brings. The caller holds the inode's lock. */
export async function truncate(namespace: Namespace, writer: FileWriter, inode: Inode, caller: Caller, change: SetAttr): Promise<void> {
  const size = change.size ?? 0;
  const { content } = inode;
  // They are put behind what others append, but not behind a size that is set here.
  if (content.appendedFrom !== null) await writer.writeOutLocked(namespace, inode, false);
  if (size < inode.size) content.truncateDirty(size);
  // What is dirty below the new size stays dirty; the attributes go with this delta.
  const { pending } = inode;
  const finish = (attributes: InodeAttributes): InodeAttributes => {
    const time = now();
    const merged = applyPending(attributes, { ...pending, mtime: time, ctime: time });
    const done = applyPending(merged, { ...pendingOf(inode, change, caller), mtime: time });
    done.mode = modeAfterWrite(done, caller);
    if (change.mtime !== undefined && change.mtime !== "now") [done.mtimeSec, done.mtimeNsec] = [change.mtime.sec, change.mtime.nsec];
    done.size = size;
    done.generation = nextGeneration(done.generation);
    return done;
  };
  if (size === 0) {
    await changeInode(namespace, inode, () => {
      const attributes = finish(inode.stored);
      attributes.allocated = 0;
      attributes.regionGenerations = NO_REGIONS;
      return { attributes, deletePrefixes: [regionPrefix(inode.number)] };
    });
    content.forgetStored();
    content.allRegionsKnown = true;
  } else {
    await cutFarTail(namespace, inode, size, finish);
    await cutTail(namespace, inode, size, finish);
  }
  writer.unreserve(inode, size, FILE_MAX_BYTES);
  // The kernel cuts its own pages when it truncates.
  inode.kernelGeneration = inode.stored.generation;
  inode.pending = content.active.isEmpty ? null : { size: maxOffset(size, content.active.end) };
  if (inode.pending === null) writer.isClean(inode);
}

/** While more regions lie beyond `size` than one delta can drop, shortens the file from its end: each step is a shorter file, none a torn one. */
async function cutFarTail(
  namespace: Namespace,
  inode: Inode,
  size: Offset,
  finish: (attributes: InodeAttributes) => InodeAttributes,
): Promise<void> {
  if (regionOf(inode.stored.size) - regionOf(size) <= REGIONS_PER_DELTA) return;
  const regions: number[] = [];
  for await (const { region } of walkRegions(namespace, inode, regionOf(size) + 1)) regions.push(region);
  while (regions.length > REGIONS_PER_DELTA) {
    const [first] = regions.splice(-REGIONS_PER_DELTA);
    const shorter = offsetInRegion(first as number, 0);
    await cutTail(namespace, inode, shorter, (attributes) => ({ ...finish(attributes), size: shorter }));
  }
}

/** Drops what is stored from `size` on (nothing when the file grows) and sets the size. */
async function cutTail(
  namespace: Namespace,
  inode: Inode,
  size: Offset,
  finish: (attributes: InodeAttributes) => InodeAttributes,
): Promise<void> {
  const { content } = inode;
  const lastRegion = regionOf(size);
  const within = withinRegion(size);
  let cut: StoredMap | null = null;
  await changeInode(namespace, inode, async () => {
    cut = null;
    if (size >= inode.stored.size) return { attributes: finish(inode.stored) };
    let { allocated } = inode.stored;
    const deletes: Uint8Array[] = [];
    const firstGone = within === 0 ? lastRegion : lastRegion + 1;
    if (regionOf(inode.stored.size) >= firstGone) {
      for await (const { region, map } of walkRegions(namespace, inode, firstGone)) {
        deletes.push(regionKey(inode.number, region));
        allocated -= map.coveredBytes;
      }
    }
    const puts: PlainPut[] = [];
    const attributes = finish(inode.stored);
    attributes.regionGenerations = generationsBelow(attributes.regionGenerations, firstGone);
    if (within > 0) {
      await loadRegionList(namespace, inode, [lastRegion]);
      const before = content.storedRegion(lastRegion);
      cut = before.clone();
      cut.clear(within, REGION_BYTES);
      allocated -= before.coveredBytes - cut.coveredBytes;
      if (before.isEmpty) cut = null;
      else {
        puts.push(regionPut(inode, lastRegion, cut, attributes.generation));
        attributes.regionGenerations = withGenerations(attributes.regionGenerations, [lastRegion], attributes.generation);
      }
    }
    return { attributes: { ...attributes, allocated }, puts, deletes };
  });
  content.dropStoredFrom(within === 0 ? lastRegion : lastRegion + 1);
  if (cut !== null) content.replaceStored(new Map([[lastRegion, cut]]));
}

/** The stored regions from `from` on. */
async function* walkRegions(namespace: Namespace, inode: Inode, from: number): AsyncGenerator<{ region: number; map: StoredMap }> {
  for (let next = from, more = true; more; ) {
    const answer = await namespace.shard.regionsFrom(inode, next, REGIONS_PER_WALK);
    more = answer.more && answer.found.length > 0;
    // Where they are not of one time, the attributes must be newer than those that this walk began with: a delta that is built on it fails.
    if (!fits(inode, next, more ? null : Number.POSITIVE_INFINITY, answer.found)) await requireNewer(namespace, inode);
    for (const one of answer.found) {
      yield one;
      next = one.region + 1;
    }
  }
}

/** Whether these are the regions from `from` on, to the last one or (`end`) to the end, that the attributes speak of. */
function fits({ stored }: Inode, from: number, end: number | null, found: readonly { region: number; generation: number }[]): boolean {
  const there = new Map(found.map(({ region, generation }) => [region, generation]));
  if (found.some(({ region, generation }) => !regionFits(stored, region, generation))) return false;
  const last = end ?? (found.at(-1)?.region ?? from - 1) + 1;
  for (let region = from; region < Math.min(last, stored.regionGenerations.length); region++) {
    if (!regionFits(stored, region, there.get(region) ?? 0)) return false;
  }
  return true;
}

/** fallocate(2): what is allocated is set aside while the mount lasts, see Reservations. The caller holds the inode's lock. */
export async function fallocate(
  namespace: Namespace,
  writer: FileWriter,
  inode: Inode,
  caller: Caller,
  mode: number,
  offset: Offset,
  length: Offset,
): Promise<void> {
  const end = addOffset(offset, length);
  const keepsSize = (mode & FallocateMode.KEEP_SIZE) !== 0;
  const punches = (mode & FallocateMode.PUNCH_HOLE) !== 0;
  const zeroes = (mode & FallocateMode.ZERO_RANGE) !== 0;
  const known = FallocateMode.KEEP_SIZE | FallocateMode.PUNCH_HOLE | FallocateMode.ZERO_RANGE;
  if ((mode & ~known) !== 0 || (punches && (zeroes || !keepsSize))) throw new FsError("EOPNOTSUPP");
  if (punches || zeroes) {
    await writer.writeOutLocked(namespace, inode, false);
    await clearRange(namespace, inode, caller, offset, end);
    if (punches) writer.unreserve(inode, offset, end);
  }
  if (!punches) await reserve(namespace, writer, inode, offset, end);
  if (!keepsSize && end > inode.size) await truncate(namespace, writer, inode, caller, { size: end });
  else if (!punches && !zeroes) await markModified(namespace, inode, caller);
}

/**
 * Sets room aside for what has none in the range.
 * @throws FsError EDQUOT, ENOSPC
 */
async function reserve(namespace: Namespace, writer: FileWriter, inode: Inode, offset: Offset, end: Offset): Promise<void> {
  // Beyond 8 PiB positions are not counted; nobody has that much, and a few bytes at the end of a sparse file are written as others are.
  if (typeof offset !== "number" || typeof end !== "number") {
    if (distance(offset, end, Number.MAX_SAFE_INTEGER) > (await namespace.shard.statfs()).freeBytes) throw new FsError("ENOSPC");
    return;
  }
  // What is dirty has its room by its own.
  await writer.writeOutLocked(namespace, inode, false);
  const holes: { start: number; end: number }[] = [];
  let from = offset;
  if (offset < inode.stored.size) {
    for await (const { region, map } of walkRegions(namespace, inode, regionOf(offset))) {
      const base = region * REGION_BYTES;
      if (base >= end) break;
      for (const extent of map.extents) {
        const [start, stop] = [base + extent.start, base + extent.end];
        if (stop <= from) continue;
        if (start >= end) break;
        if (start > from) holes.push({ start: from, end: start });
        from = stop;
      }
    }
  }
  if (from < end) holes.push({ start: from, end });
  await writer.reserve(inode, holes);
}

/** What file_modified() does on a local filesystem, for a change that leaves every byte as it is. */
async function markModified(namespace: Namespace, inode: Inode, caller: Caller): Promise<void> {
  const time = now();
  const change: PendingAttributes = { mtime: time, ctime: time };
  if (caller.killPriv === true) change.mode = modeAfterWrite(inode, caller);
  if (inode.pending !== null) inode.pending = { ...inode.pending, ...change };
  else await changeInode(namespace, inode, () => ({ attributes: applyPending(inode.stored, change) }));
}

/** Makes a range a hole. */
async function clearRange(namespace: Namespace, inode: Inode, caller: Caller, offset: Offset, end: Offset): Promise<void> {
  for (let from: Offset | null = offset; from !== null; ) from = await clearSome(namespace, inode, caller, from, end);
  inode.kernelGeneration = inode.stored.generation;
}

/** Clears as many regions as one delta may change; returns where to go on, or null when done. */
async function clearSome(namespace: Namespace, inode: Inode, caller: Caller, offset: Offset, end: Offset): Promise<Offset | null> {
  const changed = new Map<number, StoredMap>();
  const first = regionOf(offset);
  let next: Offset | null = null;
  await changeInode(namespace, inode, async () => {
    changed.clear();
    next = null;
    let { allocated } = inode.stored;
    const puts: PlainPut[] = [];
    const deletes: Uint8Array[] = [];
    const generation = nextGeneration(inode.stored.generation);
    let { regionGenerations } = inode.stored;
    for await (const { region, map } of walkRegions(namespace, inode, first)) {
      const regionStart = offsetInRegion(region, 0);
      if (regionStart >= end) break;
      if (changed.size === REGIONS_PER_CLEAR) {
        next = regionStart;
        break;
      }
      const after = map.clone();
      after.clear(region === first ? withinRegion(offset) : 0, distance(regionStart, end, REGION_BYTES));
      allocated -= map.coveredBytes - after.coveredBytes;
      changed.set(region, after);
      if (after.isEmpty) deletes.push(regionKey(inode.number, region));
      else puts.push(regionPut(inode, region, after, generation));
      regionGenerations = withGenerations(regionGenerations, [region], after.isEmpty ? 0 : generation);
    }
    const time = now();
    const attributes = applyPending(inode.stored, { mtime: time, ctime: time });
    attributes.mode = modeAfterWrite(attributes, caller);
    return { attributes: { ...attributes, generation, regionGenerations, allocated }, puts, deletes };
  });
  inode.content.replaceStored(changed);
  return next;
}

/** lseek(2) SEEK_DATA and SEEK_HOLE. Nothing may be dirty. Throws ENXIO. */
export async function seek(namespace: Namespace, inode: Inode, offset: Offset, whence: number): Promise<Offset> {
  const { size } = inode;
  if (offset >= size) throw new FsError("ENXIO");
  if (whence !== Whence.SEEK_DATA && whence !== Whence.SEEK_HOLE) throw new FsError("EINVAL");
  let position = offset;
  for await (const { region, map } of walkRegions(namespace, inode, regionOf(offset))) {
    const regionStart = offsetInRegion(region, 0);
    // Between stored regions there are only holes.
    if (regionStart > position) {
      if (whence === Whence.SEEK_HOLE) return position;
      position = regionStart;
    }
    let found: number | null = null;
    map.visit(withinRegion(position), REGION_BYTES, (start, _end, extent) => {
      if (found === null && (extent !== null) === (whence === Whence.SEEK_DATA)) found = start;
    });
    if (found !== null) {
      const at = offsetInRegion(region, found);
      if (at < size) return at;
      position = size;
      break;
    }
    position = offsetInRegion(region + 1, 0);
  }
  if (whence === Whence.SEEK_DATA) throw new FsError("ENXIO");
  // The last region may be stored beyond the end (a file that another mount has cut).
  if (position > size) return size;
  return position;
}

/**
 * Makes bytes of one file refer to the chunks of another: no data moves. Returns how many bytes were copied, and the pieces that stood
 * inline and must be written as data. The caller holds the target's lock; nothing of either may be dirty.
 */
export async function shareRange(
  namespace: Namespace,
  caller: Caller,
  source: Inode,
  sourceOffset: Offset,
  target: Inode,
  targetOffset: Offset,
  length: number,
): Promise<{ length: number; inline: { offset: Offset; data: Uint8Array }[] }> {
  // As stored: bytes that are being written meanwhile are not in its regions.
  const count = distance(sourceOffset, source.stored.size, Math.min(length, COPY_MAX_BYTES));
  if (count === 0) return { length: 0, inline: [] };
  await loadRegions(namespace, source, sourceOffset, count);
  const pieces: { position: Offset; length: number; source: StoredSource | null; offset: number }[] = [];
  let done = 0;
  for (const { region, start, end } of regionSpans(sourceOffset, count)) {
    source.content.storedRegion(region).visit(start, end, (from, to, extent) => {
      const offset = extent === null ? 0 : extent.offset + (from - extent.start);
      pieces.push({ position: addOffset(targetOffset, done), length: to - from, source: extent?.source ?? null, offset });
      done += to - from;
    });
  }
  // Inline bytes are written afterwards. Until then the target keeps what it has there, so that a crash leaves no zeros in their place.
  const shared = pieces.filter((piece) => piece.source?.kind !== "inline");
  const last = shared.at(-1);
  const changed = new Map<number, StoredMap>();
  if (last !== undefined)
    await changeInode(namespace, target, async () => {
      changed.clear();
      await loadRegions(namespace, target, targetOffset, count);
      for (const piece of shared) layPiece(target, changed, piece);
      let { allocated } = target.stored;
      const puts: PlainPut[] = [];
      const generation = nextGeneration(target.stored.generation);
      for (const [region, map] of changed) {
        allocated += map.coveredBytes - target.content.storedRegion(region).coveredBytes;
        puts.push(regionPut(target, region, map, generation));
      }
      const time = now();
      const attributes = applyPending(target.stored, { mtime: time, ctime: time });
      attributes.mode = modeAfterWrite(attributes, caller);
      attributes.generation = generation;
      attributes.regionGenerations = withGenerations(attributes.regionGenerations, changed.keys(), generation);
      attributes.size = maxOffset(attributes.size, addOffset(last.position, last.length));
      return { attributes: { ...attributes, allocated }, puts };
    });
  target.content.replaceStored(changed);
  const inline = pieces.flatMap(({ position, length: bytes, source: from, offset }) =>
    from?.kind === "inline" ? [{ offset: position, data: from.data.subarray(offset, offset + bytes) }] : [],
  );
  return { length: count, inline };
}

function layPiece(
  target: Inode,
  changed: Map<number, StoredMap>,
  piece: { position: Offset; length: number; source: StoredSource | null; offset: number },
): void {
  let { offset } = piece;
  for (const { region, start, end } of regionSpans(piece.position, piece.length)) {
    let map = changed.get(region);
    if (map === undefined) {
      map = target.content.storedRegion(region).clone();
      changed.set(region, map);
    }
    if (piece.source?.kind === "chunk") map.set(start, end, piece.source, offset);
    else map.clear(start, end);
    offset += end - start;
  }
}
