/**
 * What a file, folder or symbolic link is, whatever number a node has it under: 128 random bits, made by the client that makes it. It stands
 * sealed in each entry that names it, and is part of what every record of it is bound to.
 */
import { randomFillSync } from "node:crypto";

export const FILE_ID_BYTES = 16;

/** FILE_ID_BYTES characters, one for each byte (latin1): compared, kept and used as a key at the cost of a short string. */
export type FileId = string;

/** One system call for so many ids. */
const IDS_PER_FILL = 256;
const pool = Buffer.alloc(FILE_ID_BYTES * IDS_PER_FILL);
let used = pool.length;

export function newFileId(): FileId {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const id = pool.toString("latin1", used, used + FILE_ID_BYTES);
  used += FILE_ID_BYTES;
  return id;
}

/** 31 bits of an id, never 0: what NFS and open_by_handle_at(2) call the generation of an inode number. */
export function fileIdTag(id: FileId): number {
  const tag = id.charCodeAt(0) | (id.charCodeAt(1) << 8) | (id.charCodeAt(2) << 16) | ((id.charCodeAt(3) & 0x7f) << 24);
  return tag === 0 ? 1 : tag;
}

/** The sum of two 16-byte hashes (XOR): the order of adding makes no difference, and adding twice takes away. */
export function sumHashes(a: string, b: string): string {
  const sum = Buffer.from(a, "latin1");
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) ^ b.charCodeAt(i);
  return sum.toString("latin1");
}
