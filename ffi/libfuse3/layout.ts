/**
 * Where things are in the structs of libfuse's own headers (fuse_lowlevel.h, fuse_common.h, fuse_opt.h) for 64-bit Linux, libfuse 3.10
 * to 3.17: names as in the headers, offsets in bytes, SIZE the whole struct. layout.test.ts compares all of it with the installed
 * headers. Requests and replies themselves are read and written as the kernel's structs, see kernel.ts.
 */

/**
 * The table of operations, as far as `lseek`, its last member in 3.10; fuse_session_new is told how much of it there is, so that later
 * members (tmpfile, statx) count as absent. A NULL member is answered with ENOSYS by libfuse.
 */
export const fuse_lowlevel_ops = {
  init: 0,
  destroy: 8,
  lookup: 16,
  forget: 24,
  getattr: 32,
  setattr: 40,
  readlink: 48,
  mknod: 56,
  mkdir: 64,
  unlink: 72,
  rmdir: 80,
  symlink: 88,
  rename: 96,
  link: 104,
  open: 112,
  read: 120,
  write: 128,
  flush: 136,
  release: 144,
  fsync: 152,
  opendir: 160,
  readdir: 168,
  releasedir: 176,
  fsyncdir: 184,
  statfs: 192,
  setxattr: 200,
  getxattr: 208,
  listxattr: 216,
  removexattr: 224,
  access: 232,
  create: 240,
  getlk: 248,
  setlk: 256,
  bmap: 264,
  ioctl: 272,
  poll: 280,
  write_buf: 288,
  retrieve_reply: 296,
  forget_multi: 304,
  flock: 312,
  fallocate: 320,
  readdirplus: 328,
  copy_file_range: 336,
  lseek: 344,
} as const;
/** The size of the table up to and with lseek. */
export const fuse_lowlevel_ops_size = 352;
export type LowlevelOp = keyof typeof fuse_lowlevel_ops;

/** Grew inside its reserved words (capable_ext, want_ext in 3.17): these members and the size stayed. */
export const fuse_conn_info = {
  SIZE: 128,
  proto_major: 0,
  proto_minor: 4,
  max_write: 8,
  max_read: 12,
  max_readahead: 16,
  capable: 20,
  want: 24,
  max_background: 28,
  congestion_threshold: 32,
  time_gran: 36,
} as const;

/** Later versions append mem_size: allocate fuse_buf_room, zeroed. */
export const fuse_buf = { size: 0, flags: 8, mem: 16, fd: 24, pos: 32 } as const;
export const fuse_buf_room = 64;

export const fuse_args = { SIZE: 24, argc: 0, argv: 8, allocated: 16 } as const;

/** sys/uio.h */
export const iovec = { SIZE: 16, iov_base: 0, iov_len: 8 } as const;

/** poll.h */
export const pollfd = { SIZE: 8, fd: 0, events: 4, revents: 6 } as const;

/** Only in headers of 3.17 and later: what fuse_session_new_versioned wants (major, minor, hotfix, padding as uint32_t). */
export const libfuse_version_size = 16;

/** fuse_conn_info.want and .capable (fuse_common.h). Not the kernel's INIT flags: bits 19 and 20 differ. */
export const FUSE_CAP_ASYNC_READ = 1 << 0;
export const FUSE_CAP_ATOMIC_O_TRUNC = 1 << 3;
export const FUSE_CAP_EXPORT_SUPPORT = 1 << 4;
export const FUSE_CAP_IOCTL_DIR = 1 << 11;
export const FUSE_CAP_AUTO_INVAL_DATA = 1 << 12;
export const FUSE_CAP_READDIRPLUS = 1 << 13;
export const FUSE_CAP_READDIRPLUS_AUTO = 1 << 14;
export const FUSE_CAP_ASYNC_DIO = 1 << 15;
export const FUSE_CAP_WRITEBACK_CACHE = 1 << 16;
export const FUSE_CAP_PARALLEL_DIROPS = 1 << 18;
export const FUSE_CAP_CACHE_SYMLINKS = 1 << 23;
export const FUSE_CAP_EXPLICIT_INVAL_DATA = 1 << 25;

/** fuse_log.h: enum fuse_log_level, as in syslog(3). */
export const FUSE_LOG_ERR = 3;
