import { afterEach, beforeEach, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, linkSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { blockBytes, blockCount, type ChunkRef } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES, CHUNK_MAX_BYTES, MIB } from "../../protocol/limits.ts";
import { ChunkIndex } from "../index/chunk-index.ts";
import { BlockArena } from "../memory/block-arena.ts";
import { CacheFolder } from "../pool/cache-folder.ts";
import { Pool, type PoolOwner } from "../pool/pool.ts";
import { DiskCache } from "./disk-cache.ts";
import { CacheCapacityExceeded } from "./staging-error.ts";

const OWNER: PoolOwner = { tenant: "t", cluster: "c", mode: "organic", kind: "mount", mountpoint: null };

let path: string;
let pool: Pool;
let arena: BlockArena;
let disk: DiskCache;
const warnings: string[] = [];
const log = { warn: (_: object, message: string) => void warnings.push(message) };

beforeEach(async () => {
  path = mkdtempSync(join(tmpdir(), "kiseki-disk-cache-"));
  warnings.length = 0;
  arena = new BlockArena(64 * MIB);
  await open(256 * MIB, "organic");
});

afterEach(async () => {
  await disk.close();
  await pool.close({ wipe: true });
  rmSync(path, { recursive: true });
});

async function open(maxBytes: number, mode: "organic" | "pinned"): Promise<void> {
  pool = await Pool.create(CacheFolder.open(path), OWNER, { maxBytes });
  disk = new DiskCache({ pool, index: new ChunkIndex(), mode, arena, log });
}

async function reopen(maxBytes: number, mode: "organic" | "pinned"): Promise<void> {
  await disk.close();
  await pool.close({ wipe: true });
  await open(maxBytes, mode);
}

/** A chunk whose bytes follow from a number; a name will do for an id. */
function chunk(number: number, bytes: number): { ref: ChunkRef; data: Buffer } {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at++) data[at] = (number * 31 + at * 7 + (at >>> 8)) & 0xff;
  return { ref: { id: new Uint8Array(createHash("sha256").update(`${number}`).digest()), epoch: 1, bytes }, data };
}

/** Puts blocks of a chunk into cells that the caller gives back. */
function filled({ ref, data }: { ref: ChunkRef; data: Buffer }, first: number, count: number): number[] {
  const cells = arena.tryTake(count) ?? [];
  cells.forEach((cell, i) => {
    const at = (first + i) * BLOCK_BYTES;
    arena.bytes(cell).set(data.subarray(at, at + blockBytes(ref.bytes, first + i)));
  });
  return cells;
}

async function insert(one: { ref: ChunkRef; data: Buffer }, first = 0, count = blockCount(one.ref.bytes)): Promise<void> {
  for (let at = first; at < first + count; at += 16) {
    const cells = filled(one, at, Math.min(16, first + count - at));
    disk.insert(one.ref, at, cells);
    arena.unpinAll(cells);
  }
  await idle();
}

async function idle(): Promise<void> {
  for (let quiet = 0, last = ""; quiet < 3; ) {
    await Bun.sleep(3);
    const now = JSON.stringify(disk.stats());
    quiet = now === last && arena.availableCount === arena.cellCount ? quiet + 1 : 0;
    last = now;
  }
}

async function read({ ref }: { ref: ChunkRef }, first = 0, count = blockCount(ref.bytes)): Promise<Buffer | null> {
  const cells = arena.tryTake(count) ?? [];
  try {
    if (!(await disk.read(ref, first, cells))) return null;
    return Buffer.concat(cells.map((cell, i) => Buffer.from(arena.bytes(cell).subarray(0, blockBytes(ref.bytes, first + i)))));
  } finally {
    arena.unpinAll(cells);
  }
}

function fileOf({ ref }: { ref: ChunkRef }): string {
  return pool.chunkPath(Buffer.from(ref.id).toString("hex"));
}

test("chunks of any length come back as they were", async () => {
  const lengths = [1, 5, 4096, 40_000, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES - 17, CHUNK_MAX_BYTES - 1, CHUNK_MAX_BYTES];
  const chunks = lengths.map((length, i) => chunk(i, length));
  for (const one of chunks) await insert(one);
  for (const one of chunks) {
    expect(disk.has(one.ref, 0, blockCount(one.ref.bytes))).toBe(true);
    expect((await read(one))?.equals(one.data)).toBe(true);
    const file = readFileSync(fileOf(one));
    expect(file.readUInt32LE(one.ref.bytes)).toBe(Bun.hash.crc32(Buffer.concat([one.ref.id, one.data])));
  }
  expect(disk.stats()).toMatchObject({ entries: lengths.length, faults: {}, dropped: 0, refused: 0, outOfUse: null });
});

