/** setattr and extended attributes. */

import { now, type Timestamp } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import { type Caller, type Name, type SetAttr, XattrFlag } from "../posix/vfs.ts";
import { FileType, type InodeAttributes } from "../records/inode-record.ts";
import { xattrSum } from "../records/xattr-sum.ts";
import type { Xattrs } from "../shard/shard.ts";
import type { Inode, PendingAttributes } from "./inode.ts";
import { changeInode } from "./inode-change.ts";
import type { Namespace } from "./namespace.ts";
import { withoutSetId } from "./set-id.ts";

/** Linux limits an attribute's value to 64 KiB and the list of names too (linux/limits.h XATTR_SIZE_MAX, XATTR_LIST_MAX). */
const XATTR_VALUE_MAX_BYTES = 65_536;
const XATTR_LIST_MAX_BYTES = 65_536;
/** File capabilities: end when the content or the owner changes (capabilities(7)). */
export const CAPABILITY_XATTR = "security.capability";
const PERMISSIONS = 0o7777;
const NO_XATTRS: Xattrs = { found: new Map(), damaged: new Set() };
/** The sum where nothing but damaged extended attributes is left: not that of none, so that they are still looked for. */
const ONLY_DAMAGED = "\xff".repeat(16);

/** What a setattr without a size makes of an inode; of the mode only the permission bits count. */
export function pendingOf(inode: Inode, change: SetAttr, caller: Caller): PendingAttributes {
  const time = now();
  const pending: PendingAttributes = { ctime: time };
  let mode = inode.mode;
  if (change.mode !== undefined) mode = (mode & FileType.MASK) | (change.mode & PERMISSIONS);
  const changesOwner = change.uid !== undefined || change.gid !== undefined;
  if (changesOwner && change.mode === undefined && !inode.isDirectory) mode = withoutSetId({ mode, gid: inode.gid }, caller);
  if (mode !== inode.mode) pending.mode = mode;
  if (change.uid !== undefined) pending.uid = change.uid;
  if (change.gid !== undefined) pending.gid = change.gid;
  if (change.atime !== undefined) pending.atime = resolveTime(change.atime, time);
  if (change.mtime !== undefined) pending.mtime = resolveTime(change.mtime, time);
  return pending;
}

function resolveTime(time: Timestamp | "now", current: Timestamp): Timestamp {
  return time === "now" ? current : time;
}

/** Commits a setattr without a size. The caller holds the inode's lock, and nothing is pending. */
export async function changeAttributes(namespace: Namespace, inode: Inode, change: SetAttr, caller: Caller): Promise<void> {
  if (inode.isOrphan && !inode.isRegular) {
    // Nothing of it is stored any more; who has it open, or works in it, still sees it.
    inode.stored = applyPending(inode.stored, pendingOf(inode, change, caller));
    return;
  }
  await changeInode(namespace, inode, () => {
    const attributes = applyPending(inode.stored, pendingOf(inode, change, caller));
    // From here on, only later changes of the entries override the folder's mtime.
    if (inode.isDirectory && change.mtime !== undefined) attributes.mtimeBumps = inode.counters?.bumps ?? 0;
    else if (inode.isDirectory) [attributes.mtimeSec, attributes.mtimeNsec] = [inode.stored.mtimeSec, inode.stored.mtimeNsec];
    return { attributes };
  });
}

/** Commits chattr's flags. The caller holds the inode's lock, and nothing is pending. */
export async function replaceFlags(namespace: Namespace, inode: Inode, flags: number): Promise<void> {
  if (inode.isOrphan && !inode.isRegular) throw new FsError("ESTALE");
  await changeInode(namespace, inode, () => ({ attributes: { ...applyPending(inode.stored, { ctime: now() }), flags } }));
}

/** The stored attributes with a change laid over them. */
export function applyPending(stored: InodeAttributes, pending: PendingAttributes): InodeAttributes {
  const attributes = { ...stored };
  if (pending.mode !== undefined) attributes.mode = pending.mode;
  if (pending.uid !== undefined) attributes.uid = pending.uid;
  if (pending.gid !== undefined) attributes.gid = pending.gid;
  if (pending.atime !== undefined) [attributes.atimeSec, attributes.atimeNsec] = [pending.atime.sec, pending.atime.nsec];
  if (pending.mtime !== undefined) [attributes.mtimeSec, attributes.mtimeNsec] = [pending.mtime.sec, pending.mtime.nsec];
  if (pending.ctime !== undefined) [attributes.ctimeSec, attributes.ctimeNsec] = [pending.ctime.sec, pending.ctime.nsec];
  return attributes;
}

/** How often extended attributes are asked for again that don't belong to the attributes that are known. */
const XATTR_READS_MAX = 8;

