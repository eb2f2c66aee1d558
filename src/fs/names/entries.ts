/** Names and what they lead to: finding them, checking that they still hold, and taking one away. Shared by the operations on the tree. */
import { sumHashes } from "../../crypto/file-id.ts";
import type { Bump, Check } from "../../protocol/messages.ts";
import { dentryKey, inodeKey, inodePrefix, orphanKey } from "../../protocol/record-keys.ts";
import type { FolderEntry } from "../inodes/folder.ts";
import type { Inode } from "../inodes/inode.ts";
import { inodePut, unchanged } from "../inodes/inode-change.ts";
import type { Namespace } from "../inodes/namespace.ts";
import type { Timestamp } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import type { Name } from "../posix/vfs.ts";
import { encodeDentry, type InodeAttributes } from "../records/inode-record.ts";
import { DamageError } from "../shard/damage.ts";
import { type Change, cookieOf, type FileRef, hashText, type PlainPut } from "../shard/shard.ts";

/** An entry with what it leads to. */
export interface Found {
  entry: FolderEntry;
  inode: Inode;
}

export class Entries {
  readonly namespace: Namespace;
  readonly #sessionId: Uint8Array;

  constructor(namespace: Namespace, sessionId: Uint8Array) {
    this.namespace = namespace;
    this.#sessionId = sessionId;
  }

  /** A name that must be there. Throws ENOENT. */
  async find(dir: Inode, name: Name): Promise<Found> {
    const found = await this.findMaybe(dir, name);
    if (found === null) throw new FsError("ENOENT");
    return found;
  }

  /** A name, as it is known under a lease, or as the node has it now. */
  async findMaybe(dir: Inode, name: Name): Promise<Found | null> {
    const entry = this.namespace.folderOf(dir).find(name);
    if (entry !== undefined) {
      if (entry.number === 0) return null;
      const inode = this.namespace.peekNamed(entry);
      if (inode !== undefined) return { entry, inode };
    }
    return await this.namespace.lookupNow(dir, name);
  }

  /** After a conflict: what was believed about a name and an inode is asked anew. */
  async refresh(dir: Inode, name: Name, inode: Inode | null): Promise<void> {
    dir.folder.forgetName(name);
    if (inode !== null) await this.refetch(inode);
  }

  /** Gets an inode's newest state; false when it is gone. */
  async refetch(inode: Inode): Promise<boolean> {
    try {
      await this.namespace.fetch(inode.number);
      return true;
    } catch (error) {
      if (error instanceof DamageError) return true;
      if (error instanceof FsError && error.code === "ESTALE") return false;
      throw error;
    }
  }

  /** The key of a name in a folder. */
  dentryKey(dir: Inode, name: Name): Uint8Array {
    return dentryKey(dir.number, this.namespace.shard.nameHash(dir.number, name));
  }

  /** The check that a name still is what it was. */
  entryIs(dir: Inode, name: Name, entry: FolderEntry): Check {
    return { kind: "version", key: this.dentryKey(dir, name), version: entry.version };
  }

  /** Takes over the counters of folders that a committed change has bumped, in its order. */
  entriesChanged(dirs: Inode[], counters: NonNullable<Inode["counters"]>[]): void {
    dirs.forEach((dir, i) => {
      const after = counters[i];
      if (after === undefined) return;
      dir.absorbCounters(after);
      dir.folder.ownChange(after);
    });
  }

