/** Opens a namespace for a mount: its root folder is made by the first client that comes, because only a client can seal it. */

import type { FileId } from "../../crypto/file-id.ts";
import { ROOT_INO } from "../../protocol/limits.ts";
import { inodeKey } from "../../protocol/record-keys.ts";
import { now } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import { FileType, type InodeAttributes, NO_NAMES, NO_REGIONS } from "../records/inode-record.ts";
import { inodePut } from "./inode-change.ts";
import type { Namespace } from "./namespace.ts";

const ROOT_PERMISSIONS = 0o755;

/** The attributes of a root folder that is made now. */
export function newRoot(fileId: FileId, owner: { uid: number; gid: number }): InodeAttributes {
  const { sec, nsec } = now();
  return {
    fileId,
    mode: FileType.DIRECTORY | ROOT_PERMISSIONS,
    uid: owner.uid,
    gid: owner.gid,
    rdev: 0,
    nlink: 1,
    size: 0,
    allocated: 0,
    parent: 0,
    generation: 0,
    mtimeBumps: 0,
    nameSum: NO_NAMES,
    xattrSum: "",
    flags: 0,
    regionGenerations: NO_REGIONS,
    atimeSec: sec,
    atimeNsec: nsec,
    mtimeSec: sec,
    mtimeNsec: nsec,
    ctimeSec: sec,
    ctimeNsec: nsec,
    target: "",
  };
}

/** Fetches the root folder, or makes it, owned by `owner`. */
export async function openRoot(namespace: Namespace, owner: { uid: number; gid: number }): Promise<void> {
  try {
    await namespace.fetch(ROOT_INO);
    namespace.shard.noteState();
    return;
  } catch (error) {
    if (!(error instanceof FsError && error.code === "ESTALE")) throw error;
  }
  const attributes = newRoot(namespace.shard.rootFileId, owner);
  // Two clients may both be the first: one of them makes it, both then fetch it.
  await namespace.shard.commit({
    checks: [{ kind: "absent", key: inodeKey(ROOT_INO) }],
    puts: [inodePut(ROOT_INO, attributes)],
  });
  await namespace.fetch(ROOT_INO);
}
