import { expect, test } from "bun:test";
import fc from "fast-check";
import { FILE_MAX_BYTES, toOffset } from "../posix/offsets.ts";
import { decodeDentry, decodeInode, encodeDentry, encodeInode, type InodeAttributes, RecordFormatError } from "./inode-record.ts";

const u32 = fc.nat(0xffffffff);
const name = fc.uint8Array({ min: 1, max: 255, minLength: 1, maxLength: 255 }).map((bytes) => Buffer.from(bytes).toString("latin1"));
const seconds = fc.integer({ min: -(2 ** 40), max: 2 ** 40 });
const nanoseconds = fc.nat(999_999_999);
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
  hasXattrs: fc.boolean(),
  atimeSec: seconds,
  atimeNsec: nanoseconds,
  mtimeSec: seconds,
  mtimeNsec: nanoseconds,
  ctimeSec: seconds,
  ctimeNsec: nanoseconds,
  target: fc.oneof(fc.constant(""), name),
});

test("inode records read back as written, times before 1970 and sizes to 8 EiB - 1 included", () => {
  fc.assert(fc.property(attributes, (inode) => expect(decodeInode(encodeInode(inode))).toEqual(inode)));
});

test("dentry records read back as written, whatever bytes the name has", () => {
  fc.assert(
    fc.property(name, (one) => {
      expect(decodeDentry(encodeDentry(one, 0o040000))).toEqual({ name: one, type: 0o040000 });
    }),
  );
});

test("a record of another version is refused, not misread", () => {
  expect(() => decodeInode(new Uint8Array(100))).toThrow(RecordFormatError);
  expect(() => decodeInode(new Uint8Array([1]))).toThrow(RecordFormatError);
  expect(() => decodeDentry(new Uint8Array([1, 4]))).toThrow(RecordFormatError);
});
