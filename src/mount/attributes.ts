import { fuse_attr } from "../../ffi/libfuse3/kernel.ts";
import type { Attr, Offset } from "../fs/posix/vfs.ts";

const TWO_TO_32 = 2 ** 32;
/** st_blksize: what cp and cat read and write at a time; as large as one FUSE request would hold 8 of. */
const PREFERRED_IO_BYTES = 128 * 1024;

/** Writes a 64-bit number, negative ones in two's complement, as two words: BigInts would cost an allocation each. */
export function putU64(view: DataView, at: number, value: Offset): void {
  if (typeof value === "bigint") {
    view.setBigInt64(at, value, true);
    return;
  }
  const high = Math.floor(value / TWO_TO_32);
  view.setUint32(at, value - high * TWO_TO_32, true);
  view.setInt32(at + 4, high, true);
}

/**
 * The same into memory seen as 32-bit words, little-endian as all machines that run this; `at` is in bytes, a multiple of 4. Engines read and
 * write typed arrays fast long before they have compiled a DataView's methods away, and replies are made right after a mount, too.
 */
export function storeU64(words: Uint32Array, at: number, value: Offset): void {
  const index = at >>> 2;
  if (typeof value === "bigint") {
    words[index] = Number(BigInt.asUintN(32, value));
    words[index + 1] = Number(BigInt.asUintN(32, value >> 32n));
    return;
  }
  // Stores wrap modulo 2^32, which is two's complement for what is negative.
  const high = Math.floor(value / TWO_TO_32);
  words[index] = value - high * TWO_TO_32;
  words[index + 1] = high;
}

/** Everyone's files belong to this user and group (mount options uid= and gid=). */
export interface OwnerOverride {
  readonly uid: number | null;
  readonly gid: number | null;
}

/** Writes struct fuse_attr at byte `at`. */
export function putAttr(words: Uint32Array, at: number, attr: Attr, owner: OwnerOverride): void {
  storeU64(words, at + fuse_attr.ino, attr.ino);
  storeU64(words, at + fuse_attr.size, attr.size);
  storeU64(words, at + fuse_attr.blocks, attr.blocks);
  storeU64(words, at + fuse_attr.atime, attr.atimeSec);
  storeU64(words, at + fuse_attr.mtime, attr.mtimeSec);
  storeU64(words, at + fuse_attr.ctime, attr.ctimeSec);
  words[(at + fuse_attr.atimensec) >>> 2] = attr.atimeNsec;
  words[(at + fuse_attr.mtimensec) >>> 2] = attr.mtimeNsec;
  words[(at + fuse_attr.ctimensec) >>> 2] = attr.ctimeNsec;
  words[(at + fuse_attr.mode) >>> 2] = attr.mode;
  words[(at + fuse_attr.nlink) >>> 2] = attr.nlink;
  words[(at + fuse_attr.uid) >>> 2] = owner.uid ?? attr.uid;
  words[(at + fuse_attr.gid) >>> 2] = owner.gid ?? attr.gid;
  words[(at + fuse_attr.rdev) >>> 2] = attr.rdev;
  words[(at + fuse_attr.blksize) >>> 2] = PREFERRED_IO_BYTES;
  words[(at + fuse_attr.flags) >>> 2] = 0;
}

/** How long the kernel may believe something, as the two words of a reply. */
export interface Timeout {
  readonly sec: number;
  readonly nsec: number;
}

/** Throws RangeError for a negative or infinite number of seconds. */
export function timeout(seconds: number): Timeout {
  if (!(seconds >= 0) || seconds > Number.MAX_SAFE_INTEGER) throw new RangeError(`a timeout of ${seconds} s: expected 0 to 2^53`);
  const sec = Math.floor(seconds);
  return { sec, nsec: Math.floor((seconds - sec) * 1e9) };
}