  /**
   * Adds to a change what taking one name (its hash) from an inode means: one link less, or its end, or, while it is open here, a life until the
   * last close. Returns what to do when the change is committed. The caller holds the inode's lock.
   */
  dropLink(inode: Inode, name: Uint8Array, time: Timestamp, change: FullChange): (seq: number) => void {
    change.checks.push(unchanged(inode));
    if (inode.isDamaged) {
      // How many names it has is not known, and none of them leads to anything: what is left of it goes with the first.
      const { number, goesWithIt } = inode;
      if (goesWithIt != null) change.checks.push({ kind: "version", key: inodeKey(goesWithIt.number), version: goesWithIt.version });
      change.deletePrefixes.push(inodePrefix(goesWithIt?.number ?? number));
      return () => {
        this.namespace.drop(number);
        if (goesWithIt != null) this.namespace.drop(goesWithIt.number);
      };
    }
    // Its last name was removed while this waited for the lock: the name that was found is old, and the node says so.
    if (inode.stored.nlink === 0) return () => undefined;
    const attributes = withChange(inode.stored, time);
    attributes.nlink--;
    attributes.nameSum = sumHashes(attributes.nameSum, hashText(name));
    if (attributes.nlink > 0) {
      change.puts.push(inodePut(inode.number, attributes));
      return (seq) => inode.committed(seq, attributes);
    }
    if (inode.openCount === 0) {
      change.deletePrefixes.push(inodePrefix(inode.number));
      inode.isVanishing = true;
      return (seq) => {
        inode.isOrphan = true;
        // A fifo, socket or device may be open, which only the kernel knows: its attributes stay in memory.
        // So do a file's whose bytes are all known: an open that was on its way when its name was replaced still reads them.
        if (inode.isRegular && !inode.isWholeKnown) this.namespace.drop(inode.number);
        else inode.committed(seq, attributes);
        inode.isGone = true;
      };
    }
    const key = orphanKey(this.#sessionId, inode.number);
    change.puts.push(inodePut(inode.number, attributes), {
      key,
      fileId: inode.fileId,
      link: inode.number,
      chunks: [],
      plaintext: new Uint8Array(),
    });
    return (seq) => {
      inode.committed(seq, attributes);
      inode.isOrphan = true;
      // Closed meanwhile. When this fails, the node drops it with the session.
      if (inode.openCount === 0) this.dropOrphan(inode).catch(() => undefined);
    };
  }

  /** The last handle of a deleted inode was closed. */
  async dropOrphan(inode: Inode): Promise<void> {
    this.namespace.drop(inode.number);
    await this.namespace.shard.commit({
      checks: [],
      deletePrefixes: [inodePrefix(inode.number)],
      deletes: [orphanKey(this.#sessionId, inode.number)],
    });
  }
}

/** A change whose parts are all there, to be added to. */
export type FullChange = Required<Pick<Change, "checks" | "puts" | "deletes" | "deletePrefixes" | "bumps">>;

/** The put of a dentry. */
export function dentryPut(dir: FileRef, key: Uint8Array, name: Name, file: FileRef & { readonly type: number }): PlainPut {
  return { key, fileId: dir.fileId, link: file.number, chunks: [], plaintext: encodeDentry(name, file.type, file.fileId) };
}

/** What a folder knows of an entry that a delta with this number has made. */
export function entryOf(file: FileRef & { readonly type: number }, version: number, hash: Uint8Array): FolderEntry {
  return { number: file.number, fileId: file.fileId, type: file.type, version, cookie: cookieOf(hash) };
}

/** What a change of its entries does to a folder. */
export function bump(dir: Inode, links: number, entries: number, { sec, nsec }: Timestamp): Bump {
  return { ino: dir.number, links, entries, mtimeSec: sec, mtimeNsec: nsec };
}

/** The attributes with a new ctime. */
export function withChange(attributes: InodeAttributes, { sec, nsec }: Timestamp): InodeAttributes {
  return { ...attributes, ctimeSec: sec, ctimeNsec: nsec };
}

/** Other clients were faster every time. */
export function conflict(inode: Inode): FsError {
  return new FsError("EIO", `inode ${inode.ino}: other mounts kept changing it`);
}

/** A change that does nothing yet. */
export function emptyChange(): FullChange {
  return { checks: [], puts: [], deletes: [], deletePrefixes: [], bumps: [] };
}
