import { type Pointer, ptr } from "bun:ffi";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import {
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  FOPEN_NOFLUSH,
  FOPEN_PARALLEL_DIRECT_WRITES,
  fuse_attr_out,
  fuse_entry_out,
  fuse_getxattr_out,
  fuse_ioctl_out,
  fuse_kstatfs,
  fuse_lseek_out,
  fuse_open_out,
  fuse_write_out,
} from "../../ffi/libfuse3/kernel.ts";
import { iovec } from "../../ffi/libfuse3/layout.ts";
import type { Libfuse } from "../../ffi/libfuse3/libfuse3.ts";
import { FOPEN_PASSTHROUGH, fuse_open_out_passthrough } from "../../ffi/libfuse3/passthrough.ts";
import type { Attr, Offset, Opened, ReadResult, StatFs } from "../fs/posix/vfs.ts";
import { type OwnerOverride, putAttr, putU64, storeU64, type Timeout } from "./attributes.ts";
import { editionBits, type NodeNumbers } from "./node-numbers.ts";

/** Room for the largest fixed reply (entry and open together) and its neighbours. */
const STRUCT_BYTES = 4096;
/** Linux's IOV_MAX is 1024, and libfuse puts its header first. Answers in more pieces are joined. */
const MAX_PIECES = 1000;

/** Timeouts and ownership that go into replies. */
export interface ReplySettings {
  readonly attrTimeout: Timeout;
  readonly entryTimeout: Timeout;
  readonly negativeTimeout: Timeout;
  readonly owner: OwnerOverride;
  /** By which numbers the kernel knows files. */
  readonly nodes: NodeNumbers;
}

/** The kernel knows some files by several numbers, and keeps attributes for each. */
const NO_TIME: Timeout = { sec: 0, nsec: 0 };

/** Writes struct fuse_entry_out at byte `at`; a null attribute is the name that is not there. */
export function putEntry(words: Uint32Array, at: number, attr: Attr | null, settings: ReplySettings): void {
  if (attr === null) {
    storeU64(words, at + fuse_entry_out.nodeid, 0);
    storeU64(words, at + fuse_entry_out.generation, 0);
    putTimeouts(words, at, settings.negativeTimeout, settings.negativeTimeout);
    return;
  }
  storeU64(words, at + fuse_entry_out.nodeid, attr.ino);
  let { attrTimeout, entryTimeout } = settings;
  if (attr.isDamaged === true) attrTimeout = entryTimeout = NO_TIME;
  if (settings.nodes.hasMoved(attr.ino)) {
    const high = (at + fuse_entry_out.nodeid + 4) >>> 2;
    words[high] = (words[high] ?? 0) + editionBits(settings.nodes.edition(attr.ino));
    attrTimeout = NO_TIME;
  }
  putTimeouts(words, at, entryTimeout, attrTimeout);
  storeU64(words, at + fuse_entry_out.generation, attr.handleTag ?? 0);
  putAttr(words, at + fuse_entry_out.attr, attr, settings.owner);
}

function putTimeouts(words: Uint32Array, at: number, entry: Timeout, attr: Timeout): void {
  storeU64(words, at + fuse_entry_out.entry_valid, entry.sec);
  storeU64(words, at + fuse_entry_out.attr_valid, attr.sec);
  words[(at + fuse_entry_out.entry_valid_nsec) >>> 2] = entry.nsec;
  words[(at + fuse_entry_out.attr_valid_nsec) >>> 2] = attr.nsec;
}

/**
 * Answers to requests, each encoded as the kernel's struct into one reused buffer and handed to libfuse, which writes it to the device
 * before it returns. Each result is 0 or -errno: the request is gone in either case.
 */
export class Replies implements Disposable {
  readonly settings: ReplySettings;
  readonly #library: Libfuse;
  readonly #memory: MappedMemory;
  readonly #view: DataView;
  readonly #words: Uint32Array;
  readonly #vectors: MappedMemory;
  /** Set when a reply goes out, so that an error after it (a release that throws) is not answered as well. */
  answered = false;

  constructor(library: Libfuse, settings: ReplySettings) {
    this.#library = library;
    this.settings = settings;
    this.#memory = new MappedMemory(STRUCT_BYTES);
    this.#view = this.#memory.view;
    this.#words = new Uint32Array(this.#view.buffer);
    this.#vectors = new MappedMemory(MAX_PIECES * iovec.SIZE);
  }

  error(req: Pointer, errno: number): number {
    this.answered = true;
    return this.#library.replyErr(req, errno);
  }

  ok(req: Pointer): number {
    this.answered = true;
    return this.#library.replyErr(req, 0);
  }

