import { readFileSync } from "node:fs";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { fuse_in_header } from "../../ffi/libfuse3/kernel.ts";
import { FsError } from "../fs/posix/errno.ts";
import type { Caller, Name, Offset } from "../fs/posix/vfs.ts";
import { editionOf, inoHigh } from "./node-numbers.ts";

/** A page for the headers in front of the data of a WRITE (libfuse's FUSE_BUFFER_HEADER_SIZE). */
const REQUEST_HEADER_BYTES = 4096;
/** The most data that one WRITE brings or one READ asks for: 256 pages, what a kernel allows an unprivileged server. */
export const MAX_IO_BYTES = 1024 * 1024;
/** What POSIX and the kernel call NAME_MAX; FUSE itself lets 1024 bytes through. */
const NAME_MAX_BYTES = 255;

/** Where the struct that follows the header starts. */
export const BODY = fuse_in_header.SIZE;

const TWO_TO_32 = 2 ** 32;
/** A high word below this leaves the whole a safe integer. */
const SAFE_HIGH_WORD = 2 ** 21;

/**
 * The request being handled: typed reads of the bytes that came from the kernel, in place. The next request overwrites them, so a
 * handler decodes everything before it first awaits.
 */
export class RequestReader implements Disposable {
  readonly memory: MappedMemory;
  readonly #bytes: Buffer;
  readonly #view: DataView;

  constructor() {
    this.memory = new MappedMemory(MAX_IO_BYTES + REQUEST_HEADER_BYTES);
    this.#bytes = this.memory.bytes;
    this.#view = this.memory.view;
  }

  get length(): number {
    return this.#view.getUint32(fuse_in_header.len, true);
  }

  get opcode(): number {
    return this.#view.getUint32(fuse_in_header.opcode, true);
  }

  /** The kernel counts requests from 2, so this stays a safe integer. */
  get unique(): number {
    return this.u64(fuse_in_header.unique);
  }

  get ino(): number {
    return this.inoAt(fuse_in_header.nodeid);
  }

  /** The edition in the number of the node that the request is about. */
  get edition(): number {
    return editionOf(this.#view.getUint32(fuse_in_header.nodeid + 4, true));
  }

  get uid(): number {
    return this.#view.getUint32(fuse_in_header.uid, true);
  }

  get gid(): number {
    return this.#view.getUint32(fuse_in_header.gid, true);
  }

  get pid(): number {
    return this.#view.getUint32(fuse_in_header.pid, true);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, true);
  }

  /** The inode number in the node number at `at`. */
  inoAt(at: number): number {
    return this.#view.getUint32(at, true) + inoHigh(this.#view.getUint32(at + 4, true)) * TWO_TO_32;
  }

  /** For numbers that we gave out or that stay below 2^53: inodes, handles, sizes of requests. */
  u64(at: number): number {
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * TWO_TO_32;
  }

  /** A signed 64-bit number of seconds; exact to 2^53. */
  seconds(at: number): number {
    return this.#view.getUint32(at, true) + this.#view.getInt32(at + 4, true) * TWO_TO_32;
  }

  offset(at: number): Offset {
    return this.#view.getUint32(at + 4, true) < SAFE_HIGH_WORD ? this.u64(at) : this.#view.getBigUint64(at, true);
  }

  /** A view of the request's bytes, without copying. */
  data(at: number, length: number): Uint8Array {
    return this.#bytes.subarray(at, at + length);
  }

  /** The file name at `at`, which is the request's last or only string. Throws FsError ENAMETOOLONG. */
  lastName(at: number): Name {
    const end = this.length - 1;
    if (end - at > NAME_MAX_BYTES) throw new FsError("ENAMETOOLONG");
    return this.#bytes.toString("latin1", at, end);
  }

  /** The file name at `at`, which another string or data follows. Throws FsError ENAMETOOLONG. */
  name(at: number): Name {
    const end = this.endOfString(at);
    if (end - at > NAME_MAX_BYTES) throw new FsError("ENAMETOOLONG");
    return this.#bytes.toString("latin1", at, end);
  }

  /** The last string of the request, of any length: a symlink's target. */
  lastString(at: number): string {
    return this.#bytes.toString("latin1", at, this.length - 1);
  }

  /** Where the string at `at` ends: the position of its NUL. */
  endOfString(at: number): number {
    const end = this.#bytes.indexOf(0, at);
    if (end < 0 || end >= this.length) throw new FsError("EIO", "a string without end in a request");
    return end;
  }

  /** Overwrites the last request, and what longer ones before it have left behind it. To be called between requests only. */
  forget(): void {
    this.#bytes.fill(0);
  }

  close(): void {
    this.memory.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Who sent a request. Lives until the request is answered. */
export class RequestCaller implements Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly umask: number;
  readonly killPriv: boolean;
  #listener: (() => void) | null = null;
  #interrupted = false;

  constructor(request: RequestReader, umask: number, killPriv: boolean) {
    this.uid = request.uid;
    this.gid = request.gid;
    this.pid = request.pid;
    this.umask = umask;
    this.killPriv = killPriv;
  }

  /** Asked of /proc for the thread that waits for the answer. Where that can't be seen (another pid namespace): only the group it acts as. */
  isInGroup(gid: number): boolean {
    if (gid === this.gid) return true;
    try {
      const groups = /^Groups:\t?([\d ]*)$/m.exec(readFileSync(`/proc/${this.pid}/status`, "latin1"))?.[1] ?? "";
      return groups.split(" ").includes(String(gid));
    } catch {
      return false;
    }
  }

  onInterrupt(listener: () => void): void {
    this.#listener = listener;
    if (this.#interrupted) listener();
  }

  /** The kernel says that the process got a signal. It may say so again: the listener hears it once. */
  interrupt(): void {
    if (this.#interrupted) return;
    this.#interrupted = true;
    this.#listener?.();
  }
}
