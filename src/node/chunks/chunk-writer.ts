/**
 * Writes a chunk's file so that it is whole or not there: aside, fsynced, renamed, the folder fsynced.
 *
 * The bytes go past the page cache (O_DIRECT, open(2)) where the filesystem and the buffer allow it: putting 4 MiB into fresh pages and
 * writing those back took 6 to 10 ms of CPU and 250 MiB/s with eight files at a time, directly 0.5 ms and 1,500 MiB/s; whoever has put
 * a chunk keeps it in its own cache. What changes a folder or an inode goes through the thread pool: while a journal commit of the
 * filesystem runs (every fsync asks for one), such a call can wait for tens of milliseconds.
 */
import { ptr } from "bun:ffi";
import { closeSync, constants, fdatasync, ftruncate, open, openSync, rename, unlink, write, writev } from "node:fs";
import { dirname } from "node:path";
import { FileSync } from "../engines/file-sync.ts";

/** Position, length and memory of direct writes are multiples of the device's logical block: 512 or 4,096 bytes (open(2), O_DIRECT). */
const BLOCK_BYTES = 4_096;
/** Below this a direct write saves nothing. */
const DIRECT_MIN_BYTES = 32 * 1024;

interface OpenFolder {
  readonly sync: FileSync;
  users: number;
}

function isUnsupported(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "EINVAL";
}

export class ChunkWriter {
  /** Folders that are being fsynced: puts that are in flight together share it. */
  readonly #folders = new Map<string, OpenFolder>();
  /** Last blocks of files, page-aligned. */
  readonly #tails: Buffer[] = [];
  /** tmpfs, for one, has no O_DIRECT before Linux 6.6. */
  #direct = true;

  /** Resolves when `path` holds `body` and `trailer` (shorter than a block) and survives power loss. @throws the system's errors */
  async write(aside: string, path: string, body: Uint8Array, trailer: Uint8Array): Promise<void> {
    try {
      await this.#writeFile(aside, body, trailer);
      await done((callback) => rename(aside, path, callback));
    } catch (error) {
      // It was not made, or goes with the next start.
      await done((callback) => unlink(aside, callback)).catch(() => {});
      throw error;
    }
    await this.#syncFolder(dirname(path));
  }

  async #writeFile(aside: string, body: Uint8Array, trailer: Uint8Array): Promise<void> {
    if (this.#direct && body.length >= DIRECT_MIN_BYTES && ptr(body) % BLOCK_BYTES === 0) {
      try {
        await this.#writeDirect(aside, body, trailer);
        return;
      } catch (error) {
        if (!isUnsupported(error)) throw error;
        this.#direct = false;
      }
    }
    const fd = await openNew(aside, 0);
    try {
      await writeAll(fd, body, 0);
      await writeAll(fd, trailer, body.length);
      await done((callback) => fdatasync(fd, callback));
    } finally {
      closeSync(fd);
    }
  }

  /** Whole blocks of the body from where they lie, and the rest with the trailer as one more block; then cut to its length. */
  async #writeDirect(aside: string, body: Uint8Array, trailer: Uint8Array): Promise<void> {
    const wholeBytes = body.length - (body.length % BLOCK_BYTES);
    const rest = body.subarray(wholeBytes);
    const tailBytes = rest.length + trailer.length > BLOCK_BYTES ? 2 * BLOCK_BYTES : BLOCK_BYTES;
    const memory = this.#tails.pop() ?? alignedBuffer(2 * BLOCK_BYTES);
    const tail = memory.subarray(0, tailBytes).fill(0);
    tail.set(rest, 0);
    tail.set(trailer, rest.length);
    const fd = await openNew(aside, constants.O_DIRECT);
    try {
      const written = await writeBoth(fd, body.subarray(0, wholeBytes), tail);
      // A short direct write ends at a block: go on from there.
      if (written < wholeBytes) await writeAll(fd, body.subarray(written, wholeBytes), written);
      if (written < wholeBytes + tailBytes) {
        const inTail = Math.max(0, written - wholeBytes);
        await writeAll(fd, tail.subarray(inTail), wholeBytes + inTail);
      }
      await done((callback) => ftruncate(fd, body.length + trailer.length, callback));
      await done((callback) => fdatasync(fd, callback));
    } finally {
      closeSync(fd);
    }
    this.#tails.push(memory);
  }

  async #syncFolder(path: string): Promise<void> {
    let folder = this.#folders.get(path);
    if (folder === undefined) {
      folder = { sync: new FileSync(openSync(path, "r"), true), users: 0 };
      this.#folders.set(path, folder);
    }
    folder.users++;
    try {
      await folder.sync.sync();
    } catch (error) {
      // For those who share it, it fails for good: whoever comes later begins anew.
      if (this.#folders.get(path) === folder) this.#folders.delete(path);
      throw error;
    } finally {
      folder.users--;
      if (folder.users === 0) {
        if (this.#folders.get(path) === folder) this.#folders.delete(path);
        folder.sync.close();
      }
    }
  }
}

/** Memory whose first byte stands at a block's start. */
function alignedBuffer(bytes: number): Buffer {
  const memory = Buffer.allocUnsafeSlow(bytes + BLOCK_BYTES);
  const start = (BLOCK_BYTES - (ptr(memory) % BLOCK_BYTES)) % BLOCK_BYTES;
  return memory.subarray(start, start + bytes);
}

async function writeAll(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += await new Promise<number>((resolve, reject) => {
      write(fd, bytes, done, bytes.length - done, position + done, (error, count) => (error ? reject(error) : resolve(count)));
    });
  }
}

function writeBoth(fd: number, first: Uint8Array, second: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    writev(fd, [first, second], 0, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

function openNew(path: string, flags: number): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | flags, 0o600, (error, fd) =>
      error ? reject(error) : resolve(fd),
    );
  });
}

/** A call that has no result. */
function done(start: (callback: (error: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((error) => (error ? reject(error) : resolve()));
  });
}