  entry(req: Pointer, attr: Attr | null): number {
    putEntry(this.#words, 0, attr, this.settings);
    return this.#struct(req, fuse_entry_out.SIZE);
  }

  attr(req: Pointer, attr: Attr): number {
    const { nodes, owner } = this.settings;
    const attrTimeout = attr.isDamaged === true || nodes.hasMoved(attr.ino) ? NO_TIME : this.settings.attrTimeout;
    putU64(this.#view, fuse_attr_out.attr_valid, attrTimeout.sec);
    this.#view.setUint32(fuse_attr_out.attr_valid_nsec, attrTimeout.nsec, true);
    this.#view.setUint32(fuse_attr_out.attr_valid_nsec + 4, 0, true);
    putAttr(this.#words, fuse_attr_out.attr, attr, owner);
    return this.#struct(req, fuse_attr_out.SIZE);
  }

  /** `backingId`: 0, or what the kernel reads instead of asking. */
  opened(req: Pointer, opened: Opened, backingId = 0): number {
    this.#putOpened(0, opened, backingId);
    return this.#struct(req, fuse_open_out.SIZE);
  }

  created(req: Pointer, attr: Attr, opened: Opened, backingId = 0): number {
    putEntry(this.#words, 0, attr, this.settings);
    this.#putOpened(fuse_entry_out.SIZE, opened, backingId);
    return this.#struct(req, fuse_entry_out.SIZE + fuse_open_out.SIZE);
  }

  #putOpened(at: number, opened: Opened, backingId: number): void {
    const flags =
      (opened.keepCache ? FOPEN_KEEP_CACHE : 0) |
      (opened.noFlush ? FOPEN_NOFLUSH : 0) |
      (backingId > 0 ? FOPEN_PASSTHROUGH : 0) |
      (opened.directIo ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : 0);
    putU64(this.#view, at + fuse_open_out.fh, opened.handle);
    this.#view.setUint32(at + fuse_open_out.open_flags, flags, true);
    this.#view.setInt32(at + fuse_open_out_passthrough.backing_id, backingId, true);
  }

  written(req: Pointer, bytes: number): number {
    this.#view.setUint32(fuse_write_out.size, bytes, true);
    this.#view.setUint32(fuse_write_out.size + 4, 0, true);
    return this.#struct(req, fuse_write_out.SIZE);
  }

  /** How large an xattr value or list is. */
  size(req: Pointer, bytes: number): number {
    this.#view.setUint32(fuse_getxattr_out.size, bytes, true);
    this.#view.setUint32(fuse_getxattr_out.size + 4, 0, true);
    return this.#struct(req, fuse_getxattr_out.SIZE);
  }

  /** A successful ioctl, with what goes back to the caller: at most 256 bytes. */
  ioctl(req: Pointer, data: Uint8Array): number {
    this.#memory.bytes.fill(0, 0, fuse_ioctl_out.SIZE);
    this.#memory.bytes.set(data, fuse_ioctl_out.SIZE);
    return this.#struct(req, fuse_ioctl_out.SIZE + data.length);
  }

  position(req: Pointer, offset: Offset): number {
    putU64(this.#view, fuse_lseek_out.offset, offset);
    return this.#struct(req, fuse_lseek_out.SIZE);
  }

  statfs(req: Pointer, stat: StatFs): number {
    const view = this.#view;
    this.#memory.bytes.fill(0, 0, fuse_kstatfs.SIZE);
    putU64(view, fuse_kstatfs.blocks, stat.totalBlocks);
    putU64(view, fuse_kstatfs.bfree, stat.freeBlocks);
    putU64(view, fuse_kstatfs.bavail, stat.freeBlocks);
    putU64(view, fuse_kstatfs.files, stat.totalFiles);
    putU64(view, fuse_kstatfs.ffree, stat.freeFiles);
    view.setUint32(fuse_kstatfs.bsize, stat.blockSize, true);
    view.setUint32(fuse_kstatfs.namelen, stat.nameMax, true);
    view.setUint32(fuse_kstatfs.frsize, stat.blockSize, true);
    return this.#struct(req, fuse_kstatfs.SIZE);
  }

  #struct(req: Pointer, length: number): number {
    return this.#reply(req, this.#memory.address, length);
  }

  #reply(req: Pointer, address: Pointer | null, length: number): number {
    this.answered = true;
    return this.#library.replyBuf(req, address, length);
  }

  /** Memory at an address, which the caller keeps alive. */
  memory(req: Pointer, address: Pointer, length: number): number {
    return this.#reply(req, address, length);
  }

  bytes(req: Pointer, data: Uint8Array): number {
    // ptr() of an empty array is an Error object.
    return data.length === 0 ? this.#reply(req, null, 0) : this.#reply(req, ptr(data), data.length);
  }

  /** Sends the pieces in one writev(2), without copying them together, then releases them. */
  pieces(req: Pointer, result: ReadResult): number {
    try {
      return this.#pieces(req, result.pieces);
    } finally {
      result.release?.();
    }
  }

  #pieces(req: Pointer, pieces: readonly Uint8Array[]): number {
    const [first] = pieces;
    if (first === undefined) return this.#reply(req, null, 0);
    if (pieces.length === 1) return this.bytes(req, first);
    if (pieces.length > MAX_PIECES) return this.bytes(req, Buffer.concat(pieces));
    const view = this.#vectors.view;
    let count = 0;
    for (const piece of pieces) {
      if (piece.length === 0) continue;
      putU64(view, count * iovec.SIZE + iovec.iov_base, ptr(piece));
      putU64(view, count * iovec.SIZE + iovec.iov_len, piece.length);
      count++;
    }
    this.answered = true;
    return this.#library.replyIov(req, this.#vectors.address, count);
  }

  close(): void {
    this.#memory.close();
    this.#vectors.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
