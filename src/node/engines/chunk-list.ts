/**
 * The chunks of one record as one blob: ids of 32 bytes, then CRC32 (big-endian) of the ids. null for none.
 * Ids are compared as latin1 strings: one character a byte, so that they can be Map and Set keys.
 */
import { NodeError } from "../../protocol/errors.ts";
import { CHUNK_ID_BYTES } from "../../protocol/limits.ts";

const CRC_BYTES = 4;
const NO_IDS = new Uint8Array(0);

/** A chunk id as a Map key. */
export function chunkName(id: Uint8Array): string {
  return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString("latin1");
}

/** The chunk id of a Map key. */
export function chunkIdOf(name: string): Uint8Array {
  return new Uint8Array(Buffer.from(name, "latin1"));
}

/** @throws RangeError for an id of another length (the codec lets none through) */
export function encodeChunkList(chunks: readonly Uint8Array[]): Uint8Array | null {
  if (chunks.length === 0) return null;
  const blob = Buffer.allocUnsafe(chunks.length * CHUNK_ID_BYTES + CRC_BYTES);
  let offset = 0;
  for (const id of chunks) {
    if (id.length !== CHUNK_ID_BYTES) throw new RangeError(`expected chunk ids of ${CHUNK_ID_BYTES} bytes, got ${id.length}`);
    blob.set(id, offset);
    offset += CHUNK_ID_BYTES;
  }
  blob.writeUInt32BE(Bun.hash.crc32(blob.subarray(0, offset)), offset);
  return blob;
}

/** The ids in a blob, one behind the other. @throws NodeError "damaged" */
function checkedIds(blob: Uint8Array): Buffer {
  const bytes = Buffer.from(blob.buffer, blob.byteOffset, blob.byteLength);
  const end = bytes.length - CRC_BYTES;
  if (end < 0 || end % CHUNK_ID_BYTES !== 0 || bytes.readUInt32BE(end) !== Bun.hash.crc32(bytes.subarray(0, end))) {
    throw new NodeError("damaged", "a record's list of chunks fails its checksum");
  }
  return bytes.subarray(0, end);
}

/** The distinct ids in a blob. @throws NodeError "damaged" */
export function decodeChunkList(blob: Uint8Array | null): Set<string> {
  const names = new Set<string>();
  if (blob === null) return names;
  const bytes = checkedIds(blob);
  for (let at = 0; at < bytes.length; at += CHUNK_ID_BYTES) names.add(bytes.toString("latin1", at, at + CHUNK_ID_BYTES));
  return names;
}

/** Ids by their places in a list, without taking the others apart. A list that is damaged has none: see readableChunks. */
export function readableIds(blob: Uint8Array | null): { readonly length: number; at(place: number): Uint8Array } {
  let bytes: Uint8Array = NO_IDS;
  try {
    if (blob !== null) bytes = checkedIds(blob);
  } catch (error) {
    if (!(error instanceof NodeError && error.code === "damaged")) throw error;
  }
  return {
    length: bytes.length / CHUNK_ID_BYTES,
    at: (place) => bytes.subarray(place * CHUNK_ID_BYTES, (place + 1) * CHUNK_ID_BYTES),
  };
}

/** The same; a list that is damaged names nothing: its record can be replaced and removed, and its chunks stay counted, which is the safe side. */
export function readableChunks(blob: Uint8Array | null): Set<string> {
  try {
    return decodeChunkList(blob);
  } catch (error) {
    if (error instanceof NodeError && error.code === "damaged") return new Set();
    throw error;
  }
}