/** All extended attributes of an inode; from memory while the inode is current. */
export async function loadXattrs(namespace: Namespace, inode: Inode): Promise<Xattrs> {
  for (let tries = 0; tries < XATTR_READS_MAX; tries++) {
    if (inode.stored.xattrSum === "") return NO_XATTRS;
    if (inode.xattrs !== null) return inode.xattrs;
    const { version } = inode;
    const xattrs = await namespace.shard.xattrs(inode);
    // Beside one that can't be opened, nothing can be said of the others but that they are this inode's.
    if (xattrs.damaged.size > 0 || xattrSum(xattrs.found) === inode.stored.xattrSum) {
      if (version === inode.version) inode.xattrs = xattrs;
      return xattrs;
    }
    if (version !== inode.version) continue;
    await namespace.fetch(inode.number);
    if (version === inode.version)
      throw namespace.shard.mistrust(inode.number, "its extended attributes are of another time than its attributes");
  }
  throw new FsError("EIO", `inode ${inode.ino}: its extended attributes kept changing while they were read`);
}

/** One extended attribute. @throws FsError ENODATA; EIO: it is damaged */
export async function getXattr(namespace: Namespace, inode: Inode, name: Name): Promise<Uint8Array> {
  const { found, damaged } = await loadXattrs(namespace, inode);
  const value = found.get(name);
  if (value !== undefined) return value;
  const isDamaged = damaged.size > 0 && damaged.has(keyText(namespace, inode, name));
  throw isDamaged ? new FsError("EIO", `inode ${inode.ino}: the extended attribute is damaged`) : new FsError("ENODATA");
}

/** How Xattrs.damaged names the record of an extended attribute. */
function keyText(namespace: Namespace, inode: Inode, name: Name): string {
  return Buffer.from(namespace.shard.xattrKey(inode.number, name)).toString("hex");
}

/** Sets an extended attribute. Throws EEXIST, ENODATA (flags), E2BIG, ENOSPC (the list would be too long). */
export async function setXattr(namespace: Namespace, inode: Inode, name: Name, value: Uint8Array, flags: number): Promise<void> {
  if (value.length > XATTR_VALUE_MAX_BYTES) throw new FsError("E2BIG");
  await changeXattrs(namespace, inode, (before) => {
    if ((flags & XattrFlag.CREATE) !== 0 && before.has(name)) throw new FsError("EEXIST");
    if ((flags & XattrFlag.REPLACE) !== 0 && !before.has(name)) throw new FsError("ENODATA");
    return new Map(before).set(name, value);
  });
}

/** Removes an extended attribute, also one that is damaged. Throws ENODATA. */
export async function removeXattr(namespace: Namespace, inode: Inode, name: Name): Promise<void> {
  await changeXattrs(namespace, inode, (before, isDamaged) => {
    const after = new Map(before);
    if (!after.delete(name) && !isDamaged(name)) throw new FsError("ENODATA");
    return after;
  });
}

async function changeXattrs(
  namespace: Namespace,
  inode: Inode,
  change: (before: ReadonlyMap<Name, Uint8Array>, isDamaged: (name: Name) => boolean) => Map<Name, Uint8Array>,
): Promise<void> {
  let xattrs: Xattrs = NO_XATTRS;
  await inode.locked(async () => {
    await changeInode(namespace, inode, async () => {
      const { found: before, damaged } = await loadXattrs(namespace, inode);
      const left = new Set(damaged);
      const isDamaged = (name: Name): boolean => left.delete(keyText(namespace, inode, name));
      const after = change(before, isDamaged);
      let listBytes = 0;
      for (const name of after.keys()) listBytes += name.length + 1;
      if (listBytes > XATTR_LIST_MAX_BYTES) throw new FsError("ENOSPC");
      const { shard } = namespace;
      const set = [...after].filter(([name, value]) => before.get(name) !== value);
      for (const [name] of set) isDamaged(name);
      const removed = [...before.keys()].filter((name) => !after.has(name)).map((name) => shard.xattrKey(inode.number, name));
      const mended = [...damaged].filter((key) => !left.has(key)).map((key) => new Uint8Array(Buffer.from(key, "hex")));
      const written = set.map(([name, value]) => ({
        key: shard.xattrKey(inode.number, name),
        fileId: inode.fileId,
        link: 0,
        chunks: [],
        plaintext: Buffer.concat([Uint8Array.of(name.length), Buffer.from(name, "latin1"), value]),
      }));
      const attributes = applyPending(inode.stored, { ctime: now() });
      attributes.xattrSum = after.size === 0 && left.size > 0 ? ONLY_DAMAGED : xattrSum(after);
      xattrs = { found: after, damaged: left };
      const isWritten = (key: Uint8Array): boolean => written.some((put) => Buffer.compare(put.key, key) === 0);
      return { attributes, puts: written, deletes: [...removed, ...mended.filter((key) => !isWritten(key))] };
    });
    inode.xattrs = xattrs;
  });
}
