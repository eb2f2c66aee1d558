/** How the node divides the files that it may have open among shards, chunks and connections. */
import { DESCRIPTORS_PER_SHARD } from "./engines/sqlite.ts";

export interface DescriptorBudget {
  /** Namespaces that are open at a time. */
  readonly shards: number;
  /** Chunk files that are kept open for reading, of all tenants. */
  readonly chunkFiles: number;
  readonly connections: number;
}

/** The program itself, its logs and databases, and chunks that are being written. */
const RESERVED = 64;
/** Fewer than this is not enough to serve anybody: a namespace, a client with its connections, and some chunks. */
const OPEN_FILES_MIN = 128;
/** An open shard has a page cache of up to 32 MiB: more of them would fill the memory first. */
const SHARDS_MAX = 256;
/** Twice as many descriptors where they are read past the page cache. */
const CHUNK_FILES_MAX = 1_024;

/** @throws Error, one line: the limit is too low to serve anybody */
export function divideDescriptors(limit: number): DescriptorBudget {
  if (limit < OPEN_FILES_MIN)
    throw new Error(`this process may open ${limit} files (ulimit -n), and a storage node needs ${OPEN_FILES_MIN} at least`);
  const free = limit - RESERVED;
  const shards = Math.min(SHARDS_MAX, Math.max(2, Math.floor((0.35 * free) / DESCRIPTORS_PER_SHARD)));
  const chunkFiles = Math.min(CHUNK_FILES_MAX, Math.max(8, Math.floor((0.2 * free) / 2)));
  return { shards, chunkFiles, connections: free - shards * DESCRIPTORS_PER_SHARD - 2 * chunkFiles };
}
