/** Staged files that stand whole in the pool, and which chunks can be read from them. Memory only. */
import { blockBytes, blockCount } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import type { ChunkIndex } from "../index/chunk-index.ts";
import type { StagedImageFile } from "./staging-disk.ts";

interface Image {
  readonly file: StagedImageFile;
  readers: number;
  /** Nobody may begin to read it. */
  onUnused: (() => void) | null;
}

export class DiskImages {
  readonly #index: ChunkIndex;
  readonly #images = new Map<number, Image>();
  readonly #chunkMaps = new WeakMap<StagedImageFile, Map<string, StagedImageFile["chunks"][number]>>();
  #lastNumber = 0;

  constructor(index: ChunkIndex) {
    this.#index = index;
  }

  /**
   * From now on the chunks are read from the image, but those that stand in another one, or where `keep` says so.
   * @param replace is asked for each chunk that has a file of its own: false keeps it, true says that it is gone from the index now
   */
  add(file: StagedImageFile, replace: (slot: number) => boolean): number {
    const number = ++this.#lastNumber;
    this.#images.set(number, { file, readers: 0, onUnused: null });
    for (const chunk of file.chunks) {
      const slot = this.#index.find(chunk.ref.id);
      if (slot >= 0 && (this.#index.place(slot).image !== 0 || !replace(slot))) continue;
      this.#place(number, file, chunk);
    }
    return number;
  }

  #place(number: number, file: StagedImageFile, { ref, firstBlock }: StagedImageFile["chunks"][number]): void {
    const blocks = blockCount(ref.bytes);
    const end = (firstBlock + blocks - 1) * BLOCK_BYTES + blockBytes(ref.bytes, blocks - 1);
    // Otherwise the image's checksums would not be those of the chunk's blocks.
    if (end !== file.bytes && (end > file.bytes || end % BLOCK_BYTES !== 0)) {
      throw new RangeError(`image ${file.path}: a chunk ends at ${end}, in the middle of a block`);
    }
    const slot = this.#index.add(ref.id, ref.bytes);
    this.#index.setPlace(slot, number, firstBlock);
    this.#index.setPinned(slot, true);
    this.#index.setBlocks(slot, 0, file.crcs.slice(firstBlock, firstBlock + blocks));
  }

  /** The file's path, for a reader, who calls release(). Null: it is not to be read any more. */
  acquire(number: number): string | null {
    const image = this.#images.get(number);
    if (image === undefined || image.onUnused !== null) return null;
    image.readers++;
    return image.file.path;
  }

  release(number: number): void {
    const image = this.#images.get(number);
    if (image === undefined) return;
    image.readers--;
    if (image.readers === 0) image.onUnused?.();
  }

  /** Resolves when nobody reads it. Its chunks are then read from other images that have them, or are not there. */
  async drop(number: number): Promise<void> {
    const image = this.#images.get(number);
    if (image === undefined) return;
    const unused = Promise.withResolvers<void>();
    image.onUnused = unused.resolve;
    for (const { ref } of image.file.chunks) {
      const slot = this.#index.find(ref.id);
      if (slot < 0 || this.#index.place(slot).image !== number) continue;
      this.#index.remove(slot);
      this.#placeElsewhere(number, ref.id);
    }
    if (image.readers > 0) await unused.promise;
    this.#images.delete(number);
  }

  /** Forgets all images: nobody reads one, and the index has nothing of them. */
  clear(): void {
    this.#images.clear();
  }

  #placeElsewhere(dropped: number, id: Uint8Array): void {
    const key = latin1(id);
    for (const [number, { file, onUnused }] of this.#images) {
      if (number === dropped || onUnused !== null) continue;
      const chunk = this.#chunksOf(file).get(key);
      if (chunk === undefined) continue;
      this.#place(number, file, chunk);
      return;
    }
  }

  /** Made when first needed: few images are dropped while others are kept that have the same chunks. */
  #chunksOf(file: StagedImageFile): Map<string, StagedImageFile["chunks"][number]> {
    let map = this.#chunkMaps.get(file);
    if (map === undefined) {
      map = new Map(file.chunks.map((chunk) => [latin1(chunk.ref.id), chunk]));
      this.#chunkMaps.set(file, map);
    }
    return map;
  }
}

function latin1(id: Uint8Array): string {
  return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString("latin1");
}
