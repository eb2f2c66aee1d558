/**
 * This folder has what records say: plaintext bytes come in, attributes, names and extents go out, and back. It does no I/O.
 *
 * The plaintext of inode and dentry records, before sealing. Little-endian, fixed layout; the record's key says which inode.
 *
 *     inode   version u8 = 1, flags u8, reserved u16, mode u32, uid u32, gid u32, rdev u32, nlink u32,
 *             size u64, allocated u64, parent u64, generation f64, mtimeBumps f64,
 *             {atime, mtime, ctime}: seconds i64, nanoseconds u32 each; symlink target to the end
 *     dentry  version u8 = 1, type u8 (mode >> 12), name to the end
 */

import { toOffset } from "../posix/offsets.ts";
import type { Name, Offset } from "../posix/vfs.ts";

const RECORD_VERSION = 1;
const INODE_FIXED_BYTES = 100;
const FLAG_HAS_XATTRS = 1;

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
  hasXattrs: boolean;
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
  const bytes = Buffer.allocUnsafe(INODE_FIXED_BYTES + inode.target.length);
  bytes[0] = RECORD_VERSION;
  bytes[1] = inode.hasXattrs ? FLAG_HAS_XATTRS : 0;
  bytes.writeUInt16LE(0, 2);
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
  if (inode.target !== "") bytes.write(inode.target, INODE_FIXED_BYTES, "latin1");
  return bytes;
}

/** Decodes what `encodeInode` made. Throws RecordFormatError. */
export function decodeInode(plaintext: Uint8Array): InodeAttributes {
  if (plaintext.length < INODE_FIXED_BYTES || plaintext[0] !== RECORD_VERSION) {
    throw new RecordFormatError(`inode record: expected version ${RECORD_VERSION} and ${INODE_FIXED_BYTES} bytes or more`);
  }
  const isFixed = plaintext.length === INODE_FIXED_BYTES;
  fixed.set(isFixed ? plaintext : plaintext.subarray(0, INODE_FIXED_BYTES));
  return {
    hasXattrs: ((fixed[1] as number) & FLAG_HAS_XATTRS) !== 0,
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
    target: isFixed ? "" : asBuffer(plaintext).toString("latin1", INODE_FIXED_BYTES),
  };
}

// What is decoded is copied here first: typed arrays over one buffer are read fast from the start, where a Buffer's methods are calls until
// they have been compiled. Little-endian, as all machines that run this.
const fixed = new Uint8Array(104);
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

/** Encodes a dentry record's plaintext; `type` is an S_IFMT value. */
export function encodeDentry(name: Name, type: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(2 + name.length);
  bytes[0] = RECORD_VERSION;
  bytes[1] = type >>> 12;
  bytes.write(name, 2, "latin1");
  return bytes;
}

/** Decodes what `encodeDentry` made. Throws RecordFormatError. */
export function decodeDentry(plaintext: Uint8Array): { name: Name; type: number } {
  if (plaintext.length < 3 || plaintext[0] !== RECORD_VERSION) throw new RecordFormatError("dentry record: unknown version or no name");
  return { type: (plaintext[1] as number) << 12, name: asBuffer(plaintext).toString("latin1", 2) };
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
