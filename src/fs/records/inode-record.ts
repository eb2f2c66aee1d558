/**
 * This folder has what records say: plaintext bytes come in, attributes, names and extents go out, and back. It does no I/O.
 *
 * The plaintext of inode and dentry records, before sealing. Little-endian, fixed layout; the record's key says which inode.
 *
 *     inode   version u8 = 2, bits u8, regions u16, mode u32, uid u32, gid u32, rdev u32, nlink u32,
 *             size u64, allocated u64, parent u64, generation f64, mtimeBumps f64,
 *             {atime, mtime, ctime}: seconds i64, nanoseconds u32 each;
 *             sum of names 16, sum of extended attributes 16; regions x generation u48; symlink target to the end
 *     dentry  version u8 = 2, type u8 (mode >> 12), file id 16, name to the end
 *
 * Attributes say how all else of the inode is: the sum of its names' hashes, the sum of its extended attributes, and the generation of each of its
 * first regions. A record that is older than the attributes, or newer, is noticed by that.
 */

import { FILE_ID_BYTES, type FileId } from "../../crypto/file-id.ts";
import { toOffset } from "../posix/offsets.ts";
import { InodeFlag, type Name, type Offset } from "../posix/vfs.ts";

const RECORD_VERSION = 2;
const SUM_BYTES = 16;
const NAME_SUM_OFFSET = 100;
const XATTR_SUM_OFFSET = NAME_SUM_OFFSET + SUM_BYTES;
const INODE_FIXED_BYTES = XATTR_SUM_OFFSET + SUM_BYTES;
const GENERATION_BYTES = 6;
/** Bits of the second byte: extended attributes, then chattr's flags, each in a bit of its own. Records from before they were kept have none. */
const BIT_HAS_XATTRS = 1;
const FLAG_BITS: readonly (readonly [bit: number, flag: number])[] = [
  [2, InodeFlag.IMMUTABLE],
  [4, InodeFlag.APPEND],
  [8, InodeFlag.NODUMP],
  [16, InodeFlag.NOATIME],
];
const DENTRY_NAME_OFFSET = 2 + FILE_ID_BYTES;
/** Regions whose generations attributes hold: of a file's first 16 GiB; 1.5 KiB of them at most. */
export const REGIONS_TRACKED_MAX = 256;
/** The sum of no names. */
export const NO_NAMES = "\0".repeat(SUM_BYTES);

/** File types (S_IFMT), stat(2). */
export const FileType = {
  MASK: 0o170000,
  SOCKET: 0o140000,
  SYMLINK: 0o120000,
  REGULAR: 0o100000,
  BLOCK: 0o060000,
  DIRECTORY: 0o040000,
  CHARACTER: 0o020000,
  FIFO: 0o010000,
} as const;

/** What an inode record holds. For a folder, nlink and times are completed by the node's counters. */
export interface InodeAttributes {
  /** What the inode is, whatever its number. Not in the plaintext: what is sealed is bound to it. */
  fileId: FileId;
  mode: number;
  uid: number;
  gid: number;
  rdev: number;
  /** Names that lead here; for a folder unused (2 + counters.links). */
  nlink: number;
  size: Offset;
  /** Bytes that extents cover: what st_blocks shows. */
  allocated: number;
  /** For a folder: the one that it is in. 0 otherwise. */
  parent: number;
  /** Rises with every change of content: the kernel's pages are right while it stands still. */
  generation: number;
  /** For a folder: the counters' bump count when mtime was last set by hand; later bumps override it. */
  mtimeBumps: number;
  /** XOR of the hashes (crypto/name-hash.ts, 16 bytes) of the names that lead here; the root: NO_NAMES. */
  nameSum: string;
  /** What its extended attributes come to (xattrs.ts, 16 bytes); "": it has none. */
  xattrSum: string;
  /** chattr's flags, values of InodeFlag. */
  flags: number;
  /** For each of the first REGIONS_TRACKED_MAX regions, the generation with which its record was written; 0, or beyond the end: there is none. */
  regionGenerations: readonly number[];
  atimeSec: number;
  atimeNsec: number;
  mtimeSec: number;
  mtimeNsec: number;
  ctimeSec: number;
  ctimeNsec: number;
  /** Of a symbolic link, else "". */
  target: Name;
}

/** Thrown when an opened record does not have the shape that this version writes. */
export class RecordFormatError extends Error {
  override readonly name = "RecordFormatError";
}

