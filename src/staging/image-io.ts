/**
 * Files in a pool that hold a staged file's bytes, and the CRC tables beside them: u32 LE, the CRC32 of each 64 KiB block, of the last
 * one as far as the file goes. Past the page cache where the filesystem takes that: half the processor time, and the kernel keeps what
 * programs read from a mount anyway.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readFileSync, readv, writeFileSync, writev } from "node:fs";
import { BLOCK_BYTES } from "../protocol/limits.ts";

/** What O_DIRECT wants lengths to be multiples of, on any device (4 KiB sectors). */
const SECTOR_BYTES = 4_096;
const CRC_BYTES = 4;

export function tablePath(imagePath: string): string {
  return `${imagePath}.crc`;
}

export function imageBlocks(bytes: number): number {
  return Math.ceil(bytes / BLOCK_BYTES);
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}

/** Opens with O_DIRECT, or without where the filesystem refuses it. */
function openDirect(path: string, flags: number): { fd: number; direct: boolean } {
  try {
    return { fd: openSync(path, flags | constants.O_DIRECT, 0o600), direct: true };
  } catch (error) {
    if (codeOf(error) !== "EINVAL") throw error;
    return { fd: openSync(path, flags, 0o600), direct: false };
  }
}

function readvOnce(fd: number, views: readonly Uint8Array[], position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    readv(fd, views, position, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

function writevOnce(fd: number, views: readonly Uint8Array[], position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    writev(fd, views, position, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

/** An image that is being made. */
export class ImageWriter implements Disposable {
  readonly #fd: number;
  /** For what is no multiple of a sector, or all of it where O_DIRECT does not work. */
  #tailFd = -1;
  readonly #path: string;
  #direct: boolean;

  /** What is there stays, so that an interrupted run can go on. @throws the system's error */
  constructor(path: string, bytes: number) {
    this.#path = path;
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW;
    ({ fd: this.#fd, direct: this.#direct } = openDirect(path, flags));
    if (fstatSync(this.#fd).size !== bytes) ftruncateSync(this.#fd, bytes);
  }

  /** Writes neighbouring blocks; only the last one of the image may be shorter than BLOCK_BYTES. @throws the system's error */
  async write(blocks: readonly Uint8Array[], position: number): Promise<void> {
    const last = blocks.at(-1);
    if (last === undefined) return;
    if (this.#direct && last.length % SECTOR_BYTES !== 0) {
      const whole = blocks.slice(0, -1);
      await this.write(whole, position);
      await this.#writeAll(this.#plainFd(), [last], position + whole.length * BLOCK_BYTES);
      return;
    }
    try {
      await this.#writeAll(this.#direct ? this.#fd : this.#plainFd(), blocks, position);
    } catch (error) {
      if (!this.#direct || codeOf(error) !== "EINVAL") throw error;
      this.#direct = false;
      await this.write(blocks, position);
    }
  }

  async #writeAll(fd: number, views: readonly Uint8Array[], position: number): Promise<void> {
    let left = views;
    for (let at = position; left.length > 0; ) {
      let written = await writevOnce(fd, left, at);
      if (written === 0) throw Object.assign(new Error(`${this.#path}: a write wrote nothing`), { code: "EIO" });
      at += written;
      let skip = 0;
      while (skip < left.length && written >= (left[skip] as Uint8Array).length) written -= (left[skip++] as Uint8Array).length;
      left = left.slice(skip);
      const [first, ...rest] = left;
      if (written > 0 && first !== undefined) left = [first.subarray(written), ...rest];
    }
  }

  #plainFd(): number {
    if (this.#tailFd < 0) this.#tailFd = openSync(this.#path, constants.O_WRONLY | constants.O_NOFOLLOW);
    return this.#tailFd;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    if (this.#tailFd >= 0) closeSync(this.#tailFd);
  }
}

/**
 * How many blocks from the first on are as the table says.
 * @param cells memory to read into, BLOCK_BYTES each @throws the system's error
 */
export async function verifiedBlocks(path: string, bytes: number, crcs: Uint32Array, cells: readonly Uint8Array[]): Promise<number> {
  const { fd } = openDirect(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    if (fstatSync(fd).size !== bytes) return 0;
    for (let block = 0; block < crcs.length; block += cells.length) {
      const views = cells.slice(0, crcs.length - block);
      const wanted = Math.min(bytes, (block + views.length) * BLOCK_BYTES) - block * BLOCK_BYTES;
      const got = await readvOnce(fd, views, block * BLOCK_BYTES);
      if (got < wanted) return block;
      for (const [i, view] of views.entries()) {
        const used = wanted - i * BLOCK_BYTES;
        if (Bun.hash.crc32(used < BLOCK_BYTES ? view.subarray(0, used) : view) !== crcs[block + i]) return block + i;
      }
    }
    return crcs.length;
  } finally {
    closeSync(fd);
  }
}

export function writeTable(path: string, crcs: Uint32Array): void {
  writeFileSync(path, new Uint8Array(crcs.buffer, crcs.byteOffset, crcs.byteLength), { mode: 0o600 });
}

/** CRC32 of a table: what says that it belongs to its image. */
export function tableSum(crcs: Uint32Array): number {
  return Bun.hash.crc32(new Uint8Array(crcs.buffer, crcs.byteOffset, crcs.byteLength));
}

/** The table, whole entries as far as it goes; empty where there is none. */
export function readTable(path: string): Uint32Array {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return new Uint32Array();
    throw error;
  }
  const entries = Math.floor(bytes.length / CRC_BYTES);
  const crcs = new Uint32Array(entries);
  new Uint8Array(crcs.buffer).set(bytes.subarray(0, entries * CRC_BYTES));
  return crcs;
}
