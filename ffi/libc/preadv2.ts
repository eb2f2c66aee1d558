/** Reads what is in the page cache, and nothing else. Needs glibc 2.26 and Linux 4.14; without them it reads nothing. */
import { dlopen, FFIType, ptr } from "bun:ffi";

/** uio.h (linux/fs.h): fail with EAGAIN instead of waiting for the device. */
const RWF_NOWAIT = 0x8;

/** struct iovec: address and length. Held here as long as the process lives. */
const iovec = new BigUint64Array(2);

function load() {
  try {
    return dlopen("libc.so.6", {
      preadv2: { args: ["int", "ptr", "int", "i64", "int"], returns: FFIType.i64_fast },
    }).symbols.preadv2;
  } catch {
    return null;
  }
}

let preadv2: ReturnType<typeof load> | undefined;

/**
 * Fills `target` from `position` of the file as far as that needs no device (preadv2(2), RWF_NOWAIT). Main thread only.
 * @returns bytes read, 0 where nothing can be had without waiting (or at the end of the file)
 */
export function readCached(fd: number, target: Uint8Array, position: number): number {
  if (preadv2 === undefined) preadv2 = load();
  if (preadv2 === null || target.length === 0) return 0;
  iovec[0] = BigInt(ptr(target));
  iovec[1] = BigInt(target.length);
  return Math.max(0, Number(preadv2(fd, ptr(iovec), 1, position, RWF_NOWAIT)));
}