test("single blocks are kept, and take no more room than they need", async () => {
  const one = chunk(1, CHUNK_MAX_BYTES);
  await insert(one, 60, 4);
  await insert(one, 3, 2);
  expect(disk.has(one.ref, 3, 2)).toBe(true);
  expect(disk.has(one.ref, 0, 64)).toBe(false);
  expect(await read(one, 0, 4)).toBeNull();
  expect((await read(one, 60, 4))?.equals(one.data.subarray(60 * BLOCK_BYTES))).toBe(true);
  expect(disk.stats().bytes).toBe(6 * BLOCK_BYTES + 4096);
  await insert(one);
  expect((await read(one))?.equals(one.data)).toBe(true);
  expect(disk.stats()).toMatchObject({ bytes: CHUNK_MAX_BYTES + 4096, insertions: 64, faults: {} });
});

test("what is evicted is zeros before it is unlinked, and the limit holds", async () => {
  await reopen(16 * MIB, "organic");
  const chunks = Array.from({ length: 4 }, (_, i) => chunk(i, CHUNK_MAX_BYTES - 4096));
  const links: string[] = [];
  for (const [i, one] of chunks.entries()) {
    await insert(one);
    if (!existsSync(fileOf(one))) continue;
    links.push(join(path, `link${i}`));
    linkSync(fileOf(one), join(path, `link${i}`));
  }
  expect(disk.stats().entries).toBe(4);
  expect(await disk.makeRoom(5 * MIB)).toBe(true);
  expect(disk.stats()).toMatchObject({ entries: 2, evictions: 2, bytes: 8 * MIB });
  const zeroed = links.filter((link) => readFileSync(link).every((byte) => byte === 0));
  expect(zeroed.length).toBe(2);
});

test("in pinned mode what is there stays, and what has no room is not kept", async () => {
  await reopen(16 * MIB, "pinned");
  const chunks = Array.from({ length: 6 }, (_, i) => chunk(i, CHUNK_MAX_BYTES - 4096));
  for (const one of chunks) await insert(one);
  for (const one of chunks.slice(0, 4)) expect((await read(one))?.equals(one.data)).toBe(true);
  for (const one of chunks.slice(4)) expect(await read(one)).toBeNull();
  expect(disk.stats()).toMatchObject({ entries: 4, evictions: 0, pinnedBytes: 16 * MIB - 4 * 4096, dropped: 0, refused: 128 });
});

test("pinning evicts what is not pinned, and then fails without giving up anything that is", async () => {
  await reopen(16 * MIB, "organic");
  const organic = Array.from({ length: 4 }, (_, i) => chunk(i, CHUNK_MAX_BYTES - 4096));
  for (const one of organic) await insert(one);
  const staged = Array.from({ length: 5 }, (_, i) => chunk(100 + i, CHUNK_MAX_BYTES - 4096));
  const pin = async (one: { ref: ChunkRef; data: Buffer }): Promise<void> => {
    const cells = filled(one, 0, 64);
    try {
      await disk.pinChunk(one.ref, 0, cells);
    } finally {
      arena.unpinAll(cells);
    }
  };
  for (const one of staged.slice(0, 4)) await pin(one);
  expect(await pin(staged[4] as (typeof staged)[0]).catch((error: unknown) => error)).toBeInstanceOf(CacheCapacityExceeded);
  for (const one of staged.slice(0, 4)) expect((await read(one))?.equals(one.data)).toBe(true);
  expect(disk.stats()).toMatchObject({ entries: 4, evictions: 4, pinnedBytes: 16 * MIB - 4 * 4096 });
  await disk.unpinChunk((staged[0] as (typeof staged)[0]).ref);
  expect(disk.stats()).toMatchObject({ entries: 3, bytes: 12 * MIB });
  await pin(staged[4] as (typeof staged)[0]);
});