/** Encodes an inode record's plaintext. */
export function encodeInode(inode: InodeAttributes): Uint8Array {
  const { regionGenerations, target } = inode;
  const targetAt = INODE_FIXED_BYTES + regionGenerations.length * GENERATION_BYTES;
  const bytes = Buffer.allocUnsafe(targetAt + target.length);
  bytes[0] = RECORD_VERSION;
  bytes[1] = (inode.xattrSum === "" ? 0 : BIT_HAS_XATTRS) | bitsOf(inode.flags);
  bytes.writeUInt16LE(regionGenerations.length, 2);
  bytes.writeUInt32LE(inode.mode, 4);
  bytes.writeUInt32LE(inode.uid, 8);
  bytes.writeUInt32LE(inode.gid, 12);
  bytes.writeUInt32LE(inode.rdev, 16);
  bytes.writeUInt32LE(inode.nlink, 20);
  writeU64(bytes, 24, inode.size);
  writeU64(bytes, 32, inode.allocated);
  writeU64(bytes, 40, inode.parent);
  bytes.writeDoubleLE(inode.generation, 48);
  bytes.writeDoubleLE(inode.mtimeBumps, 56);
  writeTime(bytes, 64, inode.atimeSec, inode.atimeNsec);
  writeTime(bytes, 76, inode.mtimeSec, inode.mtimeNsec);
  writeTime(bytes, 88, inode.ctimeSec, inode.ctimeNsec);
  bytes.write(inode.nameSum, NAME_SUM_OFFSET, "latin1");
  if (inode.xattrSum === "") bytes.fill(0, XATTR_SUM_OFFSET, INODE_FIXED_BYTES);
  else bytes.write(inode.xattrSum, XATTR_SUM_OFFSET, "latin1");
  for (const [i, generation] of regionGenerations.entries())
    bytes.writeUIntLE(generation, INODE_FIXED_BYTES + i * GENERATION_BYTES, GENERATION_BYTES);
  if (target !== "") bytes.write(target, targetAt, "latin1");
  return bytes;
}

function bitsOf(flags: number): number {
  return flags === 0 ? 0 : FLAG_BITS.reduce((bits, [bit, flag]) => ((flags & flag) === 0 ? bits : bits | bit), 0);
}

function flagsOf(bits: number): number {
  return FLAG_BITS.reduce((flags, [bit, flag]) => ((bits & bit) === 0 ? flags : flags | flag), 0);
}

/** Decodes what `encodeInode` made of the inode with this file id. Throws RecordFormatError. */
export function decodeInode(plaintext: Uint8Array, fileId: FileId): InodeAttributes {
  if (plaintext.length < INODE_FIXED_BYTES || plaintext[0] !== RECORD_VERSION) {
    throw new RecordFormatError(`inode record: expected version ${RECORD_VERSION} and ${INODE_FIXED_BYTES} bytes or more`);
  }
  const isFixed = plaintext.length === INODE_FIXED_BYTES;
  fixed.set(isFixed ? plaintext : plaintext.subarray(0, INODE_FIXED_BYTES));
  const bits = fixed[1] as number;
  const hasXattrs = (bits & BIT_HAS_XATTRS) !== 0;
  const regions = (fixed[2] as number) | ((fixed[3] as number) << 8);
  const targetAt = INODE_FIXED_BYTES + regions * GENERATION_BYTES;
  if (regions > REGIONS_TRACKED_MAX || plaintext.length < targetAt) throw new RecordFormatError(`inode record: ${regions} regions`);
  return {
    fileId,
    nameSum: fixedText.toString("latin1", NAME_SUM_OFFSET, XATTR_SUM_OFFSET),
    xattrSum: hasXattrs ? fixedText.toString("latin1", XATTR_SUM_OFFSET, INODE_FIXED_BYTES) : "",
    flags: bits <= BIT_HAS_XATTRS ? 0 : flagsOf(bits),
    regionGenerations: regions === 0 ? NO_REGIONS : decodeGenerations(asBuffer(plaintext), regions),
    mode: u32(4),
    uid: u32(8),
    gid: u32(12),
    rdev: u32(16),
    nlink: u32(20),
    size: u64(24),
    allocated: Number(u64(32)),
    parent: Number(u64(40)),
    generation: fixedDoubles[48 / 8] as number,
    mtimeBumps: fixedDoubles[56 / 8] as number,
    atimeSec: seconds(64),
    atimeNsec: u32(72),
    mtimeSec: seconds(76),
    mtimeNsec: u32(84),
    ctimeSec: seconds(88),
    ctimeNsec: u32(96),
    target: plaintext.length === targetAt ? "" : asBuffer(plaintext).toString("latin1", targetAt),
  };
}

