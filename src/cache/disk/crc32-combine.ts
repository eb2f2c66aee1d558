/**
 * The CRC32 of two byte strings one after the other, from the CRC32 of each: a chunk file's trailer from its blocks' checksums, without
 * reading the file. CRC-32 of zlib and IEEE 802.3, bits reflected: a checksum is a polynomial over GF(2) whose highest power is bit 0.
 */

const POLYNOMIAL = 0xedb88320;
/** The polynomial 1. */
const ONE = 0x80000000;
/** The polynomial x^8: what one more byte multiplies by. */
const ONE_BYTE = 0x00800000;

/** a * b modulo the CRC's polynomial. */
function multiply(a: number, b: number): number {
  let product = 0;
  let shifted = b;
  for (let bit = ONE; bit !== 0; bit >>>= 1) {
    if ((a & bit) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 0 ? shifted >>> 1 : (shifted >>> 1) ^ POLYNOMIAL;
  }
  return product >>> 0;
}

/** x^(8 * bytes): what `bytes` more bytes multiply a checksum by. */
export function shiftOf(bytes: number): number {
  let power = ONE;
  let square = ONE_BYTE;
  for (let left = bytes; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) power = multiply(power, square);
    square = multiply(square, square);
  }
  return power >>> 0;
}

/** The CRC32 of A followed by B, from theirs. @param shiftOfB shiftOf(length of B in bytes) */
export function combineCrc32(crcA: number, crcB: number, shiftOfB: number): number {
  return (multiply(crcA, shiftOfB) ^ crcB) >>> 0;
}
