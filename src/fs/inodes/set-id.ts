/** Set-id bits, and when they end. */

import type { Caller } from "../posix/vfs.ts";

/** S_ISUID, S_ISGID and the group's execute bit (stat(2)). */
const SET_UID = 0o4000;
const SET_GID = 0o2000;
const GROUP_EXECUTE = 0o010;

/**
 * The mode after `caller` has changed the owner (chown(2)), or, without privileges, the content (write(2), truncate(2)). Set-gid without the
 * group's execute bit is given back to members of the group, as setattr_should_drop_sgid() of the kernel's fs/attr.c does.
 */
export function withoutSetId({ mode, gid }: { readonly mode: number; readonly gid: number }, caller: Caller): number {
  const cleared = mode & ~SET_UID;
  if ((cleared & SET_GID) === 0) return cleared;
  const keeps = (cleared & GROUP_EXECUTE) === 0 && (caller.uid === 0 || caller.isInGroup?.(gid) === true);
  return keeps ? cleared : cleared & ~SET_GID;
}

/** The mode after `caller` has changed the content. */
export function modeAfterWrite(inode: { readonly mode: number; readonly gid: number }, caller: Caller): number {
  return caller.killPriv === true ? withoutSetId(inode, caller) : inode.mode;
}
