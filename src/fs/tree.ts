/** Changing the tree: each operation is one delta of the shard, built from what is known and built anew when another client was faster. */

import type { Bump, Check } from "../protocol/messages.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix, orphanKey } from "../protocol/record-keys.ts";
import { now, type Timestamp } from "./clock.ts";
import { FsError } from "./errno.ts";
import type { FolderEntry } from "./folder.ts";
import type { Inode } from "./inode.ts";
import { CONFLICTS_MAX, inodePut, unchanged } from "./inode-change.ts";
import { encodeDentry, FileType, type InodeAttributes } from "./inode-record.ts";
import type { Namespace } from "./namespace.ts";
import { type Change, cookieOf, type PlainPut } from "./shard.ts";
import { type Caller, type Name, RenameFlag } from "./vfs.ts";

/** Names that one file may have (ext4's LINK_MAX is 65,000; ours only bounds the counter). */
const LINKS_MAX = 65_000;
/** Folders between one and the root: a path has 4,096 bytes, so at most half as many. */
const DEPTH_MAX = 2_048;
const SET_GID = 0o2000;
const PERMISSIONS = 0o7777;

/** An entry with what it leads to. */
interface Found {
  entry: FolderEntry;
  inode: Inode;
}

export class Tree {
  readonly #namespace: Namespace;
  readonly #sessionId: Uint8Array;

  constructor(namespace: Namespace, sessionId: Uint8Array) {
    this.#namespace = namespace;
    this.#sessionId = sessionId;
  }

  /** Makes an inode and its name. Throws EEXIST, ENOENT (the folder is gone). */
  async make(caller: Caller, dir: Inode, name: Name, mode: number, more: { rdev?: number; target?: Name } = {}): Promise<Inode> {
    const { shard } = this.#namespace;
    const number = await this.#namespace.nextNumber();
    const time = now();
    const type = mode & FileType.MASK;
    const isFolder = type === FileType.DIRECTORY;
    const inherits = (dir.mode & SET_GID) !== 0;
    const target = more.target ?? "";
    const attributes: InodeAttributes = {
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
      hasXattrs: false,
      atimeSec: time.sec,
      atimeNsec: time.nsec,
      mtimeSec: time.sec,
      mtimeNsec: time.nsec,
      ctimeSec: time.sec,
      ctimeNsec: time.nsec,
      target,
    };
    const hash = shard.nameHash(dir.number, name);
    const key = dentryKey(dir.number, hash);
    const result = await shard.commit({
      checks: [
        { kind: "absent", key },
        { kind: "present", key: inodeKey(dir.number) },
      ],
      puts: [dentryPut(key, number, name, type), inodePut(number, attributes)],
      bumps: [bump(dir, isFolder ? 1 : 0, 1, time)],
      leases: [number],
    });
    if (!result.ok) {
      dir.folder.forgetName(name);
      if (!result.failed.includes(1)) throw new FsError("EEXIST");
      dir.distrust();
      throw new FsError("ENOENT");
    }
    this.#entriesChanged([dir], result.counters);
    dir.folder.apply(name, { number, type, version: result.seq, cookie: cookieOf(hash) });
    const leased = result.leased.length > 0;
    const counters = isFolder ? { links: 0, entries: 0, mtimeSec: 0, mtimeNsec: 0, bumps: 0 } : null;
    const inode = this.#namespace.adopt({ number, version: result.seq, attributes, counters, region0: null, leased });
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
        if (inode.stored.nlink >= LINKS_MAX) throw new FsError("EMLINK");
        if (inode.isOrphan || inode.stored.nlink === 0) throw new FsError("ENOENT");
        const time = now();
        const hash = shard.nameHash(dir.number, name);
        const key = dentryKey(dir.number, hash);
        const attributes = withChange(inode.stored, time);
        attributes.nlink++;
        const result = await shard.commit({
          checks: [{ kind: "absent", key }, { kind: "present", key: inodeKey(dir.number) }, unchanged(inode)],
          puts: [dentryPut(key, inode.number, name, inode.type), inodePut(inode.number, attributes)],
          bumps: [bump(dir, 0, 1, time)],
        });
        if (result.ok) {
          inode.committed(result.seq, attributes);
          this.#entriesChanged([dir], result.counters);
          dir.folder.apply(name, { number: inode.number, type: inode.type, version: result.seq, cookie: cookieOf(hash) });
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
      const found = await this.#find(dir, name);
      if (found.inode.isDirectory) throw new FsError("EISDIR");
      const done = await found.inode.locked(async () => {
        const time = now();
        const change = this.#emptyChange();
        change.checks.push(this.#entryIs(dir, name, found.entry));
        change.deletes.push(this.#dentryKey(dir, name));
        change.bumps.push(bump(dir, 0, -1, time));
        const drop = this.#dropLink(found.inode, time, change);
        try {
          const result = await this.#namespace.shard.commit(change);
          if (!result.ok) return false;
          this.#entriesChanged([dir], result.counters);
          dir.folder.apply(name, null);
          drop(result.seq);
          return true;
        } finally {
          found.inode.isVanishing = false;
        }
      });
      if (done) return found.inode;
      await this.#refresh(dir, name, found.inode);
    }
    throw conflict(dir);
  }

  /** Removes an empty folder. Throws ENOENT, ENOTDIR, ENOTEMPTY. */
  async rmdir(dir: Inode, name: Name): Promise<Inode> {
    for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
      const found = await this.#find(dir, name);
      const { inode } = found;
      if (!inode.isDirectory) throw new FsError("ENOTDIR");
      const result = await this.#namespace.shard.commit({
        checks: [
          { kind: "empty", prefix: dentryPrefix(inode.number) },
          this.#entryIs(dir, name, found.entry),
          { kind: "present", key: inodeKey(inode.number) },
        ],
        deletes: [this.#dentryKey(dir, name)],
        deletePrefixes: [inodePrefix(inode.number)],
        bumps: [bump(dir, -1, -1, now())],
      });
      if (result.ok) {
        this.#entriesChanged([dir], result.counters);
        dir.folder.apply(name, null);
        // It stays in memory, as it may be open or somebody's working directory.
        inode.isOrphan = true;
        return inode;
      }
      if (result.failed.includes(0) && !result.failed.includes(1)) throw new FsError("ENOTEMPTY");
      await this.#refresh(dir, name, inode);
    }
    throw conflict(dir);
  }

