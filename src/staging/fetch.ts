/**
 * The second half of staging: brings the data of the files that the walk found into the pool, many blocks at a time, straight from the
 * arena's cells to the disk. What comes was opened and verified by who brings it.
 */

import type { StagingDisk } from "../cache/disk/staging-disk.ts";
import { CacheCapacityExceeded } from "../cache/disk/staging-error.ts";
import type { BlockArena } from "../cache/memory/block-arena.ts";
import type { Space } from "../cache/pool/space.ts";
import { blockBytes, blockCount, type ChunkRef } from "../crypto/chunk-seal.ts";
import type { StoredMap } from "../fs/records/composition.ts";
import { NodeError } from "../protocol/errors.ts";
import { BLOCK_BYTES } from "../protocol/limits.ts";
import { regionOfKey, regionPrefix } from "../protocol/record-keys.ts";
import { abortable } from "./abortable.ts";
import type { Canonical } from "./canonical.ts";
import { ImageWriter, imageBlocks, readTable, tablePath, tableSum } from "./image-io.ts";
import { type Images, imageDiskBytes } from "./images.ts";
import { type FileLayout, layoutOf, type PlacedChunk } from "./layout.ts";
import { DataKind, type InodeRow, type Manifest, StageState } from "./manifest.ts";
import { putWhole } from "./put-whole.ts";

/** Blocks asked for at once: 1 MiB, as readers do. */
const RUN_BLOCKS = 16;
/** Cells in use at most: what hides the node's and the disk's time; and at most this part of the arena, for readers go on meanwhile. */
const WINDOW_BLOCKS = 512;
const WINDOW_ARENA_PART = 3;
/** Files under way at a time: small ones are a round trip each. */
const FILES_AT_ONCE = 48;
/** A table is written after so many blocks (256 MiB), so that an interrupted run goes on from there. */
const TABLE_EVERY_BLOCKS = 4_096;
/** A file that changes whenever it is fetched is given up after this many tries. */
const TRIES_MAX = 5;
/** Files whose being there is written into the manifest together. */
const ROWS_AT_ONCE = 16;

export interface FetchOptions {
  readonly canonical: Canonical;
  readonly manifest: Manifest;
  /** Its id. */
  readonly dataset: string;
  readonly images: Images;
  readonly disk: StagingDisk;
  readonly space: Space;
  readonly arena: BlockArena;
  /** Fetches, opens and verifies blocks of a chunk into cells. */
  readonly get: (ref: ChunkRef, first: number, cells: readonly number[]) => Promise<void>;
  readonly signal: AbortSignal;
  readonly onBytes: (bytes: number) => void;
  readonly onFile: (row: InodeRow) => void;
}

/** Blocks that are asked for at once. */
interface Run {
  readonly ref: ChunkRef;
  /** Of the image, where the chunk begins. */
  readonly firstBlock: number;
  /** Of the chunk. */
  readonly block: number;
  readonly length: number;
}

function* runsOf(chunks: readonly PlacedChunk[]): Generator<Run> {
  for (const { ref, start } of chunks) {
    const count = blockCount(ref.bytes);
    for (let block = 0; block < count; block += RUN_BLOCKS) {
      yield { ref, firstBlock: start / BLOCK_BYTES, block, length: Math.min(RUN_BLOCKS, count - block) };
    }
  }
}

export class Fetch {
  readonly #options: FetchOptions;
  readonly #window: number;
  readonly #done: InodeRow[] = [];
  /** Chunks of files without an image that are being brought: a chunk of several files comes once. */
  readonly #pinning = new Map<string, Promise<void>>();
  #issuing: Promise<void> = Promise.resolve();
  #inFlight = 0;
  #wake: (() => void)[] = [];
  #failure: { error: unknown } | null = null;

  constructor(options: FetchOptions) {
    this.#options = options;
    this.#window = Math.max(RUN_BLOCKS, Math.min(WINDOW_BLOCKS, Math.floor(options.arena.cellCount / WINDOW_ARENA_PART)));
  }

