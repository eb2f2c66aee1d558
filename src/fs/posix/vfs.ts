/**
 * What a mount asks of a filesystem: POSIX operations on inode numbers, without a word of FUSE. src/mount translates kernel
 * requests into these calls; Filesystem (../filesystem.ts) answers them for one or more namespaces.
 *
 * This folder has POSIX's terms: calls, errno, times, file positions. Nothing comes in; all of src/fs and src/mount uses it.
 *
 * A call returns its result when it can be answered from memory, else a Promise: the mount replies at once in the first case.
 * Failures are thrown (or rejected) as FsError; anything else becomes EIO and is logged.
 */

import type { BackingFile } from "../../cache/images/backing-file.ts";
import type { FsError } from "./errno.ts";

/** A result that is there at once, or later. */
export type MaybePromise<T> = T | Promise<T>;

/** Applies `then` now or later. */
export function after<T, U>(value: MaybePromise<T>, then: (value: T) => U): MaybePromise<U> {
  return value instanceof Promise ? value.then(then) : then(value);
}

/**
 * A byte position or size in a file, 0 to 2^63 - 1: a number where it is a safe integer, else a bigint. Comparing the two kinds
 * with < and > is exact in JavaScript; adding goes through offsets.ts.
 */
export type Offset = number | bigint;

/**
 * A file name: one character per byte, each 0x01 to 0xff (what Buffer calls latin1), because names are bytes, not text.
 */
export type Name = string;

/** Who asks. `onInterrupt` is called at most once, when the calling process got a signal; the call may then fail with EINTR. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly umask: number;
  /**
   * This write, truncation or open with O_TRUNC must clear S_ISUID, and S_ISGID where the group may execute or the caller is not in it,
   * because the caller lacks CAP_FSETID (FUSE_HANDLE_KILLPRIV_V2). Absent or false: the kernel sees to it, or nothing is to be cleared.
   */
  readonly killPriv?: boolean;
  /** Whether this is one of the calling process's groups, supplementary ones too. Only while the call is unanswered; absent: not known. */
  isInGroup?(gid: number): boolean;
  onInterrupt(listener: () => void): void;
}

/** struct stat, less what the kernel fills in. Times in seconds (may be negative) and nanoseconds. */
export interface Attr {
  readonly ino: number;
  /** File type and permission bits, as in st_mode. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: Offset;
  /** 512-byte units, as in st_blocks. */
  readonly blocks: number;
  readonly atimeSec: number;
  readonly atimeNsec: number;
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  readonly ctimeSec: number;
  readonly ctimeNsec: number;
  /** Of this file alone among all that ever have this number: st_gen, as file handles have it. 0 where there is only one. */
  readonly handleTag?: number;
  /** What is said here stands for attributes that can't be read: it holds for no time. */
  readonly isDamaged?: boolean;
}

/** What to change in setattr; an absent field stays. "now" takes the client's clock. */
export interface SetAttr {
  mode?: number;
  uid?: number;
  gid?: number;
  size?: Offset;
  atime?: { sec: number; nsec: number } | "now";
  mtime?: { sec: number; nsec: number } | "now";
}

/** An open file or folder; numbers are not reused while the mount lives. */
export type HandleId = number;

export interface Opened {
  handle: HandleId;
  /** The kernel's cached pages of this inode are still right (FOPEN_KEEP_CACHE). */
  keepCache: boolean;
  /** Reads and writes must all reach us (FOPEN_DIRECT_IO): O_DIRECT, writable-and-readable, and append handles. */
  directIo: boolean;
  /** Closing it needs no flush: it can't write (FOPEN_NOFLUSH). */
  noFlush: boolean;
  /**
   * A local file with all the bytes that this handle reads: the mount may have the kernel read that one instead of asking, but not with
   * directIo.
   */
  backing: BackingFile | null;
}

/** Pieces of memory that together are the answer to a read. `release` is called once they have been copied away. */
export interface ReadResult {
  pieces: Uint8Array[];
  release?: () => void;
}

/**
 * Receives one folder entry. `attr` is null unless asked for; `type` is the S_IFMT part of the mode; `cookie` is the offset
 * that a later call continues after (3 to 2^52). Returns false when the entry did not fit: it is offered again next time.
 */
export type FillEntry = (name: Name, ino: number, type: number, cookie: number, attr: Attr | null) => boolean;

export interface StatFs {
  blockSize: number;
  totalBlocks: number;
  freeBlocks: number;
  totalFiles: number;
  freeFiles: number;
  nameMax: number;
}

/** Linux open flags that the filesystem looks at (asm-generic/fcntl.h). */
export const OpenFlag = {
  O_ACCMODE: 0o3,
  O_RDONLY: 0o0,
  O_WRONLY: 0o1,
  O_RDWR: 0o2,
  O_CREAT: 0o100,
  O_EXCL: 0o200,
  O_TRUNC: 0o1000,
  O_APPEND: 0o2000,
  O_DIRECT: 0o40000,
} as const;

