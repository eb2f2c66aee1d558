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
  FUSE_CAP_EXPORT_SUPPORT,
  FUSE_CAP_IOCTL_DIR,
  FUSE_CAP_PARALLEL_DIROPS,
  FUSE_CAP_READDIRPLUS,
  FUSE_CAP_READDIRPLUS_AUTO,
  FUSE_CAP_WRITEBACK_CACHE,
  fuse_conn_info,
} from "../../ffi/libfuse3/layout.ts";
import { FUSE_INIT_EXT, FUSE_PASSTHROUGH_FLAGS2, fuse_init_in_ext, fuse_init_out_passthrough } from "../../ffi/libfuse3/passthrough.ts";
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
  // File handles (name_to_handle_at(2), NFS) outlive the kernel's memory of a file: it then looks up "." and ".." by number.
  FUSE_CAP_EXPORT_SUPPORT |
  // chattr and lsattr of folders.
  FUSE_CAP_IOCTL_DIR |
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

/**
 * Backing files may lie on any filesystem that is not itself stacked on another. Two, the kernel's limit, would allow overlayfs too, but
 * then nothing could be stacked on this mount.
 */
const MAX_STACK_DEPTH = 1;

/** Room for the out header, fuse_init_out, and what later versions append. */
const REPLY_ROOM_BYTES = 4096;

/** What libfuse does not know how to ask for. */
export interface InitWishes {
  /** FUSE_PASSTHROUGH. The kernel takes it from root only, and not together with its writeback cache. */
  readonly passthrough: boolean;
}

/** What INIT ended with. */
export interface InitOutcome {
  /** Flags of fuse_init_out that are on; 0 when the reply could not be looked at. */
  readonly flags: number;
  readonly passthrough: boolean;
}

/** Flags that we add to the reply, in its two words. */
interface ExtraFlags {
  readonly flags: number;
  readonly flags2: number;
}

/** As far as the kernel offers what we want. */
function extraFlags(request: RequestReader, wishes: InitWishes): ExtraFlags {
  const body = fuse_in_header.SIZE;
  const offered = request.u32(body + fuse_init_in.flags);
  const flags = offered & EXTRA_FLAGS;
  const extended = (offered & FUSE_INIT_EXT) !== 0 && request.length >= body + fuse_init_in_ext.SIZE;
  const flags2 = extended ? request.u32(body + fuse_init_in_ext.flags2) & FUSE_PASSTHROUGH_FLAGS2 : 0;
  return wishes.passthrough && flags2 !== 0 ? { flags: flags | FUSE_INIT_EXT, flags2 } : { flags, flags2: 0 };
}

/**
 * Answers the INIT that is in the request memory: `process` makes libfuse write its reply to `fd`, which for that moment is one end of a
 * socket pair; the reply, with our flags added, then goes to the device. Anything unexpected falls back to libfuse's reply as it is.
 * Throws LibcError when not even the plain reply could be written.
 */
export function answerInit(fd: number, request: RequestReader, wishes: InitWishes, process: () => void): InitOutcome {
  const extra = extraFlags(request, wishes);
  const detour = openDetour(fd);
  if (detour === null) {
    process();
    return { flags: 0, passthrough: false };
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
  const given = flagsOf(reply.view, length);
  const plain = Buffer.from(reply.bytes.subarray(0, length));
  const outcome = addFlags(reply.view, length, given, extra);
  if (outcome !== null && write(fd, reply.bytes.subarray(0, length)) === length) return outcome;
  const written = write(fd, plain);
  if (written !== length) throw new Error(`the kernel refused the answer to INIT (${written})`);
  return { flags: given, passthrough: false };
}

/** The flags in a reply; 0 when it has none: the kernel's first INIT may be for a newer major version. */
function flagsOf(view: DataView, length: number): number {
  const failed = view.getInt32(fuse_out_header.error, true) !== 0;
  const flagsAt = fuse_out_header.SIZE + fuse_init_out.flags;
  return length >= flagsAt + 4 && !failed ? view.getUint32(flagsAt, true) : 0;
}

/** Changes libfuse's reply. Returns null when it is not one that we understand, or nothing is to be added. */
function addFlags(view: DataView, length: number, given: number, extra: ExtraFlags): InitOutcome | null {
  const body = fuse_out_header.SIZE;
  if (given === 0 || extra.flags === 0) return null;
  const passthrough = extra.flags2 !== 0 && length >= body + fuse_init_out.SIZE;
  const flags = given | (passthrough ? extra.flags : extra.flags & EXTRA_FLAGS);
  view.setUint32(body + fuse_init_out.flags, flags, true);
  if (passthrough) {
    // Without FUSE_INIT_EXT the kernel has not looked at libfuse's second word, which it may not have cleared.
    const flags2 = (given & FUSE_INIT_EXT) === 0 ? 0 : view.getUint32(body + fuse_init_out.flags2, true);
    view.setUint32(body + fuse_init_out.flags2, flags2 | extra.flags2, true);
    view.setUint32(body + fuse_init_out_passthrough.max_stack_depth, MAX_STACK_DEPTH, true);
  }
  return { flags, passthrough };
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