  /** Brings all of these files. What was brought when it fails stays. @throws CacheCapacityExceeded; the signal's reason; NodeError, ... */
  async run(rows: readonly InodeRow[]): Promise<void> {
    const running = new Set<Promise<void>>();
    for (const row of rows) {
      if (this.#failure !== null) break;
      const file: Promise<void> = this.#file(row)
        .catch((error) => this.#fail(error))
        .finally(() => running.delete(file));
      running.add(file);
      if (running.size >= FILES_AT_ONCE) await Promise.race(running);
    }
    await Promise.all(running);
    this.#flush();
    if (this.#failure !== null) throw (this.#failure as { error: unknown }).error;
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    for (const wake of this.#wake.splice(0)) wake();
  }

  #check(): void {
    this.#options.signal.throwIfAborted();
    if (this.#failure !== null) throw (this.#failure as { error: unknown }).error;
  }

  async #file(first: InodeRow): Promise<void> {
    const { canonical, manifest } = this.#options;
    let row = first;
    for (let tries = 1; ; tries++) {
      try {
        await this.#bring(row);
        break;
      } catch (error) {
        const changed = error instanceof NodeError && error.code === "not_found";
        if (!changed || tries === TRIES_MAX) throw error;
      }
      // Its chunks are gone: it has been changed since the walk.
      const whole = await canonical.whole(row.ino);
      manifest.transaction(() => manifest.deleteInode(row.ino));
      if (whole === null) return;
      manifest.transaction(() => {
        row = putWhole(manifest, canonical, row.ino, whole, null);
      });
    }
    this.#options.onFile(row);
    this.#done.push({ ...row, state: StageState.staged });
    if (this.#done.length >= ROWS_AT_ONCE) this.#flush();
  }

  #flush(): void {
    const { manifest } = this.#options;
    const rows = this.#done.splice(0);
    if (rows.length === 0) return;
    manifest.transaction(() => {
      for (const { ino } of rows) manifest.setState(ino, StageState.staged);
    });
  }

  async #bring(row: InodeRow): Promise<void> {
    if (row.kind !== DataKind.image && row.kind !== DataKind.chunks) return;
    const layout = this.#layout(row);
    if (row.kind === DataKind.image) await this.#image(row, layout.chunks);
    else await this.#chunks(layout.chunks);
  }

  #layout(row: InodeRow): FileLayout {
    const { canonical, manifest } = this.#options;
    return layoutIn(manifest, canonical, row.ino);
  }

  // ---- images ----

  async #image(row: InodeRow, chunks: readonly PlacedChunk[]): Promise<void> {
    const { canonical, manifest, images, space } = this.#options;
    const { namespace } = manifest.name;
    const known = images.find(namespace, row);
    if (known !== undefined) {
      images.use(known, this.#options.dataset);
      this.#options.onBytes(row.bytes);
      return;
    }
    const bytes = fileSize(manifest, canonical, row.ino);
    const path = images.pathOf(namespace, row.ino, row.imageVersion);
    const diskBytes = imageDiskBytes(row.bytes, bytes);
    // What an interrupted run has written stands in the pool's account already.
    const before = images.bytesOnDisk(path);
    const missing = Math.max(0, diskBytes - before);
    await this.#reserve(missing);
    try {
      const crcs = await this.#writeImage(path, bytes, chunks, before > 0);
      // Read back: what is wrong now would be found out when nobody can be asked any more.
      const right = await images.verifiedBlocks(path, bytes, crcs);
      if (right < crcs.length) throw new Error(`${path}: block ${right} is not what was written: the disk is failing`);
      space.settle(missing);
      manifest.setTableSum(row.ino, tableSum(crcs));
      images.use(images.add(path, bytes, crcs, chunks, diskBytes, true), this.#options.dataset);
    } catch (error) {
      const written = Math.min(Math.max(0, images.bytesOnDisk(path) - before), missing);
      space.settle(written);
      space.cancel(missing - written);
      throw error;
    }
  }

  async #writeImage(path: string, bytes: number, chunks: readonly PlacedChunk[], left: boolean): Promise<Uint32Array> {
    const { images, manifest } = this.#options;
    images.makeFolder(manifest.name.namespace);
    const crcs = new Uint32Array(imageBlocks(bytes));
    const start = left ? await this.#takeUp(path, bytes, crcs) : 0;
    fillHoles(crcs, bytes, chunks);
    using writer = new ImageWriter(path, bytes);
    const tasks = new Set<Promise<void>>();
    let failure: { error: unknown } | null = null;
    const check = (): void => {
      if (failure !== null) throw (failure as { error: unknown }).error;
    };
    const bring = async ({ ref, firstBlock, block, length }: Run): Promise<void> => {
      const cells = await this.#take(length);
      const task: Promise<void> = this.#run(ref, block, cells, async () => {
        const views = cells.map((cell, i) => this.#view(ref, block + i, cell));
        await writer.write(views, (firstBlock + block) * BLOCK_BYTES);
        for (const [i, view] of views.entries()) crcs[firstBlock + block + i] = Bun.hash.crc32(view);
      })
        .catch((error) => {
          failure ??= { error };
        })
        .finally(() => tasks.delete(task));
      tasks.add(task);
    };
    try {
      await this.#inOrder(async () => {
        let sinceTable = 0;
        for (const run of runsOf(chunks)) {
          if (run.firstBlock + run.block + run.length <= start) {
            this.#options.onBytes(runBytes(run.ref, run.block, run.length));
            continue;
          }
          if (sinceTable >= TABLE_EVERY_BLOCKS) {
            // Everything before this is on its way to the disk; the table says so when it is there.
            await Promise.all(tasks);
            check();
            images.writeTable(path, crcs.subarray(0, run.firstBlock + run.block));
            sinceTable = 0;
          }
          check();
          sinceTable += run.length;
          await bring(run);
        }
      });
    } finally {
      await Promise.all(tasks);
    }
    check();
    images.writeTable(path, crcs);
    return crcs;
  }

  /** One file's blocks after the other's: those that are first are whole first, so that an interrupted run has something to keep. */
  async #inOrder<T>(issue: () => Promise<T>): Promise<T> {
    const before = this.#issuing;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#issuing = before.then(() => promise);
    await before;
    try {
      return await issue();
    } finally {
      resolve();
    }
  }

  /** The blocks of an interrupted run that are right: puts their sums into `crcs`. */
  async #takeUp(path: string, bytes: number, crcs: Uint32Array): Promise<number> {
    const table = readTable(tablePath(path));
    if (table.length === 0 || table.length > crcs.length) return 0;
    const right = await this.#options.images.verifiedBlocks(path, bytes, table);
    crcs.set(table.subarray(0, right));
    return right;
  }

  // ---- chunks ----

  async #chunks(chunks: readonly PlacedChunk[]): Promise<void> {
    await Promise.all(
      chunks.map(({ ref, key }) => {
        let pinning = this.#pinning.get(key);
        if (pinning === undefined) {
          pinning = this.#chunk(ref).finally(() => this.#pinning.delete(key));
          this.#pinning.set(key, pinning);
        }
        return pinning;
      }),
    );
  }

  async #chunk(ref: ChunkRef): Promise<void> {
    const { disk } = this.#options;
    const count = blockCount(ref.bytes);
    if (disk.pin(ref)) {
      this.#options.onBytes(ref.bytes);
      return;
    }
    const cells = await this.#inOrder(() => this.#take(count));
    await this.#run(ref, 0, cells, () => disk.pinChunk(ref, 0, cells));
  }

  // ---- memory, and the node ----

  /** Cells, when so many of the window are free. */
  async #take(count: number): Promise<number[]> {
    while (this.#inFlight > 0 && this.#inFlight + count > this.#window) {
      this.#check();
      await abortable(new Promise<void>((resolve) => this.#wake.push(resolve)), this.#options.signal);
    }
    this.#check();
    this.#inFlight += count;
    return await this.#options.arena.take(count);
  }

  /** Brings blocks into the cells, has them kept, and gives the cells back. */
  async #run(ref: ChunkRef, first: number, cells: readonly number[], keep: () => Promise<void>): Promise<void> {
    const { arena, disk, get, onBytes, signal } = this.#options;
    const fetch = async (): Promise<void> => {
      const isThere = disk.has(ref, first, cells.length) && (await disk.read(ref, first, cells));
      if (!isThere) await get(ref, first, cells);
    };
    let busy = Promise.resolve();
    try {
      signal.throwIfAborted();
      busy = fetch();
      await abortable(busy, signal);
      busy = keep();
      await busy;
      onBytes(runBytes(ref, first, cells.length));
    } finally {
      // A request that is given up goes on writing into them.
      const free = (): void => {
        arena.unpinAll(cells);
        this.#inFlight -= cells.length;
        for (const wake of this.#wake.splice(0)) wake();
      };
      busy.then(free, free);
    }
  }

  #view(ref: ChunkRef, block: number, cell: number): Uint8Array {
    const view = this.#options.arena.bytes(cell);
    const bytes = blockBytes(ref.bytes, block);
    return bytes === BLOCK_BYTES ? view : view.subarray(0, bytes);
  }

  async #reserve(bytes: number): Promise<void> {
    const { disk, manifest, space } = this.#options;
    if (await space.reserveSoon(bytes)) return;
    if ((await disk.makeRoom(bytes)) && (await space.reserveSoon(bytes))) return;
    throw new CacheCapacityExceeded(capacityMessage(manifest.name.path, space));
  }
}

