/**
 * Chunks as files: <root>/<first 2 hex digits>/<64 hex digits>. A file is the sealed chunk and a trailer of 8 bytes:
 *
 *     magic:4 "kchk"   crc32:4 of the sealed chunk (big-endian)
 *
 * The node can't open a chunk, so the trailer is how it knows its own disk's mistakes. A chunk is whole or not there: chunk-writer.ts.
 */
import { ptr } from "bun:ffi";
import { existsSync, mkdirSync, readdirSync, rmSync, statfsSync, statSync } from "node:fs";
import { readdir, stat, unlink, utimes } from "node:fs/promises";
import { join } from "node:path";
import { NodeError } from "../../protocol/errors.ts";
import { CHUNK_HEADER_BYTES, CHUNK_ID_BYTES, CHUNK_PARTS, MIB, SEALED_CHUNK_MAX_BYTES, TAG_BYTES } from "../../protocol/limits.ts";
import { giveBuffer, takeBuffer } from "../../transport/buffer-pool.ts";
import type { TenantSlots } from "../disk-slots.ts";
import { chunkName } from "../engines/chunk-list.ts";
import type { MaybePromise } from "../engines/engine.ts";
import { syncFolder } from "../engines/file-sync.ts";
import { toNodeError } from "../engines/sqlite-errors.ts";
import type { PromisedBytes } from "../space-credits.ts";
import type { ChunkInfo, ChunkPart, ChunkStore, TakeMemory } from "./chunk-store.ts";
import { ChunkUsage } from "./chunk-usage.ts";
import { ChunkWriter } from "./chunk-writer.ts";
import { OpenFiles } from "./open-files.ts";
import { ReadOnce } from "./read-once.ts";

const TRAILER_MAGIC = 0x6b63686b;
const TRAILER_BYTES = 8;
/** Header, and one block with at least one byte. */
const SEALED_CHUNK_MIN_BYTES = CHUNK_HEADER_BYTES + 1 + TAG_BYTES;
/** Ids known to be there, so that a commit asks memory and not the disk: 64 Ki ids, some 8 MiB. */
const KNOWN_MAX = 65_536;
/**
 * New chunks are refused when the disk has less left than this, or than that part of it if that is less: records still get through then,
 * so that a user can make room by deleting files.
 */
const RESERVE_BYTES = 64 * MIB;
const RESERVE_PART = 0.05;
/** A part of this size at most is read synchronously where the page cache has it: 15 us for 64 KiB against 50 through the thread pool. */
const READ_AT_ONCE_MAX_BYTES = 1 * MIB;
/** A read of this size at least, of what the page cache has not got, may go past it. */
const READ_DIRECT_MIN_BYTES = 512 * 1024;
/** Position, length and memory of such a read are multiples of this (open(2), O_DIRECT). */
const DEVICE_BLOCK_BYTES = 4_096;
const CHUNK_FILE_PATTERN = /^[0-9a-f]{64}$/;

function partName(part: number): string {
  return part.toString(16).padStart(2, "0");
}