test("chunks are read from an image, from the next one that has them when it is dropped, and not when it is damaged", async () => {
  const chunks = [chunk(1, CHUNK_MAX_BYTES), chunk(2, 3 * BLOCK_BYTES), chunk(3, 1000)];
  const image = Buffer.concat(chunks.map(({ data }) => data));
  const crcs = new Uint32Array(blockCount(image.length));
  for (let block = 0; block < crcs.length; block++)
    crcs[block] = Bun.hash.crc32(image.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
  let firstBlock = 0;
  const places = chunks.map(({ ref }) => {
    const place = { ref, firstBlock };
    firstBlock += blockCount(ref.bytes);
    return place;
  });
  await insert(chunks[0] as (typeof chunks)[0]);
  const files = [join(pool.filesPath, "1-1"), join(pool.filesPath, "2-1")] as const;
  for (const file of files) writeFileSync(file, image);
  const [first, second] = files.map((file) => disk.addImage({ path: file, bytes: image.length, crcs, chunks: places })) as [number, number];
  // Destroying a file is not in the statistics.
  while (existsSync(fileOf(chunks[0] as (typeof chunks)[0]))) await Bun.sleep(3);
  for (const one of chunks) expect((await read(one))?.equals(one.data)).toBe(true);
  // Nothing that stands in an image is written a second time.
  await insert(chunks[1] as (typeof chunks)[0]);
  expect(existsSync(fileOf(chunks[1] as (typeof chunks)[0]))).toBe(false);
  await disk.dropImage(first);
  rmSync(files[0]);
  for (const one of chunks) expect((await read(one))?.equals(one.data)).toBe(true);
  image[BLOCK_BYTES + 5] = 1 + (image[BLOCK_BYTES + 5] ?? 0);
  writeFileSync(files[1], image);
  expect(await read(chunks[0] as (typeof chunks)[0])).toBeNull();
  expect(disk.stats().faults).toEqual({ crc: 1 });
  await disk.dropImage(second);
  expect(disk.stats().entries).toBe(0);
});

test("who takes a pool over has the whole chunks, and not the damaged or partial ones", async () => {
  const chunks = Array.from({ length: 5 }, (_, i) => chunk(i, CHUNK_MAX_BYTES - i * 30_000));
  for (const one of chunks.slice(0, 4)) await insert(one);
  await insert(chunks[4] as (typeof chunks)[0], 0, 8);
  truncateSync(fileOf(chunks[1] as (typeof chunks)[0]), 500);
  const damaged = readFileSync(fileOf(chunks[2] as (typeof chunks)[0]));
  damaged[10] = 1 + (damaged[10] ?? 0);
  writeFileSync(fileOf(chunks[2] as (typeof chunks)[0]), damaged);
  await disk.close();
  await pool.close({ wipe: false });
  pool = await Pool.adopt(CacheFolder.open(path), pool.id, OWNER, { maxBytes: 256 * MIB });
  disk = new DiskCache({ pool, index: new ChunkIndex(), mode: "organic", arena, log });
  await disk.adopt();
  expect(disk.stats().entries).toBe(2);
  for (const i of [0, 3]) expect((await read(chunks[i] as (typeof chunks)[0]))?.equals((chunks[i] as (typeof chunks)[0]).data)).toBe(true);
  for (const i of [1, 2, 4]) expect(existsSync(fileOf(chunks[i] as (typeof chunks)[0]))).toBe(false);
  expect(warnings.length).toBe(1);
});

test("after a wipe nothing is there, and new chunks are kept again", async () => {
  const one = chunk(1, CHUNK_MAX_BYTES);
  await insert(one);
  await disk.wipe();
  expect(await read(one)).toBeNull();
  expect(existsSync(fileOf(one))).toBe(false);
  expect(disk.stats()).toMatchObject({ entries: 0, bytes: 0 });
  await insert(one);
  expect((await read(one))?.equals(one.data)).toBe(true);
});

test("closing waits for what is being written, and nothing is read or kept afterwards", async () => {
  const one = chunk(1, CHUNK_MAX_BYTES);
  const cells = filled(one, 0, 64);
  disk.insert(one.ref, 0, cells);
  await disk.close();
  arena.unpinAll(cells);
  expect(arena.availableCount).toBe(arena.cellCount);
  expect(await read(one)).toBeNull();
  disk.insert(one.ref, 0, cells);
  expect(arena.availableCount).toBe(arena.cellCount);
});
