/** The trailer of a chunk file: u32 LE, the CRC32 of the chunk's id and then its data. */
import { blockBytes } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES } from "../../protocol/limits.ts";
import { combineCrc32, shiftOf } from "./crc32-combine.ts";

export const TRAILER_BYTES = 4;
const BLOCK_SHIFT = shiftOf(BLOCK_BYTES);

/** The CRC32 in the trailer, from that of each block. */
export function chunkCrc32(id: Uint8Array, chunkBytes: number, blockCrcs: readonly number[]): number {
  let crc: number = Bun.hash.crc32(id);
  for (const [block, blockCrc] of blockCrcs.entries()) {
    const length = blockBytes(chunkBytes, block);
    crc = combineCrc32(crc, blockCrc, length === BLOCK_BYTES ? BLOCK_SHIFT : shiftOf(length));
  }
  return crc;
}