  /** rename(2), with RENAME_NOREPLACE and RENAME_EXCHANGE. Returns what was replaced, for the caller to forget. */
  async rename(from: Inode, name: Name, to: Inode, newName: Name, flags: number): Promise<Inode | null> {
    const exchange = (flags & RenameFlag.EXCHANGE) !== 0;
    for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
      const source = await this.#find(from, name);
      const target = await this.#findMaybe(to, newName);
      if (target === null && exchange) throw new FsError("ENOENT");
      if (target !== null && (flags & RenameFlag.NOREPLACE) !== 0) throw new FsError("EEXIST");
      if (target?.inode === source.inode) {
        if (await this.#areBoth(from, name, to, newName, source.inode)) return null;
        continue;
      }
      const change = this.#emptyChange();
      if (from !== to) {
        if (source.inode.isDirectory) await this.#checkNotInside(source.inode, to, change.checks);
        if (exchange && target?.inode.isDirectory === true) await this.#checkNotInside(target.inode, from, change.checks);
      }
      const involved = [source.inode, ...(target === null ? [] : [target.inode])].sort((a, b) => a.number - b.number);
      const attempt = (): Promise<Inode | null | "conflict"> =>
        exchange && target !== null
          ? this.#exchange(from, name, source, to, newName, target, change)
          : this.#replace(from, name, source, to, newName, target, change);
      const [first, second] = involved as [Inode, Inode | undefined];
      const outcome = await first.locked(() => (second === undefined ? attempt() : second.locked(attempt)));
      if (outcome !== "conflict") return outcome;
      await this.#refresh(from, name, source.inode);
      await this.#refresh(to, newName, target?.inode ?? null);
      for (const dir of new Set([from, to])) if (!(await this.#refetch(dir))) throw new FsError("ENOENT");
    }
    throw conflict(from);
  }

  async #replace(
    from: Inode,
    name: Name,
    source: Found,
    to: Inode,
    newName: Name,
    target: Found | null,
    change: FullChange,
  ): Promise<Inode | null | "conflict"> {
    const { inode } = source;
    const isFolder = inode.isDirectory;
    const replaced = target?.inode ?? null;
    if (replaced !== null) {
      if (isFolder && !replaced.isDirectory) throw new FsError("ENOTDIR");
      if (!isFolder && replaced.isDirectory) throw new FsError("EISDIR");
    }
    const time = now();
    const hash = this.#namespace.shard.nameHash(to.number, newName);
    const newKey = dentryKey(to.number, hash);
    const emptyCheck = change.checks.length;
    if (replaced?.isDirectory === true) change.checks.push({ kind: "empty", prefix: dentryPrefix(replaced.number) });
    change.checks.push(this.#entryIs(from, name, source.entry), unchanged(inode), { kind: "present", key: inodeKey(to.number) });
    change.checks.push(target === null ? { kind: "absent", key: newKey } : this.#entryIs(to, newName, target.entry));
    const attributes = withChange(inode.stored, time);
    if (isFolder) attributes.parent = to.number;
    change.deletes.push(this.#dentryKey(from, name));
    change.puts.push(dentryPut(newKey, inode.number, newName, inode.type), inodePut(inode.number, attributes));
    const movedLinks = isFolder ? 1 : 0;
    const lostLinks = replaced?.isDirectory === true ? 1 : 0;
    const lostEntries = replaced === null ? 0 : 1;
    if (from === to) {
      change.bumps.push(bump(from, -lostLinks, -lostEntries, time));
    } else {
      change.bumps.push(bump(from, -movedLinks, -1, time), bump(to, movedLinks - lostLinks, 1 - lostEntries, time));
    }
    let dropped = (_seq: number): void => undefined;
    if (replaced !== null) {
      if (replaced.isDirectory) change.deletePrefixes.push(inodePrefix(replaced.number));
      else dropped = this.#dropLink(replaced, time, change);
    }
    const result = await this.#namespace.shard.commit(change).finally(() => {
      if (replaced !== null) replaced.isVanishing = false;
    });
    if (!result.ok) {
      const onlyNotEmpty = replaced?.isDirectory === true && result.failed.length === 1 && result.failed[0] === emptyCheck;
      if (onlyNotEmpty) throw new FsError("ENOTEMPTY");
      return "conflict";
    }
    this.#entriesChanged(from === to ? [from] : [from, to], result.counters);
    inode.committed(result.seq, attributes);
    from.folder.apply(name, null);
    to.folder.apply(newName, { number: inode.number, type: inode.type, version: result.seq, cookie: cookieOf(hash) });
    dropped(result.seq);
    if (replaced?.isDirectory === true) replaced.isOrphan = true;
    return replaced;
  }

  async #exchange(
    from: Inode,
    name: Name,
    source: Found,
    to: Inode,
    newName: Name,
    target: Found,
    change: FullChange,
  ): Promise<null | "conflict"> {
    const { shard } = this.#namespace;
    const time = now();
    const oldHash = shard.nameHash(from.number, name);
    const newHash = shard.nameHash(to.number, newName);
    const [one, other] = [withChange(source.inode.stored, time), withChange(target.inode.stored, time)];
    if (source.inode.isDirectory) one.parent = to.number;
    if (target.inode.isDirectory) other.parent = from.number;
    change.checks.push(this.#entryIs(from, name, source.entry), this.#entryIs(to, newName, target.entry));
    change.checks.push(unchanged(source.inode), unchanged(target.inode));
    change.puts.push(
      dentryPut(dentryKey(from.number, oldHash), target.inode.number, name, target.inode.type),
      dentryPut(dentryKey(to.number, newHash), source.inode.number, newName, source.inode.type),
      inodePut(source.inode.number, one),
      inodePut(target.inode.number, other),
    );
    const links = (source.inode.isDirectory ? 1 : 0) - (target.inode.isDirectory ? 1 : 0);
    if (from === to) change.bumps.push(bump(from, 0, 0, time));
    else change.bumps.push(bump(from, -links, 0, time), bump(to, links, 0, time));
    const result = await shard.commit(change);
    if (!result.ok) return "conflict";
    this.#entriesChanged(from === to ? [from] : [from, to], result.counters);
    source.inode.committed(result.seq, one);
    target.inode.committed(result.seq, other);
    const version = result.seq;
    from.folder.apply(name, { number: target.inode.number, type: target.inode.type, version, cookie: cookieOf(oldHash) });
    to.folder.apply(newName, { number: source.inode.number, type: source.inode.type, version, cookie: cookieOf(newHash) });
    return null;
  }

  /** The last handle of a deleted inode was closed. */
  async dropOrphan(inode: Inode): Promise<void> {
    this.#namespace.drop(inode.number);
    await this.#namespace.shard.commit({
      checks: [],
      deletePrefixes: [inodePrefix(inode.number)],
      deletes: [orphanKey(this.#sessionId, inode.number)],
    });
  }

  /**
   * Adds to a change what taking one name from an inode means: one link less, or its end, or, while it is open here, a life until the
   * last close. Returns what to do when the change is committed. The caller holds the inode's lock.
   */
  #dropLink(inode: Inode, time: Timestamp, change: FullChange): (seq: number) => void {
    change.checks.push(unchanged(inode));
    const attributes = withChange(inode.stored, time);
    attributes.nlink--;
    if (attributes.nlink > 0) {
      change.puts.push(inodePut(inode.number, attributes));
      return (seq) => inode.committed(seq, attributes);
    }
    if (inode.openCount === 0) {
      change.deletePrefixes.push(inodePrefix(inode.number));
      inode.isVanishing = true;
      return () => {
        inode.isOrphan = true;
        this.#namespace.drop(inode.number);
      };
    }
    const key = orphanKey(this.#sessionId, inode.number);
    change.puts.push(inodePut(inode.number, attributes), { key, link: inode.number, chunks: [], plaintext: new Uint8Array() });
    return (seq) => {
      inode.committed(seq, attributes);
      inode.isOrphan = true;
      // Closed meanwhile. When this fails, the node drops it with the session.
      if (inode.openCount === 0) this.dropOrphan(inode).catch(() => undefined);
    };
  }

  /** Adds checks that keep `dir` from coming to lie inside `moved`, whoever renames what meanwhile. Throws EINVAL if it lies there now. */
  async #checkNotInside(moved: Inode, dir: Inode, checks: Check[]): Promise<void> {
    let at = dir;
    for (let depth = 0; depth < DEPTH_MAX; depth++) {
      if (at === moved) throw new FsError("EINVAL");
      if (at.stored.parent === 0 || at.stored.parent === at.number) return;
      checks.push(unchanged(at));
      at = await this.#namespace.get(at.stored.parent);
    }
    throw new FsError("ELOOP");
  }

  async #find(dir: Inode, name: Name): Promise<Found> {
    const found = await this.#findMaybe(dir, name);
    if (found === null) throw new FsError("ENOENT");
    return found;
  }

