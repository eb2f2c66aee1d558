/**
 * chattr(1)'s flags: which are kept, who may set them, and what a file or folder with them refuses. The kernel knows flags only from us and
 * asks for everything, so all checks are here; they are Linux's own (fs/namei.c, fs/attr.c, fs/open.c, fs/xattr.c): EPERM, for root as well.
 */
import { FsError } from "../posix/errno.ts";
import { type Caller, InodeFlag, OpenFlag, type SetAttr } from "../posix/vfs.ts";
import type { Inode } from "./inode.ts";

/** Flags that are kept. NODUMP and NOATIME are only kept: dump(8) does not know us, and times of access are not written anyhow. */
const KNOWN_FLAGS = InodeFlag.IMMUTABLE | InodeFlag.APPEND | InodeFlag.NODUMP | InodeFlag.NOATIME;
/** Flags that only CAP_LINUX_IMMUTABLE may change. Capabilities of a caller are not known here: that is root. */
const PRIVILEGED_FLAGS = InodeFlag.IMMUTABLE | InodeFlag.APPEND;

function has(inode: Inode, flags: number): boolean {
  return (inode.stored.flags & flags) !== 0;
}

function refuse(inode: Inode, flags: number): void {
  if (has(inode, flags)) throw new FsError("EPERM");
}

/**
 * Whether a caller may give an inode these flags. Kernels from 5.13 on have checked the same; older ones hand the call over unchecked.
 * @throws FsError EOPNOTSUPP for flags that are not kept; EPERM
 */
export function requireMaySetFlags(inode: Inode, caller: Caller, flags: number): void {
  if ((flags & ~KNOWN_FLAGS) !== 0) throw new FsError("EOPNOTSUPP");
  const isRoot = caller.uid === 0;
  if (!isRoot && (caller.uid !== inode.uid || ((inode.stored.flags ^ flags) & PRIVILEGED_FLAGS) !== 0)) throw new FsError("EPERM");
}

/** A setattr: of what may only grow, times may be set to now, and nothing else. @throws FsError EPERM */
export function requireMaySetAttributes(inode: Inode, change: SetAttr): void {
  refuse(inode, InodeFlag.IMMUTABLE);
  const isTouch = Object.entries(change).every(([field, value]) => (field === "atime" || field === "mtime") && value === "now");
  if (!isTouch) refuse(inode, InodeFlag.APPEND);
}

/** A change of extended attributes, another name, the end of a name. @throws FsError EPERM */
export function requireMayChange(inode: Inode): void {
  refuse(inode, InodeFlag.IMMUTABLE | InodeFlag.APPEND);
}

/** A new name in a folder. @throws FsError EPERM */
export function requireMayAdd(dir: Inode): void {
  refuse(dir, InodeFlag.IMMUTABLE);
}

/** The end of a name in a folder, and of what it leads to. @throws FsError EPERM */
export function requireMayRemove(dir: Inode, inode: Inode): void {
  requireMayChange(dir);
  requireMayChange(inode);
}

/** open(2). @throws FsError EPERM */
export function requireMayOpen(inode: Inode, flags: number): void {
  const writes = (flags & OpenFlag.O_ACCMODE) !== OpenFlag.O_RDONLY || (flags & OpenFlag.O_TRUNC) !== 0;
  if (!writes) return;
  refuse(inode, InodeFlag.IMMUTABLE);
  if ((flags & OpenFlag.O_APPEND) === 0 || (flags & OpenFlag.O_TRUNC) !== 0) refuse(inode, InodeFlag.APPEND);
}

/** A write through a descriptor, which may be older than the flags. @throws FsError EPERM */
export function requireMayWrite(inode: Inode, append: boolean): void {
  if (inode.stored.flags !== 0) refuse(inode, append ? InodeFlag.IMMUTABLE : PRIVILEGED_FLAGS);
}
