/** How a file's data is kept when it is staged: in its records, as one image, or as the chunks that it is made of. Pure. */
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import { offsetInRegion } from "../fs/posix/offsets.ts";
import type { Offset } from "../fs/posix/vfs.ts";
import type { ChunkSource, StoredMap } from "../fs/records/composition.ts";
import { BLOCK_BYTES } from "../protocol/limits.ts";
import { DataKind } from "./manifest.ts";

/** Largest file that is made an image: positions in it are exact numbers, and its CRC table is 64 MiB. */
const IMAGE_MAX_BYTES = 2 ** 40;

/** A chunk that stands whole in a file. */
export interface PlacedChunk {
  readonly ref: ChunkRef;
  readonly key: string;
  /** Of the file, where the chunk begins: a multiple of BLOCK_BYTES. */
  readonly start: number;
}

export interface FileLayout {
  readonly kind: (typeof DataKind)["none" | "inline" | "image" | "chunks"];
  /** Of data: holes don't count. */
  readonly dataBytes: number;
  /** Of an image: in order. Of chunks: each once, `start` means nothing. */
  readonly chunks: readonly PlacedChunk[];
}

/**
 * An image can be cut into the blocks of its chunks when each begins at a block of the file and fills its blocks, but for the last one of the
 * file; other files, made by small writes, say, keep their chunks.
 */
export function layoutOf(size: Offset, regions: readonly { region: number; map: StoredMap }[]): FileLayout {
  let dataBytes = 0;
  let inline = false;
  let fits = typeof size === "number" && size <= IMAGE_MAX_BYTES;
  const placed: PlacedChunk[] = [];
  const chunks = new Map<string, PlacedChunk>();
  for (const { region, map } of regions) {
    for (const { start, end, source, offset } of map.extents) {
      dataBytes += end - start;
      if (source.kind === "inline") {
        inline = true;
        continue;
      }
      const position = offsetInRegion(region, start);
      const last = offsetInRegion(region, end);
      chunks.set(source.key, chunkAt(source, 0));
      const wholeBlocks = (end - start) % BLOCK_BYTES === 0 || last === size;
      fits &&=
        typeof position === "number" && position % BLOCK_BYTES === 0 && offset === 0 && end - start === source.ref.bytes && wholeBlocks;
      if (fits) placed.push(chunkAt(source, position as number));
    }
  }
  if (chunks.size === 0) return { kind: dataBytes === 0 ? DataKind.none : DataKind.inline, dataBytes, chunks: [] };
  if (fits && !inline) return { kind: DataKind.image, dataBytes, chunks: placed };
  return { kind: DataKind.chunks, dataBytes, chunks: [...chunks.values()] };
}

function chunkAt({ ref, key }: ChunkSource, start: number): PlacedChunk {
  return { ref, key, start };
}
