/**
 * The images in a pool: `files/<ino>-<version>` for namespace "default", `files/<namespace>/<ino>-<version>` for others. Each belongs to
 * the datasets that hold the file; it goes, overwritten with zeros, with the last of them.
 */
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import type { StagingDisk } from "../cache/disk/staging-disk.ts";
import { ImageFile } from "../cache/images/image-file.ts";
import type { BlockArena } from "../cache/memory/block-arena.ts";
import { bytesOnDisk, type Space } from "../cache/pool/space.ts";
import { zeroizeFiles } from "../cache/pool/zeroize.ts";
import { BLOCK_BYTES } from "../protocol/limits.ts";
import { imageBlocks, readTable, tablePath, tableSum, verifiedBlocks, writeTable } from "./image-io.ts";
import type { PlacedChunk } from "./layout.ts";
import type { InodeRow } from "./manifest.ts";

/** The namespace whose images stand in `files/` itself. */
const FIRST_NAMESPACE = "default";
/** Cells that one verification reads into: 1 MiB at a time. */
const VERIFY_CELLS = 16;
/** st_blocks counts in these, stat(2). */
const STAT_BLOCK_BYTES = 512;

/** A whole image, registered with L2. */
export interface Image {
  readonly path: string;
  readonly file: ImageFile;
  readonly crcs: Uint32Array;
  readonly chunks: readonly PlacedChunk[];
  readonly diskBytes: number;
  /** In L2; 0: not (any more). */
  number: number;
  /** Read through and found right in this process: it may be opened past us. */
  verified: boolean;
  /** Ids of the datasets that hold it. */
  readonly users: Set<string>;
}

export interface ImagesOptions {
  /** The pool's `files/`. */
  readonly path: string;
  readonly space: Space;
  readonly disk: StagingDisk;
  readonly arena: BlockArena;
}

/** Bytes of the disk that an image and its table take up. */
export function imageDiskBytes(dataBytes: number, bytes: number): number {
  return bytesOnDisk(dataBytes) + bytesOnDisk(imageBlocks(bytes) * 4);
}

export class Images {
  readonly #options: ImagesOptions;
  readonly #images = new Map<string, Image>();
  /** Images that hold a chunk: equal content is one chunk, in however many files. */
  readonly #holders = new Map<string, number>();
  /** Ends when what was dropped is off the disk. */
  readonly #leaving = new Set<Promise<void>>();
  /** The same for those that programs still have open. */
  readonly #inUse = new Set<Promise<void>>();
  readonly #leavingPaths = new Set<string>();

  constructor(options: ImagesOptions) {
    this.#options = options;
  }

  pathOf(namespace: string, ino: number, imageVersion: number): string {
    const folder = namespace === FIRST_NAMESPACE ? this.#options.path : join(this.#options.path, namespace);
    return join(folder, `${ino}-${imageVersion}`);
  }

  find(namespace: string, { ino, imageVersion }: Pick<InodeRow, "ino" | "imageVersion">): Image | undefined {
    return this.#images.get(this.pathOf(namespace, ino, imageVersion));
  }

  get all(): Iterable<Image> {
    return this.#images.values();
  }

  /** Makes the folder that an image stands in. */
  makeFolder(namespace: string): void {
    mkdirSync(dirname(this.pathOf(namespace, 1, 1)), { recursive: true, mode: 0o700 });
  }

  /** Takes an image in that has just been written whole, or that an earlier process left. */
  add(path: string, bytes: number, crcs: Uint32Array, chunks: readonly PlacedChunk[], diskBytes: number, verified: boolean): Image {
    const placed = chunks.map(({ ref, start }) => ({ ref, firstBlock: start / BLOCK_BYTES }));
    const number = this.#options.disk.addImage({ path, bytes, crcs, chunks: placed });
    const image: Image = { path, file: new ImageFile(path, bytes), crcs, chunks, diskBytes, number, verified, users: new Set() };
    this.#images.set(path, image);
    for (const { key } of chunks) this.#holders.set(key, (this.#holders.get(key) ?? 0) + 1);
    return image;
  }

  /** The table of an image, if it is the one that `sum` is of. */
  table(path: string, bytes: number, sum: number): Uint32Array | null {
    const crcs = readTable(tablePath(path));
    return crcs.length === imageBlocks(bytes) && tableSum(crcs) === sum ? crcs : null;
  }

  writeTable(path: string, crcs: Uint32Array): void {
    writeTable(tablePath(path), crcs);
  }

