/**
 * The ioctls that are known: chattr's and lsattr's flags (ioctl_iflags(2)), in both forms that Linux has. The kernel makes these requests
 * itself (fs/fuse/ioctl.c, fuse_fileattr_get and _set), on a handle that it opens for them.
 */
import * as k from "../../ffi/libfuse3/kernel.ts";
import { FsError } from "../fs/posix/errno.ts";
import { after, InodeFlag, type MaybePromise } from "../fs/posix/vfs.ts";
import type { OperationContext } from "./operation-context.ts";
import { BODY } from "./requests.ts";

const FLAGS_BYTES = 4;
const NOTHING = new Uint8Array(0);
/** linux/fs.h: FS_XFLAG_*, beside the flags that they are. */
const XFLAGS: readonly (readonly [xflag: number, flag: number])[] = [
  [0x08, InodeFlag.IMMUTABLE],
  [0x10, InodeFlag.APPEND],
  [0x40, InodeFlag.NOATIME],
  [0x80, InodeFlag.NODUMP],
];
/** Says that flags are set that are none of ours, so that setting them is refused. */
const OTHER_FLAG = 0x8000_0000;

/** What an ioctl answers with. @throws FsError ENOTTY for an unknown one; what Vfs.getFlags and setFlags throw */
export function ioctl({ vfs, request, caller }: OperationContext): MaybePromise<Uint8Array> {
  const at = k.fuse_ioctl_in;
  const sizes = { in: request.u32(BODY + at.in_size), out: request.u32(BODY + at.out_size) };
  switch (request.u32(BODY + at.cmd)) {
    case k.FS_IOC_GETFLAGS:
      if (sizes.out < FLAGS_BYTES) throw new FsError("EINVAL");
      return after(vfs.getFlags(request.ino), wordOf);
    case k.FS_IOC_FSGETXATTR:
      if (sizes.out < k.fsxattr.SIZE) throw new FsError("EINVAL");
      return after(vfs.getFlags(request.ino), fsxattrOf);
    case k.FS_IOC_SETFLAGS:
      if (sizes.in < FLAGS_BYTES) throw new FsError("EINVAL");
      return after(vfs.setFlags(caller(), request.ino, request.u32(BODY + at.SIZE)), () => NOTHING);
    case k.FS_IOC_FSSETXATTR:
      if (sizes.in < k.fsxattr.SIZE) throw new FsError("EINVAL");
      return after(
        vfs.setFlags(
          caller(),
          request.ino,
          flagsOfFsxattr((word) => request.u32(BODY + at.SIZE + word)),
        ),
        () => NOTHING,
      );
    default:
      // Not ENOSYS, which would reach the program on kernels before 5.14.
      throw new FsError("ENOTTY");
  }
}

function wordOf(flags: number): Uint8Array {
  const bytes = Buffer.alloc(FLAGS_BYTES);
  bytes.writeUInt32LE(flags);
  return bytes;
}

function fsxattrOf(flags: number): Uint8Array {
  const bytes = Buffer.alloc(k.fsxattr.SIZE);
  bytes.writeUInt32LE(
    XFLAGS.reduce((xflags, [xflag, flag]) => ((flags & flag) === 0 ? xflags : xflags | xflag), 0),
    k.fsxattr.fsx_xflags,
  );
  return bytes;
}

/** Extent sizes and project numbers are not kept: whoever sets one is refused. */
function flagsOfFsxattr(word: (at: number) => number): number {
  const { fsx_xflags, fsx_extsize, fsx_projid, fsx_cowextsize } = k.fsxattr;
  const others = [fsx_extsize, fsx_projid, fsx_cowextsize].some((at) => word(at) !== 0);
  const xflags = word(fsx_xflags);
  const known = XFLAGS.reduce((sum, [xflag]) => sum | xflag, 0);
  const flags = XFLAGS.reduce((sum, [xflag, flag]) => ((xflags & xflag) === 0 ? sum : sum | flag), 0);
  return others || (xflags & ~known) !== 0 ? OTHER_FLAG : flags;
}
