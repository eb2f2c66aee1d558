/**
 * Memory for bodies of chunk size, used again and again: 4 MiB from the system cost 1,024 page faults, and more where the system is a
 * virtual machine that gives idle memory back to its host.
 */
import { FRAME_BODY_MAX_BYTES } from "../protocol/limits.ts";

/** Room for a whole sealed chunk and what a store adds to it, in whole pages: such memory can be written with O_DIRECT. */
const BUFFER_BYTES = Math.ceil((FRAME_BODY_MAX_BYTES + 64) / 4_096) * 4_096;
/** Below this the memory of the language runtime does as well. */
const POOLED_MIN_BYTES = 256 * 1024;
/** Free buffers that are kept: 34 MB. */
const FREE_MAX = 8;

const free: ArrayBufferLike[] = [];
/** Those that are lent out; who never gives one back loses it to the collector. */
const lent = new WeakSet<ArrayBufferLike>();

/** `length` bytes (at most FRAME_BODY_MAX_BYTES + 64) of any content. */
export function takeBuffer(length: number): Uint8Array {
  if (length < POOLED_MIN_BYTES || length > BUFFER_BYTES) return Buffer.allocUnsafeSlow(length);
  const memory = free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES).buffer;
  lent.add(memory);
  return Buffer.from(memory, 0, length);
}

/** Nobody reads or writes `bytes`, or any other view of the same memory, after this. Memory of another origin is left alone. */
export function giveBuffer(bytes: Uint8Array): void {
  if (!lent.delete(bytes.buffer)) return;
  if (free.length < FREE_MAX) free.push(bytes.buffer);
}