// What is decoded is copied here first: typed arrays over one buffer are read fast from the start, where a Buffer's methods are calls until
// they have been compiled. Little-endian, as all machines that run this.
const fixed = new Uint8Array(136);
const fixedText = Buffer.from(fixed.buffer);
const fixedWords = new Uint32Array(fixed.buffer);
const fixedDoubles = new Float64Array(fixed.buffer);

function u32(offset: number): number {
  return fixedWords[offset >>> 2] as number;
}

function u64(offset: number): Offset {
  const high = u32(offset + 4);
  return high < 2 ** 21 ? high * 2 ** 32 + u32(offset) : toOffset((BigInt(high) << 32n) | BigInt(u32(offset)));
}

function seconds(offset: number): number {
  return (u32(offset + 4) | 0) * 2 ** 32 + u32(offset);
}

/** Regions of an inode that has none stored. */
export const NO_REGIONS: readonly number[] = [];

function decodeGenerations(bytes: Buffer, count: number): number[] {
  return Array.from({ length: count }, (_, i) => bytes.readUIntLE(INODE_FIXED_BYTES + i * GENERATION_BYTES, GENERATION_BYTES));
}

/**
 * The generation after this one. By how much it is greater is random: of two writers that change the same generation at once, the node takes one,
 * and the other's records must not pass for its own.
 */
export function nextGeneration(generation: number): number {
  // Near the end of its 6 bytes it goes on one by one.
  const step = generation < GENERATION_SPREAD_END ? crypto.getRandomValues(randomStep)[0] : 0;
  return generation + 1 + (step ?? 0);
}

const randomStep = new Uint16Array(1);
/** Half of what 6 bytes hold: after 2^32 changes of one file. */
const GENERATION_SPREAD_END = 2 ** 47;

/** The generations when the records of these regions are written with `generation` (0: deleted). */
export function withGenerations(before: readonly number[], regions: Iterable<number>, generation: number): readonly number[] {
  const after = [...before];
  for (const region of regions) {
    if (region >= REGIONS_TRACKED_MAX) continue;
    while (after.length <= region) after.push(0);
    after[region] = generation;
  }
  return trimmed(after);
}

/** The generations when the records from region `end` on are deleted. */
export function generationsBelow(before: readonly number[], end: number): readonly number[] {
  return before.length <= end ? before : trimmed(before.slice(0, end));
}

function trimmed(generations: number[]): readonly number[] {
  while (generations.length > 0 && generations.at(-1) === 0) generations.pop();
  return generations.length === 0 ? NO_REGIONS : generations;
}

/** Whether a region's record, written with `generation` (0: there is none), belongs to these attributes. */
export function regionFits(attributes: InodeAttributes, region: number, generation: number): boolean {
  if (region >= REGIONS_TRACKED_MAX) return generation <= attributes.generation;
  return (attributes.regionGenerations[region] ?? 0) === generation;
}

/** Encodes a dentry record's plaintext; `type` is an S_IFMT value, `fileId` what the name leads to. */
export function encodeDentry(name: Name, type: number, fileId: FileId): Uint8Array {
  const bytes = Buffer.allocUnsafe(DENTRY_NAME_OFFSET + name.length);
  bytes[0] = RECORD_VERSION;
  bytes[1] = type >>> 12;
  bytes.write(fileId, 2, "latin1");
  bytes.write(name, DENTRY_NAME_OFFSET, "latin1");
  return bytes;
}

/** Decodes what `encodeDentry` made. Throws RecordFormatError. */
export function decodeDentry(plaintext: Uint8Array): { name: Name; type: number; fileId: FileId } {
  if (plaintext.length <= DENTRY_NAME_OFFSET || plaintext[0] !== RECORD_VERSION) {
    throw new RecordFormatError("dentry record: unknown version or no name");
  }
  const bytes = asBuffer(plaintext);
  return {
    type: (plaintext[1] as number) << 12,
    fileId: bytes.toString("latin1", 2, DENTRY_NAME_OFFSET),
    name: bytes.toString("latin1", DENTRY_NAME_OFFSET),
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function writeU64(bytes: Buffer, offset: number, value: Offset): void {
  if (typeof value === "bigint") {
    bytes.writeBigUInt64LE(value, offset);
    return;
  }
  bytes.writeUInt32LE(value % 2 ** 32, offset);
  bytes.writeUInt32LE(Math.floor(value / 2 ** 32), offset + 4);
}

function writeTime(bytes: Buffer, offset: number, seconds: number, nanoseconds: number): void {
  bytes.writeUInt32LE(seconds >>> 0, offset);
  bytes.writeInt32LE(Math.floor(seconds / 2 ** 32), offset + 4);
  bytes.writeUInt32LE(nanoseconds, offset + 8);
}
