/** Linux errno values (asm-generic/errno-base.h, errno.h) and the one error class that carries them to a reply. */

export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EOPNOTSUPP: 95,
  ESTALE: 116,
  ETIMEDOUT: 110,
  EDQUOT: 122,
  EKEYREVOKED: 128,
} as const;
export type ErrnoName = keyof typeof Errno;

/** A failure that an application sees as an errno. The cause is for the log, and only for unexpected ones. */
export class FsError extends Error {
  override readonly name = "FsError";
  readonly errno: number;
  readonly code: ErrnoName;

  constructor(code: ErrnoName, message: string = code, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.errno = Errno[code];
  }
}
