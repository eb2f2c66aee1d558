/**
 * FUSE passthrough, of linux/fuse.h in protocol 7.40 (Linux 6.9) and later: names as there, offsets in bytes. The kernel then reads an open
 * file from a backing file that the server named, without asking it. passthrough.test.ts compares this with headers that are new enough.
 */
import { ioctl } from "../libc/libc.ts";

/** fuse_init_in.flags: there is a second word of flags (protocol 7.36). */
export const FUSE_INIT_EXT = 1 << 30;
/** Bit 37 of the flags, as it stands in their second word. */
export const FUSE_PASSTHROUGH_FLAGS2 = 1 << 5;
/** Where the second word is in fuse_init_in. */
export const fuse_init_in_ext = { flags2: 16, SIZE: 64 } as const;
/** How many filesystems may be stacked: a backing file's own must not be stacked more than one less than this. */
export const fuse_init_out_passthrough = { max_stack_depth: 36 } as const;
/** fuse_open_out.open_flags */
export const FOPEN_PASSTHROUGH = 1 << 7;
/** In fuse_open_out, int32. */
export const fuse_open_out_passthrough = { backing_id: 12 } as const;

const fuse_backing_map = { SIZE: 16, fd: 0, flags: 4, padding: 8 } as const;
/** _IOW(229, 1, struct fuse_backing_map) */
const FUSE_DEV_IOC_BACKING_OPEN = 0x4010_e501;
/** _IOW(229, 2, uint32_t) */
const FUSE_DEV_IOC_BACKING_CLOSE = 0x4004_e502;

/**
 * Registers an open file with the FUSE device: its descriptor may be closed afterwards. Needs CAP_SYS_ADMIN.
 * @returns the backing id, above 0, or -errno: EPERM, ELOOP (that filesystem is a stacked one), EOPNOTSUPP, EINVAL ...
 */
export function backingOpen(device: number, file: number): number {
  const map = new DataView(new ArrayBuffer(fuse_backing_map.SIZE));
  map.setInt32(fuse_backing_map.fd, file, true);
  return ioctl(device, FUSE_DEV_IOC_BACKING_OPEN, new Uint8Array(map.buffer));
}

/** Forgets a backing id; files that are open with it go on. Returns 0 or -errno. */
export function backingClose(device: number, id: number): number {
  return ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE, new Uint8Array(new Uint32Array([id]).buffer));
}
