import { fuse_attr } from "../../ffi/libfuse3/kernel.ts";
import type { Attr, Offset } from "../fs/vfs.ts";

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

/** Everyone's files belong to this user and group (mount options uid= and gid=). */
export interface OwnerOverride {
  readonly uid: number | null;
  readonly gid: number | null;
}

/** Writes struct fuse_attr. */
export function putAttr(view: DataView, at: number, attr: Attr, owner: OwnerOverride): void {
  putU64(view, at + fuse_attr.ino, attr.ino);
  putU64(view, at + fuse_attr.size, attr.size);
  putU64(view, at + fuse_attr.blocks, attr.blocks);
  putU64(view, at + fuse_attr.atime, attr.atimeSec);
  putU64(view, at + fuse_attr.mtime, attr.mtimeSec);
  putU64(view, at + fuse_attr.ctime, attr.ctimeSec);
  view.setUint32(at + fuse_attr.atimensec, attr.atimeNsec, true);
  view.setUint32(at + fuse_attr.mtimensec, attr.mtimeNsec, true);
  view.setUint32(at + fuse_attr.ctimensec, attr.ctimeNsec, true);
  view.setUint32(at + fuse_attr.mode, attr.mode, true);
  view.setUint32(at + fuse_attr.nlink, attr.nlink, true);
  view.setUint32(at + fuse_attr.uid, owner.uid ?? attr.uid, true);
  view.setUint32(at + fuse_attr.gid, owner.gid ?? attr.gid, true);
  view.setUint32(at + fuse_attr.rdev, attr.rdev, true);
  view.setUint32(at + fuse_attr.blksize, PREFERRED_IO_BYTES, true);
  view.setUint32(at + fuse_attr.flags, 0, true);
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
