/** Changing one inode's record: build the change from what is known, commit it, and again from the newer state on a conflict. */
import { inodeKey } from "../../protocol/record-keys.ts";
import { FsError } from "../posix/errno.ts";
import { encodeInode, type InodeAttributes } from "../records/inode-record.ts";
import { DamageError } from "../shard/damage.ts";
import type { Change, PlainPut } from "../shard/shard.ts";
import type { Inode } from "./inode.ts";
import type { Namespace } from "./namespace.ts";

/** Other clients may change the inode in between; beyond this many times something is wrong. */
export const CONFLICTS_MAX = 64;

export interface InodeChange {
  attributes: InodeAttributes;
  puts?: PlainPut[];
  deletes?: Uint8Array[];
  deletePrefixes?: Uint8Array[];
}

/** The put of an inode's record. */
export function inodePut(number: number, attributes: InodeAttributes): PlainPut {
  return { key: inodeKey(number), fileId: attributes.fileId, link: 0, chunks: [], plaintext: encodeInode(attributes) };
}

/** The check that an inode's record is the one that this client knows. */
export function unchanged(inode: Inode): Change["checks"][number] {
  const key = inodeKey(inode.number);
  if (inode.damagedVersion === 0) return { kind: "absent", key };
  return { kind: "version", key, version: inode.damagedVersion ?? inode.version };
}

/**
 * Commits what `build` makes of the inode's state; builds anew when another client was faster. The caller holds the inode's lock.
 * Throws ESTALE when the inode is gone.
 */
export async function changeInode(namespace: Namespace, inode: Inode, build: () => InodeChange | Promise<InodeChange>): Promise<void> {
  for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
    // The version that the change is built from: build() may wait, and another mount's change arrive meanwhile.
    const basis = unchanged(inode);
    if (inode.isDamaged) throw new DamageError(`inode ${inode.ino}`);
    const { attributes, puts = [], ...rest } = await build();
    const result = await namespace.shard.commit({
      ...rest,
      checks: [basis],
      puts: [...puts, inodePut(inode.number, attributes)],
      leases: inode.leased ? [] : [inode.number],
    });
    if (result.ok) {
      if (inode.committed(result.seq, attributes) && result.leased.length > 0) inode.leased = true;
      return;
    }
    await namespace.fetch(inode.number);
  }
  throw new FsError("EIO", `inode ${inode.ino}: other mounts kept changing it`);
}
