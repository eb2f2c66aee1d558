import { MappedMemory } from "../../ffi/libc/memory.ts";
import { fuse_dirent, fuse_direntplus, fuse_entry_out } from "../../ffi/libfuse3/kernel.ts";
import type { Attr, FillEntry, Name } from "../fs/posix/vfs.ts";
import { storeU64 } from "./attributes.ts";
import { putEntry, type ReplySettings } from "./replies.ts";

/** The most that one answer to READDIR holds; a kernel that asks for more gets this much, and asks again. */
const BUFFER_BYTES = 64 * 1024;
/** The file type is the top four bits of the mode's sixteen; struct dirent has it without the zeros below (DT_DIR = S_IFDIR >> 12). */
const TYPE_SHIFT = 12;

/** Folder entries as the kernel reads them: struct fuse_dirent or fuse_direntplus, each aligned to 8 bytes. */
export class DirectoryBuffer {
  readonly memory = new MappedMemory(BUFFER_BYTES);
  readonly #words = new Uint32Array(this.memory.view.buffer);
  readonly #settings: ReplySettings;
  #capacity = 0;
  #used = 0;
  #plus = false;

  constructor(settings: ReplySettings) {
    this.#settings = settings;
  }

  /** Empties it for a request for `size` bytes, with attributes or without. */
  start(size: number, plus: boolean): void {
    this.#capacity = Math.min(size, BUFFER_BYTES);
    this.#used = 0;
    this.#plus = plus;
  }

  /** Bytes filled. */
  get used(): number {
    return this.#used;
  }

  readonly fill: FillEntry = (name: Name, ino: number, type: number, cookie: number, attr: Attr | null): boolean => {
    const { bytes } = this.memory;
    const words = this.#words;
    const start = this.#used;
    const dirent = this.#plus ? start + fuse_direntplus.dirent : start;
    const end = (dirent + fuse_dirent.name + name.length + 7) & ~7;
    if (end > this.#capacity) return false;
    if (this.#plus) {
      // A zero node id means "no attributes given" here; for "." and ".." the kernel must not be given any.
      if (attr === null || name === "." || name === "..") bytes.fill(0, start, start + fuse_entry_out.SIZE);
      else putEntry(words, start, attr, this.#settings);
    }
    storeU64(words, dirent + fuse_dirent.ino, ino);
    storeU64(words, dirent + fuse_dirent.off, cookie);
    words[(dirent + fuse_dirent.namelen) >>> 2] = name.length;
    words[(dirent + fuse_dirent.type) >>> 2] = type >>> TYPE_SHIFT;
    // The name is padded to 8 bytes. The padding is copied to the kernel, and must not carry what an earlier answer left there.
    words[(end >>> 2) - 1] = 0;
    words[(end >>> 2) - 2] = 0;
    bytes.write(name, dirent + fuse_dirent.name, "latin1");
    this.#used = end;
    return true;
  };
}

/** Buffers that wait for their next use: as many as there were ever readdir calls at once. */
export class DirectoryBufferPool {
  readonly #settings: ReplySettings;
  readonly #free: DirectoryBuffer[] = [];

  constructor(settings: ReplySettings) {
    this.#settings = settings;
  }

  take(size: number, plus: boolean): DirectoryBuffer {
    const buffer = this.#free.pop() ?? new DirectoryBuffer(this.#settings);
    buffer.start(size, plus);
    return buffer;
  }

  giveBack(buffer: DirectoryBuffer): void {
    this.#free.push(buffer);
  }

  close(): void {
    for (const buffer of this.#free.splice(0)) buffer.memory.close();
  }
}
