/**
 * Integers in byte arrays, big-endian. Byte by byte: a DataView on a small array moves it out of the JavaScript heap, which made a record key
 * cost 0.25 us instead of 0.02.
 */

/** Writes an integer from 0 to 2^53 - 1 in 8 bytes. */
export function writeU64(target: Uint8Array, offset: number, value: number): void {
  writeU32(target, offset, Math.floor(value / 2 ** 32));
  writeU32(target, offset + 4, value);
}

/** Reads what writeU64 wrote. */
export function readU64(source: Uint8Array, offset: number): number {
  return readU32(source, offset) * 2 ** 32 + readU32(source, offset + 4);
}

/** Writes the low 32 bits of an integer. */
export function writeU32(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 24;
  target[offset + 1] = value >>> 16;
  target[offset + 2] = value >>> 8;
  target[offset + 3] = value;
}

/** Reads 4 bytes. */
export function readU32(source: Uint8Array, offset: number): number {
  const high = ((source[offset] as number) << 24) | ((source[offset + 1] as number) << 16);
  return (high | ((source[offset + 2] as number) << 8) | (source[offset + 3] as number)) >>> 0;
}
