/**
 * The Worker that writes and destroys chunk files: one job after the other, so that what is asked for on one file happens in that order.
 * Reads don't come here (chunk-files.ts), and so never wait for a write.
 */
import { CFunction, type Pointer } from "bun:ffi";
import {
  closeSync,
  constants,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
  writevSync,
} from "node:fs";
import { blockBytes, blockCount } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import { chunkCrc32, TRAILER_BYTES } from "./chunk-trailer.ts";
import type {
  DestroyJob,
  DiskJob,
  DiskJobResult,
  FromDiskWorker,
  NumberedJob,
  ToDiskWorker,
  TrailerJob,
  VerifyJob,
  WriteJob,
} from "./disk-jobs.ts";

declare const self: Worker;

/** unistd.h */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/** sys/resource.h */
const PRIO_PROCESS = 0;
/** A tenth of the processor time of others who want it, nice(2). */
const NICE = 10;
const STAT_BLOCK_BYTES = 512;
/** What O_DIRECT wants lengths to be multiples of, on any device. */
const SECTOR_BYTES = 4_096;

type Seek = (fd: number, offset: number, whence: number) => number | bigint;

let seek: Seek | null = null;
let cells: Uint8Array[] = [];
let memory = new SharedArrayBuffer(0);
/** Past the page cache: chunks are read again from L1, and a write costs half the processor time. False where the filesystem refuses. */
let direct = true;
/** The last block of a chunk, the trailer, and zeros to a whole sector: large enough to be page-aligned. */
const end = Buffer.from(new ArrayBuffer(2 * BLOCK_BYTES));
const zeros = new Uint8Array(CHUNK_MAX_BYTES);

function cellBytes(cell: number, bytes: number): Uint8Array {
  if (bytes < BLOCK_BYTES) return new Uint8Array(memory, cell * BLOCK_BYTES, bytes);
  cells[cell] ??= new Uint8Array(memory, cell * BLOCK_BYTES, BLOCK_BYTES);
  return cells[cell];
}

function write({ path, id, create, chunkBytes, firstBlock, cells: numbers }: WriteJob): number[] {
  const views = numbers.map((cell, i) => cellBytes(cell, blockBytes(chunkBytes, firstBlock + i)));
  const crcs = views.map((view) => Bun.hash.crc32(view));
  const isAll = views.length === blockCount(chunkBytes);
  let flags = constants.O_WRONLY | constants.O_NOFOLLOW;
  if (create) flags |= constants.O_CREAT | constants.O_EXCL;
  try {
    if (isAll) writeChunk(path, flags, views, chunkBytes, chunkCrc32(id, chunkBytes, crcs));
    else writeBlocks(path, flags, views, firstBlock * BLOCK_BYTES);
  } catch (error) {
    if (create && !isExisting(error)) tryDestroy(path);
    throw error;
  }
  return crcs;
}

/** A whole chunk and its trailer, which fills a last sector of the disk with what is behind the last whole block. */
function writeChunk(path: string, flags: number, views: readonly Uint8Array[], chunkBytes: number, crc: number): void {
  const whole = views.filter((view) => view.length === BLOCK_BYTES);
  const tailBytes = chunkBytes % BLOCK_BYTES;
  const rest = end.subarray(0, Math.ceil((tailBytes + TRAILER_BYTES) / SECTOR_BYTES) * SECTOR_BYTES).fill(0);
  if (tailBytes > 0) rest.set(views.at(-1) as Uint8Array);
  rest.writeUInt32LE(crc, tailBytes);
  try {
    if (whole.length > 0) writeWhole(path, flags, [...whole, rest], 0, chunkBytes + TRAILER_BYTES);
    // A small file: waiting for the device takes longer than all the rest.
    else withFile(path, flags, (fd) => writeAll(fd, [rest.subarray(0, tailBytes + TRAILER_BYTES)], 0));
  } finally {
    rest.fill(0);
  }
}

/** Some blocks of a chunk. */
function writeBlocks(path: string, flags: number, views: readonly Uint8Array[], position: number): void {
  // The last block of a chunk may be no multiple of what the device takes.
  const whole = views.filter((view) => view.length === BLOCK_BYTES);
  const tail = views.find((view) => view.length < BLOCK_BYTES);
  if (whole.length > 0) writeWhole(path, flags, whole, position, null);
  const tailFlags = whole.length > 0 ? constants.O_WRONLY | constants.O_NOFOLLOW : flags;
  if (tail !== undefined) withFile(path, tailFlags, (fd) => writeAll(fd, [tail], position + whole.length * BLOCK_BYTES));
}

/** Writes whole sectors, past the page cache where that can be done, and then cuts the file to `size`, if one is given. */
function writeWhole(path: string, flags: number, views: readonly Uint8Array[], position: number, size: number | null): void {
  const use = (fd: number): void => {
    writeAll(fd, views, position);
    if (size !== null) ftruncateSync(fd, size);
  };
  if (direct) {
    try {
      withFile(path, flags | constants.O_DIRECT, use);
      return;
    } catch (error) {
      if (codeOf(error) !== "EINVAL") throw error;
      direct = false;
    }
  }
  withFile(path, flags & ~constants.O_EXCL, use);
}

