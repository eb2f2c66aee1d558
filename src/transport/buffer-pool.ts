/**
 * Memory for bodies of block and chunk size, used again and again: 4 MiB from the system cost 1,024 page faults, and more where the system
 * is a virtual machine that gives idle memory back to its host.
 */
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../protocol/limits.ts";

/** Below this the memory of the language runtime does as well. */
const POOLED_MIN_BYTES = 32 * 1024;
const PAGE_BYTES = 4_096;
/** What bodies have beside their blocks: the sealed header, tags, a store's trailer, and a page at either end for reads with O_DIRECT. */
const SPARE_BYTES = 4 * PAGE_BYTES;
/** A block; a quarter, a half and the whole of a chunk; in whole pages, so that such memory can be read and written with O_DIRECT. */
const SIZES_BYTES = [BLOCK_BYTES, CHUNK_MAX_BYTES / 4, CHUNK_MAX_BYTES / 2, CHUNK_MAX_BYTES].map((bytes) => bytes + SPARE_BYTES);
/** Free buffers of each size that are kept: 64 MB of the largest. */
const FREE_MAX = 16;

const free: ArrayBufferLike[][] = SIZES_BYTES.map(() => []);
/** Those that are lent out; who never gives one back loses it to the collector. */
const lent = new WeakSet<ArrayBufferLike>();

/** `length` bytes (at most CHUNK_MAX_BYTES and a few pages) of any content. */
export function takeBuffer(length: number): Uint8Array {
  const size = length < POOLED_MIN_BYTES ? -1 : SIZES_BYTES.findIndex((bytes) => bytes >= length);
  if (size < 0) return Buffer.allocUnsafeSlow(length);
  const memory = free[size]?.pop() ?? Buffer.allocUnsafeSlow(SIZES_BYTES[size] as number).buffer;
  lent.add(memory);
  return Buffer.from(memory, 0, length);
}

/** Nobody reads or writes `bytes`, or any other view of the same memory, after this. Memory of another origin is left alone. */
export function giveBuffer(bytes: Uint8Array): void {
  if (!lent.delete(bytes.buffer)) return;
  const kept = free[SIZES_BYTES.indexOf(bytes.buffer.byteLength)];
  if (kept !== undefined && kept.length < FREE_MAX) kept.push(bytes.buffer);
}
