import { expect, test } from "bun:test";
import fc from "fast-check";
import { FILE_MAX_BYTES, toOffset } from "../posix/offsets.ts";
import {
  decodeDentry,
  decodeInode,
  encodeDentry,
  encodeInode,
  generationsBelow,
  type InodeAttributes,
  nextGeneration,
  REGIONS_TRACKED_MAX,
  RecordFormatError,
  regionFits,
  withGenerations,
} from "./inode-record.ts";

const u32 = fc.nat(0xffffffff);
const name = fc.uint8Array({ min: 1, max: 255, minLength: 1, maxLength: 255 }).map((bytes) => Buffer.from(bytes).toString("latin1"));
const seconds = fc.integer({ min: -(2 ** 40), max: 2 ** 40 });
const nanoseconds = fc.nat(999_999_999);
const sixteen = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString("latin1"));
const attributes: fc.Arbitrary<InodeAttributes> = fc.record({
  mode: u32,
  uid: u32,
  gid: u32,
  rdev: u32,
  nlink: u32,
  size: fc.bigInt({ min: 0n, max: FILE_MAX_BYTES }).map(toOffset),
  allocated: fc.maxSafeNat(),
  parent: fc.maxSafeNat(),
  generation: fc.maxSafeNat(),
  mtimeBumps: fc.maxSafeNat(),
  fileId: sixteen,
  nameSum: sixteen,
  xattrSum: fc.oneof(fc.constant(""), sixteen),
  flags: fc.subarray([0x10, 0x20, 0x40, 0x80]).map((flags) => flags.reduce((sum, flag) => sum | flag, 0)),
  regionGenerations: fc.array(fc.nat(2 ** 31 - 1), { maxLength: REGIONS_TRACKED_MAX }),
  atimeSec: seconds,
  atimeNsec: nanoseconds,
  mtimeSec: seconds,
  mtimeNsec: nanoseconds,
  ctimeSec: seconds,
  ctimeNsec: nanoseconds,
  target: fc.oneof(fc.constant(""), name),
});

test("inode records read back as written, times before 1970 and sizes to 8 EiB - 1 included", () => {
  fc.assert(fc.property(attributes, (inode) => expect(decodeInode(encodeInode(inode), inode.fileId)).toEqual(inode)));
});

test("dentry records read back as written, whatever bytes the name has", () => {
  fc.assert(
    fc.property(name, sixteen, (one, fileId) => {
      expect(decodeDentry(encodeDentry(one, 0o040000, fileId))).toEqual({ name: one, type: 0o040000, fileId });
    }),
  );
});

test("a record of another version is refused, not misread", () => {
  expect(() => decodeInode(new Uint8Array(132), "")).toThrow(RecordFormatError);
  expect(() => decodeInode(new Uint8Array([2]), "")).toThrow(RecordFormatError);
  expect(() => decodeDentry(new Uint8Array([2, 4]))).toThrow(RecordFormatError);
});

test("generations rise, and two writers of the same file go on with different ones", () => {
  const next = Array.from({ length: 1_000 }, () => nextGeneration(7));
  expect(next.every((generation) => generation > 7 && generation <= 7 + 65_536)).toBeTrue();
  expect(new Set(next).size).toBeGreaterThan(900);
  expect(nextGeneration(2 ** 48 - 2)).toBe(2 ** 48 - 1);
});

test("attributes say which generation of each region is theirs, as a table of all regions would", () => {
  const step = fc.record({
    regions: fc.array(fc.nat(REGIONS_TRACKED_MAX + 20), { maxLength: 5 }),
    kind: fc.constantFrom("write", "clear", "cut"),
  });
  fc.assert(
    fc.property(fc.array(step), fc.nat(REGIONS_TRACKED_MAX + 20), (steps, asked) => {
      const table = new Map<number, number>();
      let known: readonly number[] = [];
      let generation = 0;
      for (const { regions, kind } of steps) {
        generation++;
        if (kind === "cut") {
          const end = regions[0] ?? 0;
          for (const region of table.keys()) if (region >= end) table.delete(region);
          known = generationsBelow(known, end);
          continue;
        }
        for (const region of regions) kind === "write" ? table.set(region, generation) : table.delete(region);
        known = withGenerations(known, regions, kind === "write" ? generation : 0);
      }
      const file = { generation, regionGenerations: known } as InodeAttributes;
      const right = table.get(asked) ?? 0;
      expect(regionFits(file, asked, right)).toBe(true);
      // Beyond the regions that are tracked, only what is newer than the file is noticed.
      expect(regionFits(file, asked, right + 1)).toBe(asked >= REGIONS_TRACKED_MAX && right + 1 <= generation);
      expect(known.length).toBeLessThanOrEqual(REGIONS_TRACKED_MAX);
    }),
  );
});
