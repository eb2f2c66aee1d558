/**
 * Changing the tree: each operation is one delta of the shard, built from what is known and built anew when another client was faster.
 *
 * This folder is about names: calls of a volume come in (look up, create, rename, unlink, list); deltas go out to the shard.
 */

import { newFileId, sumHashes } from "../../crypto/file-id.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix } from "../../protocol/record-keys.ts";
import { requireMayAdd, requireMayChange, requireMayRemove } from "../inodes/flags.ts";
import type { Inode } from "../inodes/inode.ts";
import { CONFLICTS_MAX, inodePut, unchanged } from "../inodes/inode-change.ts";
import type { Namespace } from "../inodes/namespace.ts";
import { now } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import type { Caller, Name } from "../posix/vfs.ts";
import { FileType, type InodeAttributes, NO_REGIONS } from "../records/inode-record.ts";
import { cookieOf, hashText } from "../shard/shard.ts";
import { bump, conflict, dentryPut, Entries, emptyChange, entryOf, withChange } from "./entries.ts";
import { Renamer } from "./rename.ts";

/** Names that one file may have (ext4's LINK_MAX is 65,000; ours only bounds the counter). */
const LINKS_MAX = 65_000;
const SET_GID = 0o2000;
const PERMISSIONS = 0o7777;

export class Tree {
  readonly #namespace: Namespace;
  readonly #entries: Entries;
  readonly #renamer: Renamer;

  constructor(namespace: Namespace, sessionId: Uint8Array) {
    this.#namespace = namespace;
    this.#entries = new Entries(namespace, sessionId);
    this.#renamer = new Renamer(this.#entries);
  }

  /** rename(2), with RENAME_NOREPLACE and RENAME_EXCHANGE. Returns what was replaced, for the caller to forget. */
  rename(from: Inode, name: Name, to: Inode, newName: Name, flags: number): Promise<Inode | null> {
    return this.#renamer.rename(from, name, to, newName, flags);
  }

  /** The last handle of a deleted inode was closed. */
  dropOrphan(inode: Inode): Promise<void> {
    return this.#entries.dropOrphan(inode);
  }

  /** Makes an inode and its name. Throws EEXIST, ENOENT (the folder is gone). */
  async make(caller: Caller, dir: Inode, name: Name, mode: number, more: { rdev?: number; target?: Name } = {}): Promise<Inode> {
    requireMayAdd(dir);
    const { shard } = this.#namespace;
    const number = await this.#namespace.nextNumber();
    const time = now();
    const type = mode & FileType.MASK;
    const isFolder = type === FileType.DIRECTORY;
    const inherits = (dir.mode & SET_GID) !== 0;
    const target = more.target ?? "";
    const hash = shard.nameHash(dir.number, name);
    const key = dentryKey(dir.number, hash);
    const attributes: InodeAttributes = {
      fileId: newFileId(),
      mode: type | (mode & PERMISSIONS) | (inherits && isFolder ? SET_GID : 0),
      uid: caller.uid,
      gid: inherits ? dir.gid : caller.gid,
      rdev: more.rdev ?? 0,
      nlink: 1,
      size: target.length,
      allocated: 0,
      parent: isFolder ? dir.number : 0,
      generation: 0,
      mtimeBumps: 0,
      nameSum: hashText(hash),
      xattrSum: "",
      flags: 0,
      regionGenerations: NO_REGIONS,
      atimeSec: time.sec,
      atimeNsec: time.nsec,
      mtimeSec: time.sec,
      mtimeNsec: time.nsec,
      ctimeSec: time.sec,
      ctimeNsec: time.nsec,
      target,
    };
    const { fileId } = attributes;
    const result = await shard.commit({
      checks: [
        { kind: "absent", key },
        { kind: "present", key: inodeKey(dir.number) },
        { kind: "absent", key: inodeKey(number) },
      ],
      puts: [dentryPut(dir, key, name, { number, fileId, type }), inodePut(number, attributes)],
      bumps: [bump(dir, isFolder ? 1 : 0, 1, time)],
      leases: [number],
    });
    if (!result.ok) {
      dir.folder.forgetName(name);
      if (result.failed.includes(2)) {
        this.#namespace.forgetNumbers();
        throw shard.mistrust(number, "the node has granted its number twice");
      }
      if (!result.failed.includes(1)) throw new FsError("EEXIST");
      dir.distrust();
      throw new FsError("ENOENT");
    }
    this.#entries.entriesChanged([dir], result.counters);
    dir.folder.apply(name, { number, fileId, type, version: result.seq, cookie: cookieOf(hash) });
    const leased = result.leased.length > 0;
    const counters = isFolder ? { links: 0, entries: 0, mtimeSec: 0, mtimeNsec: 0, bumps: 0 } : null;
    const inode = this.#namespace.adopt({ number, version: result.seq, isDamaged: false, attributes, counters, region0: null, leased });
    if (isFolder) {
      const { folder } = inode;
      folder.isLeased = leased;
      folder.validUntilMs = Number.POSITIVE_INFINITY;
      folder.markComplete(0);
      if (!leased) folder.forget();
    } else {
      inode.contentIsNew();
      inode.kernelGeneration = 0;
    }
    return inode;
  }