  /** How many blocks of what stands at `path` are right, from the first on. */
  async verifiedBlocks(path: string, bytes: number, crcs: Uint32Array): Promise<number> {
    const { arena } = this.#options;
    const cells = await arena.take(Math.max(1, Math.min(VERIFY_CELLS, crcs.length)));
    try {
      return await verifiedBlocks(
        path,
        bytes,
        crcs,
        cells.map((cell) => arena.bytes(cell)),
      );
    } catch {
      return 0;
    } finally {
      arena.unpinAll(cells);
    }
  }

  use(image: Image, dataset: string): void {
    image.users.add(dataset);
  }

  /** A dataset does not need the image any more. Resolves to the bytes that are freed by it; their overwriting goes on. */
  drop(image: Image, dataset: string): number {
    image.users.delete(dataset);
    return image.users.size > 0 ? 0 : this.remove(image);
  }

  /** The image goes, whoever uses it: it is damaged, or the last dataset has let go of it. */
  remove(image: Image): number {
    if (this.#images.get(image.path) !== image) return 0;
    this.#images.delete(image.path);
    this.#leavingPaths.add(image.path);
    const leaving: Promise<void> = this.#destroy(image).finally(() => this.#leaving.delete(leaving));
    this.#leaving.add(leaving);
    return image.diskBytes;
  }

  async #destroy(image: Image): Promise<void> {
    const { disk } = this.#options;
    const { number } = image;
    image.number = 0;
    if (number > 0) await disk.dropImage(number);
    // Chunks that stand in another image too are read from there.
    const shared = this.#letGo(image);
    if (shared.size > 0) {
      for (const other of [...this.#images.values()]) if (other.chunks.some(({ key }) => shared.has(key))) await this.#addAgain(other);
    }
    // Who has it open through the kernel reads it past us: zeros would be wrong bytes.
    if (image.file.isUnused) return await this.#destroyUnused(image);
    const unused: Promise<void> = image.file
      .whenUnused()
      .then(() => this.#destroyUnused(image))
      .finally(() => this.#inUse.delete(unused));
    this.#inUse.add(unused);
  }

  async #destroyUnused(image: Image): Promise<void> {
    await this.#zeroize(image.path);
    this.#options.space.release(image.diskBytes);
    this.#leavingPaths.delete(image.path);
  }

  /** Returns those of its chunks that other images hold too. */
  #letGo({ chunks }: Image): Set<string> {
    const shared = new Set<string>();
    for (const { key } of chunks) {
      const left = (this.#holders.get(key) ?? 1) - 1;
      if (left === 0) this.#holders.delete(key);
      else this.#holders.set(key, left);
    }
    for (const { key } of chunks) if (this.#holders.has(key)) shared.add(key);
    return shared;
  }

  async #addAgain(image: Image): Promise<void> {
    const { disk } = this.#options;
    const { number } = image;
    if (number > 0) await disk.dropImage(number);
    if (this.#images.get(image.path) !== image) return;
    const chunks = image.chunks.map(({ ref, start }) => ({ ref, firstBlock: start / BLOCK_BYTES }));
    image.number = disk.addImage({ path: image.path, bytes: image.file.bytes, crcs: image.crcs, chunks });
  }

  async #zeroize(path: string): Promise<void> {
    const { faults } = await zeroizeFiles([path, tablePath(path)]);
    for (const { reason } of faults) this.#options.disk.onFault("io", `${path}: ${reason}`);
  }

  /** Destroys what stands in `files/` and is neither an image nor at one of these paths. */
  async discardOthers(wanted: ReadonlySet<string>): Promise<void> {
    const { path, space } = this.#options;
    const leaving = new Set(this.#leavingPaths);
    const images = filesBelow(path).map((file) => file.replace(/\.crc$/, ""));
    for (const image of new Set(images)) {
      if (wanted.has(image) || this.#images.has(image) || leaving.has(image)) continue;
      const bytes = this.bytesOnDisk(image);
      await this.#zeroize(image);
      space.release(bytes);
    }
  }

  /** What an image and its table take up now, whole or not. */
  bytesOnDisk(path: string): number {
    return blocksOf(path) + blocksOf(tablePath(path));
  }

  isOnDisk(path: string): boolean {
    return existsSync(path);
  }

  /** The pool was emptied. */
  forgetAll(): void {
    this.#images.clear();
    this.#holders.clear();
  }

  /** Resolves when everything that was dropped before is off the disk; what programs have open through the kernel is waited for so long. */
  async settled(patienceMs: number): Promise<void> {
    await Promise.all(this.#leaving);
    await Promise.race([Promise.all(this.#inUse), Bun.sleep(patienceMs)]);
  }
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function blocksOf(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat === undefined ? 0 : stat.blocks * STAT_BLOCK_BYTES;
}
