/**
 * The kernel's side of FUSE: structs, opcodes and flags of linux/fuse.h (and of linux/fs.h, the ioctls that it hands on), names as there, offsets in bytes. All are part of the kernel's
 * stable interface, protocol 7.23 (Linux 3.15) and later. A request is a fuse_in_header, then the struct of its opcode, then names or
 * data; libfuse hands the callbacks pointers into the same bytes.
 */

export const fuse_in_header = { SIZE: 40, len: 0, opcode: 4, unique: 8, nodeid: 16, uid: 24, gid: 28, pid: 32 } as const;
export const fuse_out_header = { SIZE: 16, len: 0, error: 4, unique: 8 } as const;

export const fuse_init_in = { major: 0, minor: 4, max_readahead: 8, flags: 12 } as const;
export const fuse_init_out = {
  SIZE: 64,
  major: 0,
  minor: 4,
  max_readahead: 8,
  flags: 12,
  max_background: 16,
  congestion_threshold: 18,
  max_write: 20,
  time_gran: 24,
  max_pages: 28,
  flags2: 32,
} as const;

export const fuse_attr = {
  SIZE: 88,
  ino: 0,
  size: 8,
  blocks: 16,
  atime: 24,
  mtime: 32,
  ctime: 40,
  atimensec: 48,
  mtimensec: 52,
  ctimensec: 56,
  mode: 60,
  nlink: 64,
  uid: 68,
  gid: 72,
  rdev: 76,
  blksize: 80,
  flags: 84,
} as const;
export const fuse_entry_out = {
  SIZE: 128,
  nodeid: 0,
  generation: 8,
  entry_valid: 16,
  attr_valid: 24,
  entry_valid_nsec: 32,
  attr_valid_nsec: 36,
  attr: 40,
} as const;
export const fuse_attr_out = { SIZE: 104, attr_valid: 0, attr_valid_nsec: 8, attr: 16 } as const;
export const fuse_open_out = { SIZE: 16, fh: 0, open_flags: 8 } as const;
export const fuse_write_out = { SIZE: 8, size: 0 } as const;
export const fuse_getxattr_out = { SIZE: 8, size: 0 } as const;
export const fuse_lseek_out = { SIZE: 8, offset: 0 } as const;
export const fuse_kstatfs = {
  SIZE: 80,
  blocks: 0,
  bfree: 8,
  bavail: 16,
  files: 24,
  ffree: 32,
  bsize: 40,
  namelen: 44,
  frsize: 48,
} as const;
export const fuse_dirent = { SIZE: 24, ino: 0, off: 8, namelen: 16, type: 20, name: 24 } as const;
export const fuse_direntplus = { SIZE: 152, entry_out: 0, dirent: 128 } as const;

export const fuse_getattr_in = { SIZE: 16, getattr_flags: 0, fh: 8 } as const;
export const fuse_setattr_in = {
  SIZE: 88,
  valid: 0,
  fh: 8,
  size: 16,
  atime: 32,
  mtime: 40,
  atimensec: 56,
  mtimensec: 60,
  mode: 68,
  uid: 76,
  gid: 80,
} as const;
export const fuse_mknod_in = { SIZE: 16, mode: 0, rdev: 4, umask: 8 } as const;
export const fuse_mkdir_in = { SIZE: 8, mode: 0, umask: 4 } as const;
export const fuse_rename_in = { SIZE: 8, newdir: 0 } as const;
export const fuse_rename2_in = { SIZE: 16, newdir: 0, flags: 8 } as const;
export const fuse_link_in = { SIZE: 8, oldnodeid: 0 } as const;
export const fuse_open_in = { SIZE: 8, flags: 0, open_flags: 4 } as const;
export const fuse_create_in = { SIZE: 16, flags: 0, mode: 4, umask: 8, open_flags: 12 } as const;
export const fuse_release_in = { SIZE: 24, fh: 0 } as const;
export const fuse_flush_in = { SIZE: 24, fh: 0 } as const;
export const fuse_read_in = { SIZE: 40, fh: 0, offset: 8, size: 16 } as const;
export const fuse_write_in = { SIZE: 40, fh: 0, offset: 8, size: 16, write_flags: 20, flags: 32 } as const;
export const fuse_fsync_in = { SIZE: 16, fh: 0, fsync_flags: 8 } as const;
export const fuse_getxattr_in = { SIZE: 8, size: 0 } as const;
/** The form without FUSE_SETXATTR_EXT, which kiseki does not ask for: FUSE_COMPAT_SETXATTR_IN_SIZE bytes. */
export const fuse_setxattr_in = { size: 0, flags: 4 } as const;
export const FUSE_COMPAT_SETXATTR_IN_SIZE = 8;
export const fuse_fallocate_in = { SIZE: 32, fh: 0, offset: 8, length: 16, mode: 24 } as const;
export const fuse_lseek_in = { SIZE: 24, fh: 0, offset: 8, whence: 16 } as const;
export const fuse_copy_file_range_in = { SIZE: 56, fh_in: 0, off_in: 8, nodeid_out: 16, fh_out: 24, off_out: 32, len: 40 } as const;
export const fuse_ioctl_in = { SIZE: 32, fh: 0, flags: 8, cmd: 12, arg: 16, in_size: 24, out_size: 28 } as const;
export const fuse_ioctl_out = { SIZE: 16, result: 0, flags: 4, in_iovs: 8, out_iovs: 12 } as const;
export const fuse_interrupt_in = { SIZE: 8, unique: 0 } as const;

export const fuse_notify_inval_inode_out = { SIZE: 24, ino: 0, off: 8, len: 16 } as const;
export const fuse_notify_inval_entry_out = { SIZE: 16, parent: 0, namelen: 8, flags: 12 } as const;

/** enum fuse_opcode: those that the session itself looks at. */
export const FUSE_FORGET = 2;
export const FUSE_INIT = 26;
export const FUSE_INTERRUPT = 36;
export const FUSE_BATCH_FORGET = 42;
export const FUSE_RENAME2 = 45;

/** enum fuse_notify_code: the `error` of an out header whose `unique` is 0. */
export const FUSE_NOTIFY_INVAL_INODE = 2;
export const FUSE_NOTIFY_INVAL_ENTRY = 3;

/** fuse_init_in.flags and fuse_init_out.flags. */
export const FUSE_HANDLE_KILLPRIV_V2 = 1 << 28;

/** fuse_setattr_in.valid */
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_KILL_SUIDGID = 1 << 11;

/** fuse_ioctl_in.cmd: linux/fs.h, for 64-bit programs; of 32-bit ones the kernel makes the same. */
export const FS_IOC_GETFLAGS = 0x8008_6601;
export const FS_IOC_SETFLAGS = 0x4008_6602;
export const FS_IOC_FSGETXATTR = 0x801c_581f;
export const FS_IOC_FSSETXATTR = 0x401c_5820;
/** linux/fs.h: struct fsxattr. */
export const fsxattr = { SIZE: 28, fsx_xflags: 0, fsx_extsize: 4, fsx_nextents: 8, fsx_projid: 12, fsx_cowextsize: 16 } as const;

/** fuse_open_out.open_flags */
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
/** Kernel 5.16; older ones ignore it. */
export const FOPEN_NOFLUSH = 1 << 5;
/** Kernel 6.2; older ones ignore it. */
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;

export const FUSE_GETATTR_FH = 1 << 0;
export const FUSE_WRITE_KILL_SUIDGID = 1 << 2;
export const FUSE_OPEN_KILL_SUIDGID = 1 << 0;
export const FUSE_FSYNC_FDATASYNC = 1 << 0;
