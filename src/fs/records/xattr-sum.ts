/** What all extended attributes of an inode come to: its attributes hold it, so that an older value, or one that is missing, is noticed. */
import { createHash } from "node:crypto";
import type { Name } from "../posix/vfs.ts";

/** 16 bytes of SHA-256 over names and values in the names' order, one character for each; "" for none. Sealed with the attributes, so no key is needed. */
export function xattrSum(xattrs: ReadonlyMap<Name, Uint8Array>): string {
  if (xattrs.size === 0) return "";
  const hash = createHash("sha256");
  const lengths = Buffer.alloc(8);
  for (const name of [...xattrs.keys()].sort()) {
    const value = xattrs.get(name) as Uint8Array;
    lengths.writeUInt32LE(name.length, 0);
    lengths.writeUInt32LE(value.length, 4);
    hash.update(lengths).update(Buffer.from(name, "latin1")).update(value);
  }
  return hash.digest().toString("latin1", 0, 16);
}