/** fallocate(2) modes (linux/falloc.h). */
export const FallocateMode = { KEEP_SIZE: 0x01, PUNCH_HOLE: 0x02, ZERO_RANGE: 0x10 } as const;
/** rename(2) flags (linux/fs.h). */
export const RenameFlag = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;
/** lseek(2) whence values. */
export const Whence = { SEEK_DATA: 3, SEEK_HOLE: 4 } as const;
/** Flags of an inode that chattr(1) sets (linux/fs.h, FS_IMMUTABLE_FL and so on). */
export const InodeFlag = { IMMUTABLE: 0x10, APPEND: 0x20, NODUMP: 0x40, NOATIME: 0x80 } as const;
/** setxattr(2) flags. */
export const XattrFlag = { CREATE: 1, REPLACE: 2 } as const;

/** The operations. Inode 1 is the root of the mount. Names are checked by the mount (length, no '/' or NUL). */
export interface Vfs {
  /** Set: every request but the release of handles is answered with this, for good. */
  readonly refusal?: FsError | null;

  lookup(parent: number, name: Name): MaybePromise<Attr | null>;
  getattr(ino: number, handle: HandleId | null): MaybePromise<Attr>;
  setattr(caller: Caller, ino: number, change: SetAttr, handle: HandleId | null): MaybePromise<Attr>;
  readlink(ino: number): MaybePromise<Name>;
  mknod(caller: Caller, parent: number, name: Name, mode: number, rdev: number): MaybePromise<Attr>;
  mkdir(caller: Caller, parent: number, name: Name, mode: number): MaybePromise<Attr>;
  symlink(caller: Caller, parent: number, name: Name, target: Name): MaybePromise<Attr>;
  link(caller: Caller, ino: number, newParent: number, newName: Name): MaybePromise<Attr>;
  unlink(caller: Caller, parent: number, name: Name): MaybePromise<void>;
  rmdir(caller: Caller, parent: number, name: Name): MaybePromise<void>;
  rename(caller: Caller, parent: number, name: Name, newParent: number, newName: Name, flags: number): MaybePromise<void>;

  create(caller: Caller, parent: number, name: Name, mode: number, flags: number): MaybePromise<{ attr: Attr; opened: Opened }>;
  open(caller: Caller, ino: number, flags: number): MaybePromise<Opened>;
  read(caller: Caller, ino: number, handle: HandleId, offset: Offset, size: number): MaybePromise<ReadResult>;
  /**
   * `data` is only valid until this call returns (not until its Promise settles): what is kept must be copied first. `append`: the
   * descriptor has O_APPEND at the moment (fcntl can change it), and the bytes go to the file's end.
   */
  write(caller: Caller, ino: number, handle: HandleId, offset: Offset, data: Uint8Array, append: boolean): MaybePromise<number>;
  /** At each close(2) of a descriptor of the handle: makes the data visible to other mounts, or fails. */
  flush(caller: Caller, ino: number, handle: HandleId): MaybePromise<void>;
  release(ino: number, handle: HandleId): MaybePromise<void>;
  fsync(caller: Caller, ino: number, handle: HandleId, dataOnly: boolean): MaybePromise<void>;
  fallocate(caller: Caller, ino: number, handle: HandleId, mode: number, offset: Offset, length: Offset): MaybePromise<void>;
  lseek(ino: number, handle: HandleId, offset: Offset, whence: number): MaybePromise<Offset>;
  copyFileRange(
    caller: Caller,
    from: { ino: number; handle: HandleId; offset: Offset },
    to: { ino: number; handle: HandleId; offset: Offset },
    length: number,
  ): MaybePromise<number>;

  opendir(ino: number): MaybePromise<HandleId>;
  /** Entries after `offset` (0: from the start), "." and ".." first, until `fill` returns false or there are no more. */
  readdir(ino: number, handle: HandleId, offset: number, withAttr: boolean, fill: FillEntry): MaybePromise<void>;
  releasedir(handle: HandleId): MaybePromise<void>;
  fsyncdir(ino: number): MaybePromise<void>;

  statfs(ino: number): MaybePromise<StatFs>;
  setxattr(caller: Caller, ino: number, name: Name, value: Uint8Array, flags: number): MaybePromise<void>;
  /** The whole value; the mount answers size queries and ERANGE. */
  getxattr(ino: number, name: Name): MaybePromise<Uint8Array>;
  listxattr(ino: number): MaybePromise<Name[]>;
  removexattr(caller: Caller, ino: number, name: Name): MaybePromise<void>;
  /** chattr's flags, values of InodeFlag. */
  getFlags(ino: number): MaybePromise<number>;
  setFlags(caller: Caller, ino: number, flags: number): MaybePromise<void>;
}

/** What the filesystem asks of the mount when another mount's change makes the kernel's copies stale. */
export interface KernelCache {
  /** Drops attributes and cached pages of an inode; resolves when the kernel has let go. */
  invalidateInode(ino: number): Promise<void>;
  /** Drops the attributes alone; needs no lock that a request in progress may hold. */
  invalidateAttributes(ino: number): Promise<void>;
  /** Overwrites what the mount has in its buffers of requests that were answered, such as content that was written. */
  forgetRequests(): void;
  /** Drops a name that the kernel may have cached. */
  invalidateEntry(parent: number, name: Name): Promise<void>;
}