function writeAll(fd: number, views: readonly Uint8Array[], position: number): void {
  let left = [...views];
  let at = position;
  while (left.length > 0) {
    let written = writevSync(fd, left, at);
    if (written === 0) throw Object.assign(new Error("a write wrote nothing"), { code: "EIO" });
    at += written;
    while (left[0] !== undefined && written >= left[0].length) {
      written -= left[0].length;
      left = left.slice(1);
    }
    if (left[0] !== undefined && written > 0) left[0] = left[0].subarray(written);
  }
}

function writeTrailer({ path, chunkBytes, crc }: TrailerJob): void {
  const trailer = Buffer.alloc(TRAILER_BYTES);
  trailer.writeUInt32LE(crc);
  withFile(path, constants.O_WRONLY | constants.O_NOFOLLOW, (fd) => writeAll(fd, [trailer], chunkBytes));
}

function verify({ path, id, chunkBytes }: VerifyJob): number[] {
  const file = Buffer.allocUnsafe(chunkBytes + TRAILER_BYTES);
  let got = 0;
  withFile(path, constants.O_RDONLY | constants.O_NOFOLLOW, (fd) => {
    for (let count = 1; got < file.length && count > 0; got += count) count = readSync(fd, file, got, file.length - got, got);
  });
  const data = file.subarray(0, chunkBytes);
  const crc = Bun.hash.crc32(data, Bun.hash.crc32(id));
  if (got < file.length || file.readUInt32LE(chunkBytes) !== crc) throw new Error(`${path} is not the chunk that it should be`);
  return Array.from({ length: blockCount(chunkBytes) }, (_, block) =>
    Bun.hash.crc32(data.subarray(block * BLOCK_BYTES, block * BLOCK_BYTES + blockBytes(chunkBytes, block))),
  );
}

/** A file that is gone already is as good as destroyed. */
function destroy({ path }: DestroyJob): void {
  let failure: unknown = null;
  try {
    withFile(path, constants.O_WRONLY | constants.O_NOFOLLOW, overwrite);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    failure = error;
  }
  // What can't be overwritten is deleted all the same.
  unlinkSync(path);
  if (failure !== null) throw failure;
}

function tryDestroy(path: string): void {
  try {
    destroy({ kind: "destroy", path });
  } catch {
    // The failure that led here is told.
  }
}

function overwrite(fd: number): void {
  const { size, blocks } = fstatSync(fd);
  if (blocks * STAT_BLOCK_BYTES >= size) {
    overwriteRange(fd, 0, size);
  } else {
    for (let at = 0; at < size; ) {
      const from = find(fd, at, SEEK_DATA);
      if (from < 0 || from >= size) break;
      at = Math.min(Math.max(find(fd, from, SEEK_HOLE), from + 1), size);
      overwriteRange(fd, from, at);
    }
  }
  fdatasyncSync(fd);
}

function find(fd: number, at: number, whence: number): number {
  return Number(seek?.(fd, at, whence) ?? -1);
}

function overwriteRange(fd: number, from: number, to: number): void {
  for (let at = from; at < to; ) at += writeSync(fd, zeros, 0, Math.min(zeros.length, to - at), at);
}

function withFile(path: string, flags: number, use: (fd: number) => void): void {
  const fd = openSync(path, flags, 0o600);
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

function isExisting(error: unknown): boolean {
  return codeOf(error) === "EEXIST";
}

function run(job: DiskJob): readonly number[] {
  if (job.kind === "write") return write(job);
  if (job.kind === "verify") return verify(job);
  if (job.kind === "trailer") writeTrailer(job);
  else destroy(job);
  return [];
}

function resultOf({ id, job }: NumberedJob): DiskJobResult {
  try {
    return { id, crcs: run(job) };
  } catch (error) {
    return { id, code: codeOf(error), message: error instanceof Error ? error.message : String(error) };
  }
}

function handle(message: ToDiskWorker): FromDiskWorker | null {
  if (message.kind === "start") {
    seek = CFunction({ ptr: message.lseek as Pointer, args: ["int", "i64", "int"], returns: "i64" }) as unknown as Seek;
    memory = message.arena;
    // Who reads comes first: then blocks wait, and more of them are dropped. (0: this thread.)
    const setPriority = CFunction({ ptr: message.setpriority as Pointer, args: ["int", "u32", "int"], returns: "int" });
    setPriority(PRIO_PROCESS, 0, NICE);
    return null;
  }
  if (message.kind === "close") {
    cells = [];
    return { kind: "closed" };
  }
  return { kind: "results", results: message.jobs.map(resultOf) };
}

self.onmessage = ({ data }: MessageEvent<ToDiskWorker>): void => {
  const answer = handle(data);
  if (answer !== null) self.postMessage(answer);
};
