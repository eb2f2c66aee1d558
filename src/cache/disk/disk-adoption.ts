/** Takes over the chunk files that another process left in a pool: those that are whole and what their names say. The others are destroyed. */
import { lstatSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { CHUNK_ID_BYTES, CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import type { ChunkIndex } from "../index/chunk-index.ts";
import type { Pool } from "../pool/pool.ts";
import { TRAILER_BYTES } from "./chunk-trailer.ts";
import type { DiskWriter } from "./disk-writer.ts";

const NAME = /^[0-9a-f]{64}$/;
const STAT_BLOCK_BYTES = 512;

export interface Adoption {
  readonly chunks: number;
  /** Files that were destroyed, as they were no whole chunks. */
  readonly refused: number;
}

/** Reads every file: at the disk's speed. @throws DiskError, a system error: what was taken over until then stays */
export async function adoptChunks(pool: Pool, index: ChunkIndex, writer: DiskWriter): Promise<Adoption> {
  let chunks = 0;
  let refused = 0;
  const root = pool.chunksPath;
  for (const folder of (await readdir(root)).sort()) {
    for (const name of await readdir(join(root, folder))) {
      const path = join(root, folder, name);
      if (await adoptChunk(path, name, index, writer)) {
        chunks++;
        continue;
      }
      refused++;
      const { blocks } = lstatSync(path);
      await writer.destroy(path);
      pool.space.release(blocks * STAT_BLOCK_BYTES);
    }
  }
  return { chunks, refused };
}

async function adoptChunk(path: string, name: string, index: ChunkIndex, writer: DiskWriter): Promise<boolean> {
  const stat = lstatSync(path);
  const bytes = stat.size - TRAILER_BYTES;
  if (!NAME.test(name) || !stat.isFile() || bytes < 1 || bytes > CHUNK_MAX_BYTES) return false;
  const id = Uint8Array.fromHex(name);
  if (id.length !== CHUNK_ID_BYTES || index.find(id) >= 0) return false;
  const crcs = await writer.verify({ path, id, chunkBytes: bytes }).catch(() => null);
  if (crcs === null) return false;
  const slot = index.add(id, bytes);
  index.setBlocks(slot, 0, crcs);
  return true;
}
