/**
 * The keys of a shard, as the storage node sees them. All that belongs to one inode stands together, so that one range
 * holds it and one range delete removes it. Integers are big-endian: byte order is numeric order.
 *
 *     0x01 ino:8 0x00            inode record   (sealed attributes; symlink target)
 *     0x01 ino:8 0x01            reserved: the folder's counters (kept by the node in clear, see messages.ts Counters)
 *     0x01 ino:8 0x02 region:8   extents of one 64 MiB region of the file, with small data inline
 *     0x01 ino:8 0x03 hash:16    one extended attribute
 *     0x02 parent:8 hash:16      dentry; its clear `link` is the inode that it names
 *     0x03 session:16 ino:8      deleted-but-open inode of a session; its `link` is the inode; goes when the session ends
 */
import { readU64, writeU64 } from "./big-endian.ts";
import { SESSION_ID_BYTES } from "./limits.ts";

export const KEY_KIND_INODE = 0x01;
export const KEY_KIND_DENTRY = 0x02;
/** Kind, inode number, sub key. */
const INODE_KEY_BYTES = 10;
export const KEY_KIND_ORPHAN = 0x03;

export const INODE_SUB_ATTR = 0x00;
const INODE_SUB_REGION = 0x02;
const INODE_SUB_XATTR = 0x03;

/** Bytes of a name hash in a key: HMAC-SHA256 cut to 128 bits. */
export const NAME_HASH_BYTES = 16;
const DENTRY_KEY_BYTES = 1 + 8 + NAME_HASH_BYTES;

/** The prefix that all records of one inode share (9 bytes). */
export function inodePrefix(ino: number): Uint8Array {
  const key = new Uint8Array(9);
  key[0] = KEY_KIND_INODE;
  writeU64(key, 1, ino);
  return key;
}

/** Key of the sealed attributes of `ino`. */
export function inodeKey(ino: number): Uint8Array {
  const key = new Uint8Array(10);
  key[0] = KEY_KIND_INODE;
  writeU64(key, 1, ino);
  key[9] = INODE_SUB_ATTR;
  return key;
}

/** Key of the extents of 64 MiB region number `region` of file `ino`. */
export function regionKey(ino: number, region: number): Uint8Array {
  const key = new Uint8Array(18);
  key[0] = KEY_KIND_INODE;
  writeU64(key, 1, ino);
  key[9] = INODE_SUB_REGION;
  writeU64(key, 10, region);
  return key;
}

/** The prefix of all regions of `ino` (10 bytes). */
export function regionPrefix(ino: number): Uint8Array {
  const key = inodeKey(ino);
  key[9] = INODE_SUB_REGION;
  return key;
}

/** The region number in a key made by `regionKey`. */
export function regionOfKey(key: Uint8Array): number {
  return readU64(key, 10);
}

/** Whether a key is that of an inode's attributes. */
export function isAttrKey(key: Uint8Array): boolean {
  return key.length === INODE_KEY_BYTES && key[0] === KEY_KIND_INODE && key[INODE_KEY_BYTES - 1] === INODE_SUB_ATTR;
}

/** Whether `key` is one that `regionKey` makes: only records under these refer to chunks. */
export function isRegionKey(key: Uint8Array): boolean {
  return key[0] === KEY_KIND_INODE && key[9] === INODE_SUB_REGION;
}

/** Whether `key` is one that `xattrKey` makes. */
export function isXattrKey(key: Uint8Array): boolean {
  return key[0] === KEY_KIND_INODE && key[9] === INODE_SUB_XATTR;
}

/** Key of one extended attribute; `nameHash` has 16 bytes. */
export function xattrKey(ino: number, nameHash: Uint8Array): Uint8Array {
  const key = new Uint8Array(10 + NAME_HASH_BYTES);
  key[0] = KEY_KIND_INODE;
  writeU64(key, 1, ino);
  key[9] = INODE_SUB_XATTR;
  key.set(nameHash, 10);
  return key;
}

/** The prefix of all extended attributes of `ino` (10 bytes). */
export function xattrPrefix(ino: number): Uint8Array {
  const key = inodeKey(ino);
  key[9] = INODE_SUB_XATTR;
  return key;
}

/** Key of the entry of folder `parent` whose name hashes to `nameHash` (16 bytes). */
export function dentryKey(parent: number, nameHash: Uint8Array): Uint8Array {
  const key = new Uint8Array(DENTRY_KEY_BYTES);
  key[0] = KEY_KIND_DENTRY;
  writeU64(key, 1, parent);
  key.set(nameHash, 9);
  return key;
}

/** The prefix of all entries of folder `parent` (9 bytes). */
export function dentryPrefix(parent: number): Uint8Array {
  const key = new Uint8Array(9);
  key[0] = KEY_KIND_DENTRY;
  writeU64(key, 1, parent);
  return key;
}

/** Key of a deleted-but-open inode of a session. */
export function orphanKey(sessionId: Uint8Array, ino: number): Uint8Array {
  const key = new Uint8Array(1 + SESSION_ID_BYTES + 8);
  key[0] = KEY_KIND_ORPHAN;
  key.set(sessionId, 1);
  writeU64(key, 1 + SESSION_ID_BYTES, ino);
  return key;
}

/** The prefix of all deleted-but-open inodes of a session. */
export function orphanPrefix(sessionId: Uint8Array): Uint8Array {
  const key = new Uint8Array(1 + SESSION_ID_BYTES);
  key[0] = KEY_KIND_ORPHAN;
  key.set(sessionId, 1);
  return key;
}

/** The inode (or, for a dentry, the folder) that a key belongs to; 0 for keys of another kind. Leases are kept per this number. */
export function inodeOfKey(key: Uint8Array): number {
  return (key[0] === KEY_KIND_INODE || key[0] === KEY_KIND_DENTRY) && key.length >= 9 ? readU64(key, 1) : 0;
}

/** The smallest key above every key that starts with `prefix`, or null when there is none (all bytes 0xff). */
export function prefixEnd(prefix: Uint8Array): Uint8Array | null {
  // By constructor: slice() of a Buffer would be a view, and the prefix would change with it.
  const end = new Uint8Array(prefix);
  for (let i = end.length - 1; i >= 0; i--) {
    const byte = end[i] as number;
    if (byte < 0xff) {
      end[i] = byte + 1;
      return end.subarray(0, i + 1);
    }
  }
  return null;
}
