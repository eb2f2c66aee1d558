/**
 * Files kept open for reading. Chunks are read again and again, a few blocks at a time: with the file open, a read of 64 KiB costs one
 * trip through the thread pool (40 us here) and not four (300 us).
 */

import { closeSync, constants, fstatSync, openSync, read } from "node:fs";
import { readCached } from "../../../ffi/libc/preadv2.ts";

/** Files kept where nobody says otherwise. */
const OPEN_DEFAULT = 128;

interface OpenFile {
  readonly fd: number;
  readonly bytes: number;
  /** The same file, past the page cache; opened when first needed. */
  directFd: number | null;
  readers: number;
  /** No longer in the map: whoever reads last closes it. */
  dropped: boolean;
}

export class OpenFiles {
  readonly #max: number;
  /** Least recently used first. */
  readonly #files = new Map<string, OpenFile>();

  constructor(max = OPEN_DEFAULT) {
    this.#max = max;
  }

  /** Size of the file when it was opened. Files here never change: they are replaced. @throws the system's error */
  size(path: string): number {
    return this.#open(path).bytes;
  }

  /** Fills `target` from `offset` as far as the page cache has it, at once. @returns the bytes read @throws the system's error */
  readCached(path: string, target: Uint8Array, offset: number): number {
    return readCached(this.#open(path).fd, target, offset);
  }

  /** Fills `target` from `offset`. @returns the bytes read, fewer at the file's end */
  read(path: string, target: Uint8Array, offset: number): Promise<number> {
    const file = this.#open(path);
    return this.#read(file, file.fd, target, offset);
  }

  /**
   * The same past the page cache (O_DIRECT, open(2)): address and length of `target` and `offset` are multiples of the device's block.
   * @throws the system's error, EINVAL where the filesystem can't do it
   */
  async readDirect(path: string, target: Uint8Array, offset: number): Promise<number> {
    const file = this.#open(path);
    file.directFd ??= openSync(path, constants.O_RDONLY | constants.O_DIRECT);
    return await this.#read(file, file.directFd, target, offset);
  }

  async #read(file: OpenFile, fd: number, target: Uint8Array, offset: number): Promise<number> {
    file.readers++;
    try {
      let done = 0;
      while (done < target.length && offset + done < file.bytes) {
        const count = await readOnce(fd, target, done, offset + done);
        if (count === 0) break;
        done += count;
      }
      return done;
    } finally {
      file.readers--;
      if (file.dropped && file.readers === 0) closeFile(file);
    }
  }

  #open(path: string): OpenFile {
    const known = this.#files.get(path);
    if (known !== undefined) {
      this.#files.delete(path);
      this.#files.set(path, known);
      return known;
    }
    const fd = openSync(path, "r");
    let bytes: number;
    try {
      bytes = fstatSync(fd).size;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    const file = { fd, bytes, directFd: null, readers: 0, dropped: false };
    this.#files.set(path, file);
    if (this.#files.size > this.#max) for (const oldest of this.#files.keys()) if (this.drop(oldest)) break;
    return file;
  }

  /** The file was replaced or deleted. Reads that run go on with the old one. */
  drop(path: string): boolean {
    const file = this.#files.get(path);
    if (file === undefined) return false;
    this.#files.delete(path);
    file.dropped = true;
    if (file.readers === 0) closeFile(file);
    return true;
  }

  close(): void {
    for (const path of [...this.#files.keys()]) this.drop(path);
  }
}

function closeFile({ fd, directFd }: OpenFile): void {
  closeSync(fd);
  if (directFd !== null) closeSync(directFd);
}

function readOnce(fd: number, target: Uint8Array, at: number, offset: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, target, at, target.length - at, offset, (error, count) => {
      if (error) reject(error);
      else resolve(count);
    });
  });
}
