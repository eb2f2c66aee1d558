import {
  FUSE_NOTIFY_INVAL_ENTRY,
  FUSE_NOTIFY_INVAL_INODE,
  fuse_notify_inval_entry_out,
  fuse_notify_inval_inode_out,
  fuse_out_header,
} from "../../ffi/libfuse3/kernel.ts";
import type { Name } from "../fs/posix/vfs.ts";
import { putU64 } from "./attributes.ts";
import { editionBits } from "./node-numbers.ts";

/** The longest notification: a name of 255 bytes with its NUL. */
export const MAX_NOTIFICATION_BYTES = fuse_out_header.SIZE + fuse_notify_inval_entry_out.SIZE + 256;

/** A negative offset in FUSE_NOTIFY_INVAL_INODE: no page is looked at (fuse_reverse_inval_inode() in the kernel's fs/fuse/inode.c). */
const NO_PAGES = -1n;

/** Encodes "drop this node's attributes", and with `pages` "and all its cached pages", at `at`. Returns its length in bytes. */
export function putInvalidateInode(view: DataView, at: number, ino: number, edition: number, pages: boolean): number {
  const length = fuse_out_header.SIZE + fuse_notify_inval_inode_out.SIZE;
  putHeader(view, at, length, FUSE_NOTIFY_INVAL_INODE);
  const body = at + fuse_out_header.SIZE;
  const high = body + fuse_notify_inval_inode_out.ino + 4;
  putU64(view, body + fuse_notify_inval_inode_out.ino, ino);
  view.setUint32(high, view.getUint32(high, true) + editionBits(edition), true);
  // Offset 0, length 0: to the end of the file.
  view.setBigInt64(body + fuse_notify_inval_inode_out.off, pages ? 0n : NO_PAGES, true);
  putU64(view, body + fuse_notify_inval_inode_out.len, 0);
  return length;
}

/** Encodes "drop this name" at `at`. Returns its length in bytes. */
export function putInvalidateEntry(view: DataView, at: number, parent: number, name: Name): number {
  const body = at + fuse_out_header.SIZE;
  const nameAt = body + fuse_notify_inval_entry_out.SIZE;
  const length = nameAt + name.length + 1 - at;
  putHeader(view, at, length, FUSE_NOTIFY_INVAL_ENTRY);
  putU64(view, body + fuse_notify_inval_entry_out.parent, parent);
  view.setUint32(body + fuse_notify_inval_entry_out.namelen, name.length, true);
  view.setUint32(body + fuse_notify_inval_entry_out.flags, 0, true);
  for (let i = 0; i < name.length; i++) view.setUint8(nameAt + i, name.charCodeAt(i));
  view.setUint8(nameAt + name.length, 0);
  return length;
}

/** A notification is a reply to no request: its `unique` is 0, and its kind stands where the error would. */
function putHeader(view: DataView, at: number, length: number, code: number): void {
  view.setUint32(at + fuse_out_header.len, length, true);
  view.setInt32(at + fuse_out_header.error, code, true);
  putU64(view, at + fuse_out_header.unique, 0);
}
