/** What staging needs of L2 (DiskCache): to be told where the blocks of staged chunks stand, and never to give them up. */
import type { ChunkRef } from "../../crypto/chunk-seal.ts";

/** A file that holds chunks whole, contiguous and at block boundaries. */
export interface StagedImageFile {
  readonly path: string;
  readonly bytes: number;
  /** CRC32 of each block of BLOCK_BYTES. */
  readonly crcs: Uint32Array;
  /** In which block of the image each chunk begins. */
  readonly chunks: readonly { readonly ref: ChunkRef; readonly firstBlock: number }[];
}

export interface StagingDisk {
  /** The blocks are there. */
  has(ref: ChunkRef, first: number, count: number): boolean;
  /** Fills cells; false: a fault, or they are not there. */
  read(ref: ChunkRef, first: number, cells: readonly number[]): Promise<boolean>;
  /** From now on these chunks are read from the image. Returns its number, above 0. */
  addImage(image: StagedImageFile): number;
  /** The image is not to be read any more: resolves when nobody reads it. Its file is the caller's. */
  dropImage(number: number): Promise<void>;
  /** Writes blocks of a chunk of a staged file, which then stay. @throws CacheCapacityExceeded */
  pinChunk(ref: ChunkRef, first: number, cells: readonly number[]): Promise<void>;
  /** Blocks that are there already are to stay. False: they are not all there. */
  pin(ref: ChunkRef): boolean;
  /** Of a staged file that was released: zeroized. */
  unpinChunk(ref: ChunkRef): Promise<void>;
  /** Evicts what is not pinned until so many bytes of the pool's space are free. False: they can't be. */
  makeRoom(bytes: number): Promise<boolean>;
  /** An image was found damaged. */
  onFault(kind: "crc" | "short" | "missing" | "io", detail: string): void;
}