export function capacityMessage(path: string, space: Space): string {
  return `${path}: CacheCapacityExceeded: no room for it in the cache, which has ${space.usedBytes} of ${space.maxBytes} bytes in use; release another dataset, or raise cache_l2_max`;
}

/** The layout of a file as a manifest has it. */
export function layoutIn(manifest: Manifest, canonical: Canonical, ino: number): FileLayout {
  const attributes = manifest.attributes(canonical, ino);
  const regions: { region: number; map: StoredMap }[] = [];
  for (const { key, record } of manifest.all(regionPrefix(ino))) {
    const region = regionOfKey(key);
    regions.push({ region, map: canonical.region(ino, attributes, region, record) });
  }
  return layoutOf(attributes.size, regions);
}

function fileSize(manifest: Manifest, canonical: Canonical, ino: number): number {
  return Number(manifest.attributes(canonical, ino).size);
}

function runBytes(ref: ChunkRef, first: number, count: number): number {
  return Math.min(ref.bytes, (first + count) * BLOCK_BYTES) - first * BLOCK_BYTES;
}

/** The sums of blocks that no chunk covers: zeros. */
function fillHoles(crcs: Uint32Array, bytes: number, chunks: readonly PlacedChunk[]): void {
  const zeros = new Uint8Array(BLOCK_BYTES);
  const zeroBlock = Bun.hash.crc32(zeros);
  const fill = (from: number, to: number): void => {
    for (let block = from; block < to; block++) {
      const length = Math.min(BLOCK_BYTES, bytes - block * BLOCK_BYTES);
      crcs[block] = length === BLOCK_BYTES ? zeroBlock : Bun.hash.crc32(zeros.subarray(0, length));
    }
  };
  let next = 0;
  for (const { ref, start } of chunks) {
    fill(next, start / BLOCK_BYTES);
    next = start / BLOCK_BYTES + blockCount(ref.bytes);
  }
  fill(next, crcs.length);
}
