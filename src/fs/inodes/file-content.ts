/**
 * A file's bytes as this client knows them, in three layers, the upper hiding the lower: what was written since the last write-out
 * began (active), what the running write-out is committing (frozen), and what is stored.
 */
import type { BlockArena } from "../../cache/memory/block-arena.ts";
import { CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import { addOffset, maxOffset, offsetInRegion, REGION_BYTES, regionOf, regionSpans, withinRegion } from "../posix/offsets.ts";
import type { Offset } from "../posix/vfs.ts";
import { inlineBytes, type StoredMap } from "../records/composition.ts";
import { type Extent, ExtentMap } from "../records/extent-map.ts";
import type { StoredRegion } from "../shard/shard.ts";
import { Segment, type Source } from "./segment.ts";

/** A run that begins inside a 4 MiB window of the file ends with it once it has this many bytes, so that later chunks are aligned. */
const ALIGN_AFTER_BYTES = CHUNK_MAX_BYTES / 4;

/** Dirty bytes: where they belong, and the segments that hold them. */
export class DirtyLayer {
  readonly regions = new Map<number, ExtentMap<Source>>();
  readonly segments = new Set<Segment>();
  /** The last one, while it has room. */
  open: Segment | null = null;
  /** Where the open segment's run goes on, if it is one. */
  runEnd: Offset = 0;
  bytes = 0;
  /** Each may add extents to a region's record. */
  writes = 0;
  /** One past the last dirty byte of the file. */
  end: Offset = 0;
  /** Bytes from here on were appended by O_APPEND handles: they belong at the file's end, wherever that is when they are committed. */
  appendFrom: Offset | null = null;
  /** Ranges that a write-out has copied here from what is stored: right only while nobody else changes the file. */
  copied: { region: number; start: number; end: number }[] = [];

  get isEmpty(): boolean {
    return this.segments.size === 0;
  }
}

/** Counts what the stored maps of all files of a namespace take, inline data included. */
export interface ContentMemory {
  bytes: number;
}

/** A map's extents (objects of some 80 bytes) and the data that stands in it. */
function weightOf(map: StoredMap): number {
  return map.extents.length * 80 + inlineBytes(map);
}

export class FileContent {
  readonly #memory: ContentMemory;
  /** No region is stored but those that are known: for a file that was made or emptied here. */
  allRegionsKnown = false;
  readonly #stored = new Map<number, StoredMap>();
  #active = new DirtyLayer();
  #frozen: DirtyLayer | null = null;
  /** Rises when stored regions are replaced or forgotten: answers to older questions are out of date. */
  changes = 0;
  /** performance.now() when the oldest byte of the active layer was written. */
  dirtySinceMs = 0;

  constructor(memory: ContentMemory) {
    this.#memory = memory;
  }

  get isDirty(): boolean {
    return !this.#active.isEmpty || this.#frozen !== null;
  }

  get active(): DirtyLayer {
    return this.#active;
  }

  get frozen(): DirtyLayer | null {
    return this.#frozen;
  }

  /** Some of the dirty bytes are at the node already, in chunks that no record names yet. */
  get hasSent(): boolean {
    for (const layer of [this.#active, this.#frozen]) for (const { stored } of layer?.segments ?? []) if (stored !== null) return true;
    return false;
  }

  get dirtyBytes(): number {
    return this.#active.bytes + (this.#frozen?.bytes ?? 0);
  }

  /** Dirty bytes that lie where nothing is stored, as far as is known: what the next write-out adds to the file's allocation. */
  get newBytes(): number {
    let sum = 0;
    for (const region of new Set([...this.#active.regions.keys(), ...(this.#frozen?.regions.keys() ?? [])])) {
      const layers = [this.#active.regions.get(region), this.#frozen?.regions.get(region)].filter((layer) => layer !== undefined);
      const stored = this.storedRegion(region);
      visitLayers(layers, 0, 0, REGION_BYTES, (start, end, dirty) => {
        if (dirty === null) return;
        stored.visit(start, end, (from, to, extent) => {
          if (extent === null) sum += to - from;
        });
      });
    }
    return sum;
  }

  /** Writes that made what is dirty. */
  get dirtyWrites(): number {
    return this.#active.writes + (this.#frozen?.writes ?? 0);
  }

  // ---- stored ----

  isRegionKnown(region: number): boolean {
    return this.allRegionsKnown || this.#stored.has(region);
  }

  /** The stored map of a known region; shared, not to be changed. */
  storedRegion(region: number): StoredMap {
    return this.#stored.get(region) ?? EMPTY;
  }

  adoptStored(region: number, { map }: Pick<StoredRegion, "map">): void {
    this.#store(region, map);
  }

  #store(region: number, map: StoredMap): void {
    this.#drop(region);
    this.#stored.set(region, map);
    this.#memory.bytes += weightOf(map);
  }

  #drop(region: number): void {
    const map = this.#stored.get(region);
    if (map === undefined) return;
    this.#memory.bytes -= weightOf(map);
    this.#stored.delete(region);
  }

  /** This client has committed new maps of these regions. */
  replaceStored(stored: ReadonlyMap<number, StoredMap>): void {
    this.changes++;
    for (const [region, map] of stored) this.#store(region, map);
  }

  /** Another mount changed the content. */
  forgetStored(): void {
    this.changes++;
    for (const region of [...this.#stored.keys()]) this.#drop(region);
    this.allRegionsKnown = false;
  }

  /** Every stored region from `region` on is gone. */
  dropStoredFrom(region: number): void {
    this.changes++;
    for (const known of this.#stored.keys()) if (known >= region) this.#drop(known);
  }

  // ---- reading ----

  /** Visits bytes [start, end) of a known region in order, each piece with the extent of the uppermost layer that has it. */
  visit(region: number, start: number, end: number, visitor: (start: number, end: number, extent: Extent<Source> | null) => void): void {
    const active = this.#active.regions.get(region);
    const frozen = this.#frozen?.regions.get(region);
    const stored: ExtentMap<Source> | undefined = this.#stored.get(region) as ExtentMap<Source> | undefined;
    const layers = [active, frozen, stored].filter((layer) => layer !== undefined);
    visitLayers(layers, 0, start, end, visitor);
  }

  /** Whether the dirty layers alone answer for [start, end). */
  isDirtyThroughout(region: number, start: number, end: number): boolean {
    let whole = true;
    const layers = [this.#active.regions.get(region), this.#frozen?.regions.get(region)].filter((layer) => layer !== undefined);
    visitLayers(layers, 0, start, end, (_from, _to, extent) => {
      if (extent === null) whole = false;
    });
    return whole;
  }

  // ---- writing ----

  /**
   * Takes over written bytes. `cells` are pinned cells for as many bytes; those that are not needed stay in the array.
   * Returns the one-run segments that are complete and can be sent already.
   */
  write(offset: Offset, data: Uint8Array, cells: number[], arena: BlockArena): Segment[] {
    const complete: Segment[] = [];
    if (this.#active.isEmpty) this.dirtySinceMs = performance.now();
    this.#active.writes++;
    let done = 0;
    for (const { region, start, end } of regionSpans(offset, data.length)) {
      const map = mapOf(this.#active, region);
      const bytes = data.subarray(done, done + (end - start));
      done += end - start;
      if (start >= map.end) {
        this.#append(map, region, start, bytes, cells, arena, complete);
        continue;
      }
      const pieces: { from: number; to: number; extent: Extent<Source> | null }[] = [];
      map.visit(start, end, (from, to, extent) => pieces.push({ from, to, extent }));
      for (const { from, to, extent } of pieces) {
        const part = bytes.subarray(from - start, to - start);
        if (extent?.source.kind === "segment" && extent.source.isMutable) {
          extent.source.overwrite(extent.offset + (from - extent.start), part);
        } else {
          this.#append(map, region, from, part, cells, arena, complete);
        }
      }
    }
    this.#active.end = maxOffset(this.#active.end, addOffset(offset, data.length));
    return complete;
  }

  #append(
    map: ExtentMap<Source>,
    region: number,
    start: number,
    bytes: Uint8Array,
    cells: number[],
    arena: BlockArena,
    complete: Segment[],
  ): void {
    const layer = this.#active;
    for (let done = 0; done < bytes.length; ) {
      let segment = layer.open;
      if (segment === null || !segment.isMutable) {
        segment = new Segment(arena);
        layer.open = segment;
        layer.segments.add(segment);
      }
      const position = offsetInRegion(region, start + done);
      if (segment.length > 0 && layer.runEnd !== position) segment.isOneRun = false;
      let count = Math.min(bytes.length - done, segment.roomBytes);
      const toBoundary = CHUNK_MAX_BYTES - ((start + done) % CHUNK_MAX_BYTES);
      const endsAtBoundary = segment.isOneRun && count >= toBoundary && segment.length + toBoundary >= ALIGN_AFTER_BYTES;
      if (endsAtBoundary) count = toBoundary;
      const needed = segment.cellsNeeded(count);
      segment.addCells(cells.splice(cells.length - needed, needed));
      const at = segment.append(bytes.subarray(done, done + count));
      map.set(start + done, start + done + count, segment, at);
      layer.runEnd = addOffset(position, count);
      layer.bytes += count;
      done += count;
      if (segment.roomBytes === 0 || endsAtBoundary) {
        layer.open = null;
        if (segment.isOneRun) complete.push(segment);
      }
    }
  }

  /** Where the bytes begin that were appended here and are not committed; null: none. */
  get appendedFrom(): Offset | null {
    return this.#frozen?.appendFrom ?? this.#active.appendFrom;
  }

  /** Where the next appended byte follows those that are not committed; null: there are none. */
  get appendedEnd(): Offset | null {
    return this.appendedFrom === null ? null : maxOffset(this.#frozen?.end ?? 0, this.#active.end);
  }

  /** Takes back what the running write-out has copied from what was stored: another mount may have changed it. */
  dropCopied(): void {
    const layer = this.#frozen;
    if (layer === null) return;
    for (const { region, start, end } of layer.copied) layer.regions.get(region)?.clear(start, end);
    layer.copied = [];
  }

  /** Another mount has appended `bytes` bytes before ours: moves what was appended here behind them. */
  moveAppended(bytes: number): void {
    for (const layer of [this.#frozen, this.#active]) {
      if (layer?.appendFrom == null) continue;
      const from = layer.appendFrom;
      const moved: { position: Offset; extent: Extent<Source> }[] = [];
      for (const [region, map] of layer.regions) {
        const start = region > regionOf(from) ? 0 : region === regionOf(from) ? withinRegion(from) : REGION_BYTES;
        map.visit(start, REGION_BYTES, (pieceStart, pieceEnd, extent) => {
          if (extent === null) return;
          const offset = extent.offset + (pieceStart - extent.start);
          const piece = { start: pieceStart, end: pieceEnd, source: extent.source, offset };
          moved.push({ position: addOffset(offsetInRegion(region, pieceStart), bytes), extent: piece });
        });
        map.clear(start, REGION_BYTES);
      }
      for (const { position, extent } of moved) {
        let offset = extent.offset;
        for (const { region, start, end } of regionSpans(position, extent.end - extent.start)) {
          mapOf(layer, region).set(start, end, extent.source, offset);
          offset += end - start;
        }
      }
      layer.appendFrom = addOffset(from, bytes);
      layer.end = addOffset(layer.end, bytes);
      layer.open = null;
    }
  }

  /** Begins a write-out: what was written so far is frozen. Throws when one is running. */
  freeze(): DirtyLayer {
    if (this.#frozen !== null) throw new Error("content: a write-out is running already");
    const layer = this.#active;
    layer.open = null;
    this.#frozen = layer;
    this.#active = new DirtyLayer();
    return layer;
  }

  /** The write-out is committed: replaceStored() has had its regions. */
  commitFrozen(): void {
    this.#frozen = null;
  }

  /** The write-out failed: what it froze is dirty again, below what was written since. */
  thaw(): void {
    this.dropCopied();
    const lower = this.#frozen;
    if (lower === null) return;
    const upper = this.#active;
    for (const [region, map] of upper.regions) {
      const below = lower.regions.get(region);
      if (below === undefined) lower.regions.set(region, map);
      else below.overlay(map);
    }
    for (const segment of upper.segments) lower.segments.add(segment);
    lower.open = upper.open;
    lower.runEnd = upper.runEnd;
    lower.bytes += upper.bytes;
    lower.writes += upper.writes;
    lower.end = maxOffset(lower.end, upper.end);
    lower.appendFrom ??= upper.appendFrom;
    this.#active = lower;
    this.#frozen = null;
  }

  /** Gives up every dirty byte (the file is gone). Returns the segments, whose cells the caller releases. */
  discardDirty(): Segment[] {
    const segments = [...this.#active.segments, ...(this.#frozen?.segments ?? [])];
    this.#active = new DirtyLayer();
    this.#frozen = null;
    return segments;
  }

  /** Cuts dirty bytes from `size` on. No write-out may be running. */
  truncateDirty(size: Offset): void {
    const region = regionOf(size);
    const layer = this.#active;
    for (const [known, map] of layer.regions) {
      if (known > region) layer.regions.delete(known);
      else if (known === region) map.clear(withinRegion(size), REGION_BYTES);
    }
    layer.open = null;
    if (layer.end > size) layer.end = size;
  }

  /** Makes dirty bytes of a region a hole again. No write-out may be running. */
  clearDirty(region: number, start: number, end: number): void {
    this.#active.regions.get(region)?.clear(start, end);
    this.#active.open = null;
  }
}

const EMPTY: StoredMap = new ExtentMap();

function mapOf(layer: DirtyLayer, region: number): ExtentMap<Source> {
  let map = layer.regions.get(region);
  if (map === undefined) {
    map = new ExtentMap();
    layer.regions.set(region, map);
  }
  return map;
}

function visitLayers(
  layers: readonly ExtentMap<Source>[],
  depth: number,
  start: number,
  end: number,
  visitor: (start: number, end: number, extent: Extent<Source> | null) => void,
): void {
  const layer = layers[depth];
  if (layer === undefined) {
    visitor(start, end, null);
    return;
  }
  if (depth === layers.length - 1) {
    layer.visit(start, end, visitor);
    return;
  }
  layer.visit(start, end, (from, to, extent) => {
    if (extent === null) visitLayers(layers, depth + 1, from, to, visitor);
    else visitor(from, to, extent);
  });
}
