/** Hashes of names: what a node sees of a directory entry or an extended attribute instead of its name. */

import { writeU64 } from "../protocol/big-endian.ts";
import { NAME_HASH_BYTES } from "../protocol/record-keys.ts";
import type { HmacSha256 } from "./hmac.ts";
import type { NamespaceKeys } from "./namespace-keys.ts";
import { prefixViews } from "./scratch.ts";

/** NAME_MAX and XATTR_NAME_MAX of Linux (limits.h): bytes of a name. */
const NAME_MAX_BYTES = 255;
const INODE_BYTES = 8;

// One scratch message a thread: inode u64, name. Both hashes are made without awaiting, so nobody else can be in it.
const messageViews = prefixViews(INODE_BYTES + NAME_MAX_BYTES);
const message = messageViews[INODE_BYTES + NAME_MAX_BYTES] as Buffer;

function hash(hmac: HmacSha256, ino: number, name: string): Uint8Array {
  if (name.length > NAME_MAX_BYTES) throw new RangeError(`name: expected at most ${NAME_MAX_BYTES} bytes, got ${name.length}`);
  writeU64(message, 0, ino);
  const length = message.write(name, INODE_BYTES, "latin1");
  return hmac.digestShared(messageViews[INODE_BYTES + length] as Buffer).slice(0, NAME_HASH_BYTES);
}

/**
 * HMAC-SHA256(name key of the namespace, parent inode u64, name), its first 16 bytes. The inode is in it so that equal names in two
 * folders don't show as equal.
 * @param name one character per byte (vfs.ts Name), at most 255
 */
export function nameHash(keys: NamespaceKeys, parentIno: number, name: string): Uint8Array {
  return hash(keys.name, parentIno, name);
}

/** The same for the name of an extended attribute of `ino`, under another key. */
export function xattrNameHash(keys: NamespaceKeys, ino: number, name: string): Uint8Array {
  return hash(keys.xattrName, ino, name);
}