  async #findMaybe(dir: Inode, name: Name): Promise<Found | null> {
    const entry = this.#namespace.folderOf(dir).find(name);
    if (entry !== undefined) {
      if (entry.number === 0) return null;
      const inode = this.#namespace.peek(entry.number);
      if (inode !== undefined) return { entry, inode };
    }
    return await this.#namespace.lookupNow(dir, name);
  }

  /** Whether two names lead to one inode, as the node has them: what is known of the first may be older than of the second. */
  async #areBoth(from: Inode, name: Name, to: Inode, newName: Name, inode: Inode): Promise<boolean> {
    if (from === to && name === newName) return true;
    const [one, other] = await Promise.all([this.#namespace.lookupNow(from, name), this.#namespace.lookupNow(to, newName)]);
    return one?.inode === inode && other?.inode === inode;
  }

  /** After a conflict: what was believed about a name and an inode is asked anew. */
  async #refresh(dir: Inode, name: Name, inode: Inode | null): Promise<void> {
    dir.folder.forgetName(name);
    if (inode !== null) await this.#refetch(inode);
  }

  /** Gets an inode's newest state; false when it is gone. */
  async #refetch(inode: Inode): Promise<boolean> {
    try {
      await this.#namespace.fetch(inode.number);
      return true;
    } catch (error) {
      if (error instanceof FsError && error.code === "ESTALE") return false;
      throw error;
    }
  }

  #dentryKey(dir: Inode, name: Name): Uint8Array {
    return dentryKey(dir.number, this.#namespace.shard.nameHash(dir.number, name));
  }

  #entryIs(dir: Inode, name: Name, entry: FolderEntry): Check {
    return { kind: "version", key: this.#dentryKey(dir, name), version: entry.version };
  }

  #entriesChanged(dirs: Inode[], counters: NonNullable<Inode["counters"]>[]): void {
    dirs.forEach((dir, i) => {
      const after = counters[i];
      if (after === undefined) return;
      dir.absorbCounters(after);
      dir.folder.ownChange(after);
    });
  }

  #emptyChange(): FullChange {
    return { checks: [], puts: [], deletes: [], deletePrefixes: [], bumps: [] };
  }
}

type FullChange = Required<Pick<Change, "checks" | "puts" | "deletes" | "deletePrefixes" | "bumps">>;

function dentryPut(key: Uint8Array, number: number, name: Name, type: number): PlainPut {
  return { key, link: number, chunks: [], plaintext: encodeDentry(name, type) };
}

function bump(dir: Inode, links: number, entries: number, { sec, nsec }: Timestamp): Bump {
  return { ino: dir.number, links, entries, mtimeSec: sec, mtimeNsec: nsec };
}

function withChange(attributes: InodeAttributes, { sec, nsec }: Timestamp): InodeAttributes {
  return { ...attributes, ctimeSec: sec, ctimeNsec: nsec };
}

function conflict(inode: Inode): FsError {
  return new FsError("EIO", `inode ${inode.ino}: other mounts kept changing it`);
}
