/**
 * Room on the disk for one pool, had before a byte is written, so that these hold at every moment and over all processes:
 *   - this pool is never larger than `maxBytes`;
 *   - all pools of the cache folder together, dead ones too until they are scrubbed, are never larger than `nodeLimitBytes`;
 *   - no byte of a cache is written while the filesystem would be more than 90 % full by it.
 *
 * Room is taken from the node in slabs, under node.lock, and given out from the slab: reserve() is a comparison. A reservation is
 * *pending* until its bytes are on the disk, where the filesystem counts them itself:
 *
 *     reserve(n) --> settle(n)  --> release(n)       written, and later unlinked
 *                \-> cancel(n)                       not written after all
 *
 * Bytes are what the disk gives: see bytesOnDisk().
 *
 * File `reserved` in the pool's folder, read by all other pools: u64 LE bytes that this pool has, or may write without asking again;
 * u64 LE how many of these may be not yet on the disk (at most). It grows under node.lock only; it may shrink at any time.
 */
import { closeSync, constants, openSync, readFileSync, statfsSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { KIB, MIB } from "../../protocol/limits.ts";
import type { CacheFolder } from "./cache-folder.ts";

export const RESERVED_FILE = "reserved";
const RESERVED_FILE_BYTES = 16;

/** The filesystem gives space in blocks of this size (ext4, XFS and tmpfs on machines with 4 KiB pages). */
const DISK_BLOCK_BYTES = 4 * KIB;
/** Room is asked for in pieces of this size: large enough to ask rarely, small enough to leave the rest to other processes. */
const SLAB_BYTES = 64 * MIB;
/** A slab is at most this part of what the pool or the node may have, so that small limits can be shared out. */
const SLAB_FRACTION = 16;
/** Of the filesystem, in use by anybody. */
const FILESYSTEM_MAX_USED = 0.9;
/** What the filesystem needs for names and extents beside the bytes themselves: so much of them. */
const OVERHEAD = 1 / 64;
/** Of the filesystem, all pools together, where nobody says otherwise. */
const DEFAULT_NODE_SHARE = 0.8;
/** After a refusal the node is not asked again for so long: a full disk must cost readers nothing. */
const REFUSAL_MS = 100;

export interface SpaceLimits {
  /** This pool's, in bytes. */
  readonly maxBytes: number;
  /** All pools', in bytes, for a filesystem of this size. Default: 80 % of it. */
  readonly nodeLimitBytes?: ((filesystemBytes: number) => number) | undefined;
}

/** What the node has, as df shows it: blocks that only root may take are no room. */
interface Filesystem {
  readonly totalBytes: number;
  readonly usableBytes: number;
  readonly usedBytes: number;
}

/** What `bytes` of a file take up on the disk: whole blocks. */
export function bytesOnDisk(bytes: number): number {
  return Math.ceil(bytes / DISK_BLOCK_BYTES) * DISK_BLOCK_BYTES;
}

/** What a pool says it has; zeros where there is no such file. */
export function readReserved(poolPath: string): { reservedBytes: number; unwrittenBytes: number } {
  let content: Buffer;
  try {
    content = readFileSync(join(poolPath, RESERVED_FILE));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return { reservedBytes: 0, unwrittenBytes: 0 };
    throw error;
  }
  if (content.length < RESERVED_FILE_BYTES) return { reservedBytes: 0, unwrittenBytes: 0 };
  return { reservedBytes: Number(content.readBigUInt64LE(0)), unwrittenBytes: Number(content.readBigUInt64LE(8)) };
}

/** Says what is left of a pool that nobody writes into any more. */
export function writeReserved(poolPath: string, bytes: number): void {
  const record = Buffer.alloc(RESERVED_FILE_BYTES);
  record.writeBigUInt64LE(BigInt(bytes), 0);
  writeFileSync(join(poolPath, RESERVED_FILE), record, { mode: 0o600 });
}

export class Space implements Disposable {
  readonly maxBytes: number;
  readonly #folder: CacheFolder;
  readonly #poolPath: string;
  readonly #nodeLimitBytes: (filesystemBytes: number) => number;
  readonly #fd: number;
  readonly #record = Buffer.alloc(RESERVED_FILE_BYTES);
  /** On the disk. */
  #settled = 0;
  /** Given out, and not yet on the disk. */
  #pending = 0;
  /** Had from the node, and not given out. */
  #free = 0;
  /** What the file says may be unwritten: never less than #pending + #free. */
  #unwrittenMax = 0;
  #refusedUntil = 0;
  #closed = false;

  /** Goes on from what the file `reserved` says; makes it. For pool.ts. */
  constructor(folder: CacheFolder, poolPath: string, limits: SpaceLimits) {
    this.maxBytes = limits.maxBytes;
    this.#folder = folder;
    this.#poolPath = poolPath;
    this.#nodeLimitBytes = limits.nodeLimitBytes ?? ((filesystemBytes) => Math.floor(filesystemBytes * DEFAULT_NODE_SHARE));
    this.#settled = readReserved(poolPath).reservedBytes;
    this.#fd = openSync(join(poolPath, RESERVED_FILE), constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  }

  /** Given out and not released. */
  get usedBytes(): number {
    return this.#settled + this.#pending;
  }

  /**
   * Room for `bytes` more, or false. Never waits: where another process holds node.lock it is false too.
   * @param bytes as bytesOnDisk() gives them
   */
  reserve(bytes: number): boolean {
    if (bytes > this.#free && !this.#growNow(bytes)) return false;
    this.#free -= bytes;
    this.#pending += bytes;
    return true;
  }

  /** As reserve(), but waits for node.lock: false says that there is no room. @throws CacheFolderError */
  async reserveSoon(bytes: number): Promise<boolean> {
    if (bytes > this.#free && this.#couldGrow(bytes) && !(await this.#folder.withNodeLock(() => this.#grow(bytes)))) return false;
    // Others may have taken from the slab meanwhile; then once more.
    if (bytes > this.#free) return this.#couldGrow(bytes) ? this.reserveSoon(bytes) : false;
    this.#free -= bytes;
    this.#pending += bytes;
    return true;
  }

  /** Reserved bytes are on the disk now. */
  settle(bytes: number): void {
    const moved = Math.min(bytes, this.#pending);
    this.#pending -= moved;
    this.#settled += moved;
  }

  /** Reserved bytes will not be written. */
  cancel(bytes: number): void {
    const moved = Math.min(bytes, this.#pending);
    this.#pending -= moved;
    this.#keepOrReturn(moved);
  }

  /** Settled bytes have been unlinked. */
  release(bytes: number): void {
    const moved = Math.min(bytes, this.#settled);
    this.#settled -= moved;
    this.#keepOrReturn(moved);
  }

  /** What was found on the disk, by who has looked at every file: counts from now on instead of what is settled. */
  restate(settledBytes: number): void {
    this.#settled = settledBytes;
    this.trim();
  }

  /** Gives the unused part of the slab back to the node. */
  trim(): void {
    this.#free = 0;
    this.#unwrittenMax = this.#pending;
    this.#write();
  }

  /** From now on there is no room. The file stays as it is, for who takes the pool over. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#free = 0;
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Bytes that were used and are not any more: into the slab as far as the node knows of them, the rest back to the node. */
  #keepOrReturn(bytes: number): void {
    this.#refusedUntil = 0;
    const kept = Math.min(bytes, this.#unwrittenMax - this.#pending - this.#free);
    this.#free += kept;
    if (kept < bytes) this.#write();
  }

  #couldGrow(bytes: number): boolean {
    return !this.#closed && this.#settled + this.#pending + bytes <= this.maxBytes;
  }

  #growNow(bytes: number): boolean {
    if (!this.#couldGrow(bytes) || performance.now() < this.#refusedUntil) return false;
    try {
      const grown = this.#folder.tryWithNodeLock(() => this.#grow(bytes));
      if (grown === null) return false;
      if (!grown.result) this.#refusedUntil = performance.now() + REFUSAL_MS;
      return grown.result;
    } catch {
      // The cache folder is gone or can't be read: no room.
      this.#refusedUntil = performance.now() + REFUSAL_MS;
      return false;
    }
  }

  /** Makes the slab at least `bytes` large. Under node.lock. False: some limit forbids it. */
  #grow(bytes: number): boolean {
    if (this.#closed) return false;
    const filesystem = readFilesystem(this.#folder.path);
    const nodeLimit = this.#nodeLimitBytes(filesystem.totalBytes);
    const own = this.#settled + this.#pending + this.#free;
    let nodeReserved = own;
    let unwritten = this.#pending + this.#free;
    for (const { path } of this.#folder.pools()) {
      if (path === this.#poolPath) continue;
      const other = readReserved(path);
      nodeReserved += other.reservedBytes;
      unwritten += other.unwrittenBytes;
    }
    const unused = filesystem.usableBytes * FILESYSTEM_MAX_USED - filesystem.usedBytes;
    const room = Math.min(this.maxBytes - own, nodeLimit - nodeReserved, Math.floor(unused / (1 + OVERHEAD)) - unwritten);
    const slab = Math.min(SLAB_BYTES, Math.floor(this.maxBytes / SLAB_FRACTION), Math.floor(nodeLimit / SLAB_FRACTION));
    const missing = bytes - this.#free;
    if (room < missing) return false;
    this.#free += Math.min(Math.max(missing, slab), room);
    this.#unwrittenMax = this.#pending + this.#free;
    this.#write();
    return true;
  }

  #write(): void {
    if (this.#closed) return;
    this.#record.writeBigUInt64LE(BigInt(this.#settled + this.#pending + this.#free), 0);
    this.#record.writeBigUInt64LE(BigInt(this.#unwrittenMax), 8);
    writeSync(this.#fd, this.#record, 0, RESERVED_FILE_BYTES, 0);
  }
}

function readFilesystem(path: string): Filesystem {
  const { bsize, blocks, bfree, bavail } = statfsSync(path);
  const usedBytes = (blocks - bfree) * bsize;
  return { totalBytes: blocks * bsize, usableBytes: usedBytes + bavail * bsize, usedBytes };
}
