/**
 * A file's content: where each byte of a region comes from, and the plaintext of the region record that says so.
 *
 *     version u32 = 2, chunks u32, extents u32, inline bytes u32, generation f64,
 *     chunks x {id 32 bytes, epoch u32, plaintext bytes u32},
 *     extents x {start u32, length u32, chunk index u32 (0xffffffff: inline), offset u32},
 *     inline bytes
 */
import type { ChunkRef } from "../../crypto/chunk-seal.ts";
import { CHUNK_ID_BYTES, CHUNK_MAX_BYTES, RECORD_CHUNKS_MAX } from "../../protocol/limits.ts";
import { REGION_BYTES } from "../posix/offsets.ts";
import { ExtentMap } from "./extent-map.ts";
import { RecordFormatError } from "./inode-record.ts";

const REGION_VERSION = 2;
const REGION_HEADER_BYTES = 24;
const CHUNK_ENTRY_BYTES = CHUNK_ID_BYTES + 8;
const EXTENT_ENTRY_BYTES = 16;
const INLINE_INDEX = 0xffffffff;

/** Content that stands in a chunk on the node. */
export interface ChunkSource {
  readonly kind: "chunk";
  readonly ref: ChunkRef;
  /** The id as a latin1 string: what maps are keyed by. */
  readonly key: string;
}

/** Content that stands in the region record itself. */
export interface InlineSource {
  readonly kind: "inline";
  readonly data: Uint8Array;
}

export type StoredSource = ChunkSource | InlineSource;

export type StoredMap = ExtentMap<StoredSource>;

/** The source for a chunk reference. */
export function chunkSource(ref: ChunkRef): ChunkSource {
  return { kind: "chunk", ref, key: Buffer.from(ref.id.buffer, ref.id.byteOffset, ref.id.byteLength).toString("latin1") };
}

/** Bytes of the extents that stand inline. */
export function inlineBytes(map: StoredMap): number {
  let sum = 0;
  for (const extent of map.extents) if (extent.source.kind === "inline") sum += extent.end - extent.start;
  return sum;
}

/** Encodes a region that is written with this generation of its file; returns its plaintext and the ids of the chunks that it refers to. */
export function encodeRegion(map: StoredMap, generation: number): { plaintext: Uint8Array; chunks: Uint8Array[] } {
  const indexes = new Map<string, number>();
  const refs: ChunkRef[] = [];
  for (const { source } of map.extents) {
    if (source.kind !== "chunk" || indexes.has(source.key)) continue;
    indexes.set(source.key, refs.length);
    refs.push(source.ref);
  }
  if (refs.length > RECORD_CHUNKS_MAX) throw new RangeError(`region: expected at most ${RECORD_CHUNKS_MAX} chunks, got ${refs.length}`);
  const inline = inlineBytes(map);
  const chunksAt = REGION_HEADER_BYTES;
  const extentsAt = chunksAt + refs.length * CHUNK_ENTRY_BYTES;
  const inlineAt = extentsAt + map.extents.length * EXTENT_ENTRY_BYTES;
  const bytes = Buffer.allocUnsafe(inlineAt + inline);
  bytes.writeUInt32LE(REGION_VERSION, 0);
  bytes.writeUInt32LE(refs.length, 4);
  bytes.writeUInt32LE(map.extents.length, 8);
  bytes.writeUInt32LE(inline, 12);
  bytes.writeDoubleLE(generation, 16);
  refs.forEach((ref, i) => {
    const at = chunksAt + i * CHUNK_ENTRY_BYTES;
    bytes.set(ref.id, at);
    bytes.writeUInt32LE(ref.epoch, at + CHUNK_ID_BYTES);
    bytes.writeUInt32LE(ref.bytes, at + CHUNK_ID_BYTES + 4);
  });
  let inlineUsed = 0;
  let at = extentsAt;
  for (const { start, end, source, offset } of map.extents) {
    bytes.writeUInt32LE(start, at);
    bytes.writeUInt32LE(end - start, at + 4);
    if (source.kind === "chunk") {
      bytes.writeUInt32LE(indexes.get(source.key) as number, at + 8);
      bytes.writeUInt32LE(offset, at + 12);
    } else {
      bytes.writeUInt32LE(INLINE_INDEX, at + 8);
      bytes.writeUInt32LE(inlineUsed, at + 12);
      bytes.set(source.data.subarray(offset, offset + (end - start)), inlineAt + inlineUsed);
      inlineUsed += end - start;
    }
    at += EXTENT_ENTRY_BYTES;
  }
  return { plaintext: bytes, chunks: refs.map((ref) => ref.id) };
}

/** Decodes what `encodeRegion` made; inline extents are views of `plaintext`. Throws RecordFormatError. */
export function decodeRegion(plaintext: Uint8Array): { map: StoredMap; generation: number } {
  const bytes = Buffer.from(plaintext.buffer, plaintext.byteOffset, plaintext.byteLength);
  if (bytes.length < REGION_HEADER_BYTES || bytes.readUInt32LE(0) !== REGION_VERSION)
    throw new RecordFormatError("region: unknown version");
  const chunkCount = bytes.readUInt32LE(4);
  const extentCount = bytes.readUInt32LE(8);
  const inline = bytes.readUInt32LE(12);
  const extentsAt = REGION_HEADER_BYTES + chunkCount * CHUNK_ENTRY_BYTES;
  const inlineAt = extentsAt + extentCount * EXTENT_ENTRY_BYTES;
  if (inlineAt + inline !== bytes.length) throw new RecordFormatError(`region: expected ${inlineAt + inline} bytes, got ${bytes.length}`);
  const sources: ChunkSource[] = [];
  for (let i = 0; i < chunkCount; i++) {
    const at = REGION_HEADER_BYTES + i * CHUNK_ENTRY_BYTES;
    const chunkBytes = bytes.readUInt32LE(at + CHUNK_ID_BYTES + 4);
    if (chunkBytes === 0 || chunkBytes > CHUNK_MAX_BYTES) throw new RecordFormatError(`region: chunk of ${chunkBytes} bytes`);
    const id = new Uint8Array(bytes.subarray(at, at + CHUNK_ID_BYTES));
    sources.push(chunkSource({ id, epoch: bytes.readUInt32LE(at + CHUNK_ID_BYTES), bytes: chunkBytes }));
  }
  const inlineSource: InlineSource = { kind: "inline", data: bytes.subarray(inlineAt) };
  const map: StoredMap = new ExtentMap();
  for (let i = 0; i < extentCount; i++) {
    const at = extentsAt + i * EXTENT_ENTRY_BYTES;
    const start = bytes.readUInt32LE(at);
    const length = bytes.readUInt32LE(at + 4);
    const index = bytes.readUInt32LE(at + 8);
    const offset = bytes.readUInt32LE(at + 12);
    const source = index === INLINE_INDEX ? inlineSource : sources[index];
    const limit = index === INLINE_INDEX ? inline : (sources[index]?.ref.bytes ?? 0);
    if (source === undefined || length === 0 || start < map.end || start + length > REGION_BYTES || offset + length > limit) {
      throw new RecordFormatError(`region: extent ${i} is out of order or out of bounds`);
    }
    map.set(start, start + length, source, offset);
  }
  return { map, generation: bytes.readDoubleLE(16) };
}
