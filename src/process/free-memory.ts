/** Smaller ones are not worth the call, and may share their memory with others (Buffer.poolSize is 8 KiB). */
const FREED_MIN_BYTES = 16 * 1024;

/**
 * Gives the memory of `bytes` back at once: they, and all else in the same ArrayBuffer, are gone. For what the runtime hands out in new
 * memory each time: received bytes, a cipher's output. Left to the collector it piles up, as it does not count as the collector's heap,
 * and each new piece is paid for with page faults; freed at once, the next piece gets the same memory, still in the processor's
 * cache. Opening 64 KiB blocks: 2.5 GB/s without this, 5.5 with it.
 */
export function freeMemory(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (bytes.byteLength < FREED_MIN_BYTES || !(buffer instanceof ArrayBuffer)) return;
  // Moves the memory to a new ArrayBuffer of no length: nothing of it is kept.
  buffer.transfer(0);
}
