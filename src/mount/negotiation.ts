/**
 * What is agreed with the kernel in INIT. libfuse asks for what it knows, through fuse_conn_info; newer features are added to its reply
 * on the way out, by letting libfuse write to a socket instead of the device.
 */
import { type Pointer, toArrayBuffer } from "bun:ffi";
import { close, duplicate, read, replace, seqpacketPair, write } from "../../ffi/libc/libc.ts";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { FUSE_HANDLE_KILLPRIV_V2, fuse_in_header, fuse_init_in, fuse_init_out, fuse_out_header } from "../../ffi/libfuse3/kernel.ts";
import {
  FUSE_CAP_ASYNC_DIO,
  FUSE_CAP_ASYNC_READ,
  FUSE_CAP_ATOMIC_O_TRUNC,
  FUSE_CAP_EXPLICIT_INVAL_DATA,
  FUSE_CAP_PARALLEL_DIROPS,
  FUSE_CAP_READDIRPLUS,
  FUSE_CAP_READDIRPLUS_AUTO,
  FUSE_CAP_WRITEBACK_CACHE,
  fuse_conn_info,
} from "../../ffi/libfuse3/layout.ts";
import { MAX_IO_BYTES, type RequestReader } from "./requests.ts";

/** Read-ahead and writeback requests in flight before the kernel makes callers wait; it would be 12. */
const MAX_BACKGROUND = 64;
/** From here on the kernel calls the device congested: three quarters, as it does itself. */
const CONGESTION_THRESHOLD = 48;
/** Read-ahead the kernel may do, bytes. The kernel takes the smaller of this and the device's read_ahead_kb (see tuning.ts). */
export const MAX_READAHEAD_BYTES = 1024 * 1024;
/** FUSE_MAX_PAGES and BIG_WRITES are set by libfuse on its own when the kernel knows them. */
const WANTED =
  FUSE_CAP_ASYNC_READ |
  FUSE_CAP_ASYNC_DIO |
  FUSE_CAP_ATOMIC_O_TRUNC |
  FUSE_CAP_READDIRPLUS |
  FUSE_CAP_READDIRPLUS_AUTO |
  FUSE_CAP_PARALLEL_DIROPS |
  FUSE_CAP_EXPLICIT_INVAL_DATA;

/** Fills in struct fuse_conn_info, in libfuse's init callback. Neither locks (the kernel keeps them) nor ACLs are asked for. */
export function wishFor(connection: Pointer, options: { writebackCache: boolean }): void {
  const view = new DataView(toArrayBuffer(connection, 0, fuse_conn_info.SIZE));
  let wanted = WANTED;
  if (options.writebackCache) wanted |= FUSE_CAP_WRITEBACK_CACHE;
  const capable = view.getUint32(fuse_conn_info.capable, true);
  view.setUint32(fuse_conn_info.want, wanted & capable, true);
  view.setUint32(fuse_conn_info.max_write, MAX_IO_BYTES, true);
  view.setUint32(fuse_conn_info.max_readahead, MAX_READAHEAD_BYTES, true);
  view.setUint32(fuse_conn_info.max_background, MAX_BACKGROUND, true);
  view.setUint32(fuse_conn_info.congestion_threshold, CONGESTION_THRESHOLD, true);
  view.setUint32(fuse_conn_info.time_gran, 1, true);
}

/**
 * With HANDLE_KILLPRIV_V2 the kernel tells us when to clear set-id bits, instead of asking for security.capability before each write and
 * sending a SETATTR of its own.
 */
const EXTRA_FLAGS = FUSE_HANDLE_KILLPRIV_V2;

/** Room for the out header, fuse_init_out, and what later versions append. */
const REPLY_ROOM_BYTES = 4096;

/**
 * Answers the INIT that is in the request memory: `process` makes libfuse write its reply to `fd`, which for that moment is one end of a
 * socket pair; the reply, with our flags added, then goes to the device. Anything unexpected falls back to libfuse's reply as it is.
 * Returns the flags of INIT that are now on. Throws LibcError when not even the plain reply could be written.
 */
export function answerInit(fd: number, request: RequestReader, process: () => void): number {
  const body = fuse_in_header.SIZE;
  const extra = request.u32(body + fuse_init_in.flags) & EXTRA_FLAGS;
  const detour = openDetour(fd);
  if (detour === null) {
    process();
    return 0;
  }
  using reply = new MappedMemory(REPLY_ROOM_BYTES);
  let length: number;
  try {
    replace(detour.inner, fd);
    process();
  } finally {
    // Whatever happened, fd is the device again.
    replace(detour.device, fd);
    length = read(detour.outer, reply.address, reply.length);
    for (const descriptor of Object.values(detour)) close(descriptor);
  }
  if (length < fuse_out_header.SIZE) throw new Error(`libfuse did not answer INIT (${length})`);
  const flagsAt = fuse_out_header.SIZE + fuse_init_out.flags;
  const failed = reply.view.getInt32(fuse_out_header.error, true) !== 0;
  const flags = length >= flagsAt + 4 && !failed ? reply.view.getUint32(flagsAt, true) : 0;
  // Only a reply with flags is one that we understand (the kernel's first INIT may be for a newer major version).
  if (flags !== 0 && extra !== 0) {
    reply.view.setUint32(flagsAt, flags | extra, true);
    if (write(fd, reply.bytes.subarray(0, length)) === length) return flags | extra;
    reply.view.setUint32(flagsAt, flags, true);
  }
  const written = write(fd, reply.bytes.subarray(0, length));
  if (written !== length) throw new Error(`the kernel refused the answer to INIT (${written})`);
  return flags;
}

interface Detour {
  /** Another descriptor of the device, to put back. */
  readonly device: number;
  /** What takes the device's place. */
  readonly inner: number;
  /** Where the reply comes out. */
  readonly outer: number;
}

function openDetour(fd: number): Detour | null {
  let pair: [number, number];
  try {
    pair = seqpacketPair();
  } catch {
    return null;
  }
  try {
    return { device: duplicate(fd), inner: pair[0], outer: pair[1] };
  } catch {
    for (const descriptor of pair) close(descriptor);
    return null;
  }
}
