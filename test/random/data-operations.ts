/** Random reading and writing of two files through several open handles, at the sizes where the filesystem changes its ways. */
import fc from "fast-check";
import type { Operation } from "./operations.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const OPEN = { RDONLY: 0, WRONLY: 1, RDWR: 2, CREAT: 0o100, TRUNC: 0o1000, APPEND: 0o2000, DIRECT: 0o40000 };
const FILES = ["f", "g"];
const SLOTS = [0, 1, 2, 3];
/** A page, the inline limit, a block, a chunk, a region. */
const NEAR = [0, 4 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 200 * KIB];
const FAR = [4 * MIB, 8 * MIB, 12 * MIB];
const FARTHEST = [64 * MIB, 65 * MIB];
const LENGTHS = [1, 100, 4 * KIB, 20 * KIB, 32 * KIB, 64 * KIB, 130 * KIB];
const LONG = [1 * MIB, 4 * MIB, 5 * MIB];

const file = fc.constantFrom(...FILES);
const slot = fc.constantFrom(...SLOTS);
const nudge = fc.oneof(fc.constant(0), fc.integer({ min: -5, max: 5 }), fc.integer({ min: -5000, max: 5000 }));
const offset = fc
  .tuple(
    fc.oneof(
      { weight: 30, arbitrary: fc.constantFrom(...NEAR) },
      { weight: 6, arbitrary: fc.constantFrom(...FAR) },
      { weight: 1, arbitrary: fc.constantFrom(...FARTHEST) },
    ),
    nudge,
  )
  .map(([base, by]) => Math.max(0, base + by));
const length = fc
  .tuple(fc.oneof({ weight: 20, arbitrary: fc.constantFrom(...LENGTHS) }, { weight: 1, arbitrary: fc.constantFrom(...LONG) }), nudge)
  .map(([base, by]) => Math.max(1, base + by));
const byteSeed = fc.integer({ min: 0, max: 254 });
const openFlags = fc.constantFrom(
  OPEN.RDONLY,
  OPEN.WRONLY,
  OPEN.RDWR,
  OPEN.RDWR,
  OPEN.WRONLY | OPEN.APPEND,
  OPEN.RDWR | OPEN.APPEND,
  OPEN.RDWR | OPEN.DIRECT,
  OPEN.RDONLY | OPEN.DIRECT,
  OPEN.WRONLY | OPEN.TRUNC,
);
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 0x10;
const fallocateMode = fc.constantFrom(0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, KEEP_SIZE | PUNCH_HOLE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE);

type Parts = fc.Arbitrary<string | number | null>[];

function operation(kind: string, ...parts: Parts): fc.Arbitrary<Operation> {
  return fc.tuple(...parts).map((args) => ({ do: kind, args: args as Operation["args"] }));
}

const WEIGHTED: [number, fc.Arbitrary<Operation>][] = [
  [14, operation("pwrite", slot, offset, length, byteSeed)],
  [8, operation("pread", slot, offset, length)],
  [4, operation("content", file)],
  [4, operation("open", slot, file, openFlags, fc.constant(0o644))],
  [2, operation("close", slot)],
  [3, operation("fsync", slot)],
  [3, operation("ftruncate", slot, offset)],
  [2, operation("truncate", file, offset)],
  [4, operation("fallocate", slot, fallocateMode, offset, length)],
  [4, operation("copy", slot, offset, slot, offset, length)],
  [2, operation("map", file)],
  [4, operation("mapped", file, offset, length)],
  [2, operation("holes", file)],
  [1, operation("fstat", slot)],
  [1, operation("rename", file, file, fc.constantFrom(0, 2))],
];

export const anyDataOperation: fc.Arbitrary<Operation> = fc.oneof(...WEIGHTED.map(([weight, arbitrary]) => ({ weight, arbitrary })));

/** Both files, each with an open handle that reads and writes, and one that only reads. */
export const DATA_SETUP: Operation[] = [
  { do: "open", args: [0, "f", OPEN.RDWR | OPEN.CREAT, 0o644] },
  { do: "open", args: [1, "g", OPEN.RDWR | OPEN.CREAT, 0o644] },
  { do: "open", args: [2, "f", OPEN.WRONLY | OPEN.APPEND, 0o644] },
  { do: "open", args: [3, "g", OPEN.RDONLY, 0o644] },
];
