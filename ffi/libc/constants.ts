/** Values from the Linux headers that the wrappers take (the same on x86_64 and aarch64 unless said). */

/** errno values that callers of these wrappers tell apart (asm-generic/errno.h). */
export const ENOENT = 2;
export const EINTR = 4;
export const ENXIO = 6;
export const EAGAIN = 11;
export const ENODEV = 19;

/** poll.h */
export const POLLIN = 0x001;

/** fcntl.h */
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_WRLCK = 1;
export const F_SETSIG = 10;
export const F_SETLEASE = 1024;
export const F_DUPFD_CLOEXEC = 1030;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;

/** sys/socket.h */
export const AF_UNIX = 1;
export const SOCK_SEQPACKET = 5;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const SOCK_NONBLOCK = O_NONBLOCK;

/** asm-generic/signal.h: ignored unless somebody handles it. */
export const SIGURG = 23;

/** sys/mman.h */
export const PROT_READ = 0x1;
export const PROT_WRITE = 0x2;
export const MAP_PRIVATE = 0x02;
export const MAP_ANONYMOUS = 0x20;
export const MFD_CLOEXEC = 0x1;
export const MADV_HUGEPAGE = 14;

/** sys/mount.h */
export const MNT_DETACH = 2;
export const MS_RDONLY = 0x1;
export const MS_NOSUID = 0x2;
export const MS_NODEV = 0x4;
export const MS_NOEXEC = 0x8;
export const MS_REMOUNT = 0x20;
export const MS_NOATIME = 0x400;
export const MS_NODIRATIME = 0x800;
export const MS_RELATIME = 0x200000;
export const MS_STRICTATIME = 0x1000000;