  /** Gives an inode another name. Throws EEXIST, EMLINK, ENOENT, ESTALE. */
  async link(inode: Inode, dir: Inode, name: Name): Promise<void> {
    const { shard } = this.#namespace;
    await inode.locked(async () => {
      for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
        requireMayAdd(dir);
        requireMayChange(inode);
        if (inode.stored.nlink >= LINKS_MAX) throw new FsError("EMLINK");
        if (inode.isOrphan || inode.stored.nlink === 0) throw new FsError("ENOENT");
        const time = now();
        const hash = shard.nameHash(dir.number, name);
        const key = dentryKey(dir.number, hash);
        const attributes = withChange(inode.stored, time);
        attributes.nlink++;
        attributes.nameSum = sumHashes(attributes.nameSum, hashText(hash));
        const result = await shard.commit({
          checks: [{ kind: "absent", key }, { kind: "present", key: inodeKey(dir.number) }, unchanged(inode)],
          puts: [dentryPut(dir, key, name, inode), inodePut(inode.number, attributes)],
          bumps: [bump(dir, 0, 1, time)],
        });
        if (result.ok) {
          inode.committed(result.seq, attributes);
          this.#entries.entriesChanged([dir], result.counters);
          dir.folder.apply(name, entryOf(inode, result.seq, hash));
          return;
        }
        dir.folder.forgetName(name);
        if (result.failed.includes(0)) throw new FsError("EEXIST");
        if (result.failed.includes(1)) throw new FsError("ENOENT");
        await this.#namespace.fetch(inode.number);
      }
      throw conflict(inode);
    });
  }

  /** Removes a name of something that is not a folder. Returns the inode. Throws ENOENT, EISDIR. */
  async unlink(dir: Inode, name: Name): Promise<Inode> {
    for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
      const found = await this.#entries.find(dir, name);
      if (found.inode.isDirectory) throw new FsError("EISDIR");
      requireMayRemove(dir, found.inode);
      const done = await found.inode.locked(async () => {
        const time = now();
        const change = emptyChange();
        change.checks.push(this.#entries.entryIs(dir, name, found.entry));
        const hash = this.#namespace.shard.nameHash(dir.number, name);
        change.deletes.push(dentryKey(dir.number, hash));
        change.bumps.push(bump(dir, 0, -1, time));
        const drop = this.#entries.dropLink(found.inode, hash, time, change);
        try {
          const result = await this.#namespace.shard.commit(change);
          if (!result.ok) return false;
          this.#entries.entriesChanged([dir], result.counters);
          dir.folder.apply(name, null);
          drop(result.seq);
          return true;
        } finally {
          found.inode.isVanishing = false;
        }
      });
      if (done) return found.inode;
      await this.#entries.refresh(dir, name, found.inode);
    }
    throw conflict(dir);
  }

  /** Removes an empty folder. Throws ENOENT, ENOTDIR, ENOTEMPTY. */
  async rmdir(dir: Inode, name: Name): Promise<Inode> {
    for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
      const found = await this.#entries.find(dir, name);
      const { inode } = found;
      if (!inode.isDirectory) throw new FsError("ENOTDIR");
      requireMayRemove(dir, inode);
      const result = await this.#namespace.shard.commit({
        checks: [
          { kind: "empty", prefix: dentryPrefix(inode.number) },
          this.#entries.entryIs(dir, name, found.entry),
          inode.isDamaged ? unchanged(inode) : { kind: "present", key: inodeKey(inode.number) },
        ],
        deletes: [this.#entries.dentryKey(dir, name)],
        deletePrefixes: [inodePrefix(inode.number)],
        bumps: [bump(dir, -1, -1, now())],
      });
      if (result.ok) {
        this.#entries.entriesChanged([dir], result.counters);
        dir.folder.apply(name, null);
        // It stays in memory, as it may be open or somebody's working directory.
        inode.isOrphan = true;
        return inode;
      }
      if (result.failed.includes(0) && !result.failed.includes(1)) throw new FsError("ENOTEMPTY");
      await this.#entries.refresh(dir, name, inode);
    }
    throw conflict(dir);
  }
}
