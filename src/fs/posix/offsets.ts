/**
 * Arithmetic on file positions up to 2^63 - 1, which a JavaScript number can't hold. A position is a number while that is
 * exact and a bigint beyond; inside one 64 MiB region it is always a small number, so only the edges pay for bigints.
 */
import { FsError } from "./errno.ts";
import type { Offset } from "./vfs.ts";

/** Extents are kept in one record for each region of this many bytes. */
export const REGION_BYTES = 64 * 1024 * 1024;
/** Greatest size of a file: loff_t's maximum (8 EiB - 1). */
export const FILE_MAX_BYTES = 2n ** 63n - 1n;

/** The number where it is exact, else the bigint. */
export function toOffset(value: Offset): Offset {
  if (typeof value === "bigint" && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  return value;
}

/** a + b, exact. Throws FsError EFBIG beyond FILE_MAX_BYTES. */
export function addOffset(a: Offset, b: Offset): Offset {
  if (typeof a === "number" && typeof b === "number") {
    const sum = a + b;
    if (sum <= Number.MAX_SAFE_INTEGER) return sum;
  }
  const sum = BigInt(a) + BigInt(b);
  if (sum > FILE_MAX_BYTES) throw new FsError("EFBIG");
  return toOffset(sum);
}

/** The greater one. */
export function maxOffset(a: Offset, b: Offset): Offset {
  return a > b ? a : b;
}

/** b - a where b >= a, capped at `cap`: how many bytes lie between. */
export function distance(a: Offset, b: Offset, cap: number): number {
  if (a >= b) return 0;
  if (typeof a === "number" && typeof b === "number") return Math.min(b - a, cap);
  const bytes = BigInt(b) - BigInt(a);
  return bytes > BigInt(cap) ? cap : Number(bytes);
}

/** Number of the region that holds byte `offset`; below 2^37. */
export function regionOf(offset: Offset): number {
  return typeof offset === "number" ? Math.floor(offset / REGION_BYTES) : Number(offset / BigInt(REGION_BYTES));
}

/** Position of byte `offset` inside its region. */
export function withinRegion(offset: Offset): number {
  return typeof offset === "number" ? offset % REGION_BYTES : Number(offset % BigInt(REGION_BYTES));
}

/** The file position of byte `within` of region `region`. */
export function offsetInRegion(region: number, within: number): Offset {
  const start = region * REGION_BYTES;
  if (start <= Number.MAX_SAFE_INTEGER - REGION_BYTES) return start + within;
  return toOffset(BigInt(region) * BigInt(REGION_BYTES) + BigInt(within));
}

/** One region's part of a byte range. */
export interface RegionSpan {
  region: number;
  /** First byte and one past the last, in the region. */
  start: number;
  end: number;
}

/** Cuts [offset, offset + length) at region boundaries. `length` must be a number: it is bounded by a request or a size. */
export function regionSpans(offset: Offset, length: number): RegionSpan[] {
  const spans: RegionSpan[] = [];
  let region = regionOf(offset);
  let start = withinRegion(offset);
  let left = length;
  while (left > 0) {
    const end = Math.min(start + left, REGION_BYTES);
    spans.push({ region, start, end });
    left -= end - start;
    region++;
    start = 0;
  }
  return spans;
}