function hex(id: Uint8Array): string {
  return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString("hex");
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

/** What the stores of several tenants share. */
export interface SharedDisk {
  readonly open?: OpenFiles | undefined;
  readonly slots?: TenantSlots;
  readonly promised?: PromisedBytes;
}

export class LocalChunkStore implements ChunkStore {
  readonly #root: string;
  readonly #aside: string;
  readonly #open: OpenFiles;
  readonly #slots: TenantSlots | null;
  readonly #writer = new ChunkWriter();
  readonly #readOnce = new ReadOnce();
  /** False once the filesystem has refused direct reads. */
  #canReadDirect = true;
  readonly #known = new Set<string>();
  /** Ids whose file failed its checksum or may not survive power loss: the next put writes it anew. */
  readonly #damaged = new Set<string>();
  /** Puts and deletes in flight by id: of one id there is one at a time. */
  readonly #busy = new Map<string, Promise<unknown>>();
  /** Ids whose deletion is being decided or done. */
  readonly #deleting = new Set<string>();
  #asideCount = 0;
  readonly #usage = new ChunkUsage();
  readonly extraBytes = TRAILER_BYTES;
  readonly promised: PromisedBytes;

  /** Makes both folders (mode 0700); whatever an earlier process left in `aside` is removed. @throws NodeError */
  constructor(root: string, aside: string, { open, slots, promised }: SharedDisk = {}) {
    this.promised = promised ?? { bytes: 0 };
    this.#open = open ?? new OpenFiles();
    this.#slots = slots ?? null;
    this.#root = root;
    this.#aside = aside;
    try {
      mkdirSync(root, { recursive: true, mode: 0o700 });
      mkdirSync(aside, { recursive: true, mode: 0o700 });
      for (const name of readdirSync(aside)) rmSync(join(aside, name), { force: true });
      // All 256 at once: a put then never has to fsync more than its own folder.
      for (let i = 0; i < CHUNK_PARTS; i++) {
        const folder = join(root, partName(i));
        // A process that was killed between rename and fsync has left names that a put would now take for safe.
        if (existsSync(folder)) syncFolder(folder);
        else mkdirSync(folder, { mode: 0o700 });
      }
      syncFolder(root);
    } catch (error) {
      throw toNodeError(error);
    }
  }

  #path(id: Uint8Array): string {
    if (id.length !== CHUNK_ID_BYTES) throw new NodeError("bad_request", `expected a chunk id of ${CHUNK_ID_BYTES} bytes`);
    const name = hex(id);
    return join(this.#root, name.slice(0, 2), name);
  }

  #remember(name: string): void {
    // Oldest first: a Set keeps the order of insertion.
    if (this.#known.size >= KNOWN_MAX) for (const oldest of this.#known) if (this.#known.delete(oldest)) break;
    this.#known.add(name);
  }

  /** Runs `work` when no other put or delete of this id runs. */
  async #alone<T>(id: Uint8Array, work: () => Promise<T>): Promise<T> {
    const name = chunkName(id);
    for (let other = this.#busy.get(name); other !== undefined; other = this.#busy.get(name)) await other;
    const running = work();
    const settled = running.then(
      () => {},
      () => {},
    );
    this.#busy.set(name, settled);
    try {
      return await running;
    } finally {
      this.#busy.delete(name);
    }
  }

  async put(id: Uint8Array, body: Uint8Array, isPromised = false): Promise<{ existed: boolean }> {
    if (body.length < SEALED_CHUNK_MIN_BYTES || body.length > SEALED_CHUNK_MAX_BYTES) {
      throw new NodeError(
        "bad_request",
        `a sealed chunk has ${SEALED_CHUNK_MIN_BYTES} to ${SEALED_CHUNK_MAX_BYTES} bytes, got ${body.length}`,
      );
    }
    const path = this.#path(id);
    return await this.#alone(id, async () => {
      try {
        if (!this.#damaged.has(chunkName(id)) && (await this.#touch(path, body.length))) {
          this.#remember(chunkName(id));
          return { existed: true };
        }
        if (!isPromised) this.#checkRoom(body.length);
        await this.#usage.change(
          id[0] ?? 0,
          () => this.#sizeOf(path),
          () => this.#onDisk(() => this.#write(path, body)),
        );
        this.#open.drop(path);
        this.#damaged.delete(chunkName(id));
        this.#remember(chunkName(id));
        return { existed: false };
      } catch (error) {
        // It may have its name already, which is not on the disk: the next put must not find it there and call it safe.
        if (existsSync(path)) this.#damaged.add(chunkName(id));
        throw toNodeError(error);
      }
    });
  }

  #sizeOf(path: string): number {
    return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** What occupies a thread of the pool, and the disk. */
  #onDisk<T>(work: () => Promise<T>): Promise<T> {
    return this.#slots === null ? work() : this.#slots.use(work);
  }

  /** Marks a chunk as just put. False where it isn't there, or is shorter than it must be. */
  async #touch(path: string, bodyBytes: number): Promise<boolean> {
    if (!existsSync(path)) return false;
    try {
      const { size } = await stat(path);
      if (size !== bodyBytes + TRAILER_BYTES) return false;
      const now = new Date();
      await utimes(path, now, now);
      return true;
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
  }

  #checkRoom(bytes: number): void {
    if (this.space().freeBytes < bytes) throw new NodeError("no_space", "the node's disk is full");
  }

  async #write(path: string, body: Uint8Array): Promise<void> {
    const aside = join(this.#aside, `${process.pid}-${this.#asideCount++}`);
    const trailer = Buffer.allocUnsafe(TRAILER_BYTES);
    trailer.writeUInt32BE(TRAILER_MAGIC, 0);
    trailer.writeUInt32BE(Bun.hash.crc32(body), 4);
    await this.#writer.write(aside, path, body, trailer);
  }

  /** What the page cache has is read at once, but for large parts: those would hold the event loop for a millisecond. */
  get(id: Uint8Array, offset: number, length: number, take: TakeMemory = takeBuffer): MaybePromise<ChunkPart> {
    const path = this.#path(id);
    try {
      const totalBytes = this.#open.size(path) - TRAILER_BYTES;
      if (totalBytes < 0) throw this.#damage(id, "is cut short");
      const end = Math.min(totalBytes, offset + length);
      if (offset >= end) return { bytes: new Uint8Array(0), totalBytes };
      const whole = offset === 0 && end === totalBytes;
      if (end - offset >= READ_DIRECT_MIN_BYTES && this.#passesCache(id, path, offset, end)) {
        return this.#onDisk(() => this.#readDirect(id, path, offset, end, totalBytes, take));
      }
      const buffer = take(end - offset + (whole ? TRAILER_BYTES : 0));
      const done = buffer.length <= READ_AT_ONCE_MAX_BYTES ? this.#open.readCached(path, buffer, offset) : 0;
      if (done === buffer.length) return this.#checked(id, buffer, totalBytes, whole);
      return this.#onDisk(() => this.#readOn(id, path, buffer, done, offset, totalBytes, whole));
    } catch (error) {
      return Promise.reject(readError(id, error));
    }
  }

  #passesCache(id: Uint8Array, path: string, offset: number, end: number): boolean {
    if (!this.#readOnce.isFirst(chunkName(id), offset, end) || !this.#canReadDirect) return false;
    return this.#open.readCached(path, probe, offset) === 0;
  }

  /** Reads whole blocks of the device around bytes [offset, end). */
  async #readDirect(id: Uint8Array, path: string, offset: number, end: number, totalBytes: number, take: TakeMemory): Promise<ChunkPart> {
    const whole = offset === 0 && end === totalBytes;
    const start = offset - (offset % DEVICE_BLOCK_BYTES);
    const wantedEnd = end + (whole ? TRAILER_BYTES : 0);
    const buffer = take(Math.ceil((wantedEnd - start) / DEVICE_BLOCK_BYTES) * DEVICE_BLOCK_BYTES);
    try {
      const count =
        ptr(buffer) % DEVICE_BLOCK_BYTES === 0
          ? await this.#open.readDirect(path, buffer, start).catch((error: unknown) => {
              if (!(error instanceof Error && "code" in error && error.code === "EINVAL")) throw error;
              this.#canReadDirect = false;
              return this.#open.read(path, buffer, start);
            })
          : await this.#open.read(path, buffer, start);
      if (start + count < wantedEnd) throw this.#damage(id, "is cut short");
      return this.#checked(id, buffer.subarray(offset - start, wantedEnd - start), totalBytes, whole);
    } catch (error) {
      giveBuffer(buffer);
      throw readError(id, error);
    }
  }

  async #readOn(
    id: Uint8Array,
    path: string,
    buffer: Uint8Array,
    done: number,
    offset: number,
    totalBytes: number,
    whole: boolean,
  ): Promise<ChunkPart> {
    try {
      const count = await this.#open.read(path, buffer.subarray(done), offset + done);
      if (done + count < buffer.length) throw this.#damage(id, "is cut short");
      return this.#checked(id, buffer, totalBytes, whole);
    } catch (error) {
      giveBuffer(buffer);
      throw readError(id, error);
    }
  }

  #checked(id: Uint8Array, buffer: Uint8Array, totalBytes: number, whole: boolean): ChunkPart {
    if (whole && !trailerFits(buffer)) throw this.#damage(id, "fails its checksum");
    const bytes = whole ? buffer.subarray(0, totalBytes) : buffer;
    return { bytes, totalBytes, release: () => giveBuffer(buffer) };
  }

  #damage(id: Uint8Array, how: string): NodeError {
    this.#damaged.add(chunkName(id));
    this.#open.drop(this.#path(id));
    return new NodeError("damaged", `chunk ${hex(id)} ${how}`);
  }

  exists(id: Uint8Array): boolean {
    const name = chunkName(id);
    if (this.#known.has(name)) return true;
    if (this.#deleting.has(name) || !existsSync(this.#path(id))) return false;
    this.#remember(name);
    return true;
  }

  async delete(id: Uint8Array, keep: (touchedMs: number) => MaybePromise<boolean>): Promise<boolean> {
    const path = this.#path(id);
    return await this.#alone(id, async () => {
      const name = chunkName(id);
      this.#known.delete(name);
      this.#deleting.add(name);
      try {
        if (await keep(statSync(path).mtimeMs)) return false;
        await this.#usage.change(
          id[0] ?? 0,
          () => this.#sizeOf(path),
          () => unlink(path),
        );
        this.#open.drop(path);
        return true;
      } catch (error) {
        if (isMissing(error)) return false;
        throw toNodeError(error);
      } finally {
        this.#deleting.delete(name);
      }
    });
  }

  async listPart(part: number): Promise<ChunkInfo[]> {
    const folder = join(this.#root, partName(part));
    const found: ChunkInfo[] = [];
    try {
      for (const name of await readdir(folder)) {
        if (!CHUNK_FILE_PATTERN.test(name)) continue;
        // Synchronous: 1 us against 50 us through the thread pool, and a folder has few.
        const stats = statSync(join(folder, name), { throwIfNoEntry: false });
        if (stats === undefined) continue;
        found.push({ id: Uint8Array.fromHex(name), bytes: Math.max(0, stats.size - TRAILER_BYTES), touchedMs: stats.mtimeMs });
      }
    } catch (error) {
      throw toNodeError(error);
    }
    return found;
  }

  async verify(id: Uint8Array): Promise<string | null> {
    try {
      const { release } = await this.get(id, 0, SEALED_CHUNK_MAX_BYTES);
      release?.();
      return null;
    } catch (error) {
      if (error instanceof NodeError && error.code === "damaged") return error.message;
      return `chunk ${hex(id)} can't be read: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  usedBytes(): MaybePromise<number> {
    if (this.#usage.isCounted) return this.#usage.bytes;
    return this.#usage.count((part) => this.#partBytes(part));
  }

  /** In one turn: no put or delete is noted in between. */
  #partBytes(part: number): number {
    const folder = join(this.#root, partName(part));
    let bytes = 0;
    for (const name of readdirSync(folder)) bytes += statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0;
    return bytes;
  }

  close(): void {
    this.#open.close();
  }

  space(): { totalBytes: number; freeBytes: number } {
    const { bsize, blocks, bavail } = statfsSync(this.#root);
    const totalBytes = bsize * blocks;
    // The reserve is not for chunks: df would say that there is room, and writes would meet ENOSPC.
    const reserveBytes = Math.min(RESERVE_BYTES, RESERVE_PART * totalBytes);
    return { totalBytes, freeBytes: Math.max(0, Math.floor(bsize * bavail - reserveBytes)) };
  }
}

/** Where a look into the page cache puts what it finds. */
const probe = Buffer.allocUnsafeSlow(DEVICE_BLOCK_BYTES);

function readError(id: Uint8Array, error: unknown): NodeError {
  return isMissing(error) ? new NodeError("not_found", `no chunk ${hex(id)}`) : toNodeError(error);
}

function trailerFits(file: Uint8Array): boolean {
  const end = file.length - TRAILER_BYTES;
  const trailer = Buffer.from(file.buffer, file.byteOffset + end, TRAILER_BYTES);
  return trailer.readUInt32BE(0) === TRAILER_MAGIC && trailer.readUInt32BE(4) === Bun.hash.crc32(file.subarray(0, end));
}
