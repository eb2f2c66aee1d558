/** rename(2): one delta that moves, replaces or exchanges names, and keeps folders from ending up inside themselves. */
import { sumHashes } from "../../crypto/file-id.ts";
import type { Check } from "../../protocol/messages.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix } from "../../protocol/record-keys.ts";
import { requireMayAdd, requireMayRemove } from "../inodes/flags.ts";
import type { Inode } from "../inodes/inode.ts";
import { CONFLICTS_MAX, inodePut, unchanged } from "../inodes/inode-change.ts";
import { now } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import { type Name, RenameFlag } from "../posix/vfs.ts";
import { DamageError } from "../shard/damage.ts";
import { hashText } from "../shard/shard.ts";
import { bump, conflict, dentryPut, type Entries, emptyChange, entryOf, type Found, type FullChange, withChange } from "./entries.ts";

/** Folders between one and the root: a path has 4,096 bytes, so at most half as many. */
const DEPTH_MAX = 2_048;

export class Renamer {
  readonly #entries: Entries;

  constructor(entries: Entries) {
    this.#entries = entries;
  }

  /** rename(2), with RENAME_NOREPLACE and RENAME_EXCHANGE. Returns what was replaced, for the caller to forget. */
  async rename(from: Inode, name: Name, to: Inode, newName: Name, flags: number): Promise<Inode | null> {
    const exchange = (flags & RenameFlag.EXCHANGE) !== 0;
    for (let tries = 0; tries < CONFLICTS_MAX; tries++) {
      const source = await this.#entries.find(from, name);
      const target = await this.#entries.findMaybe(to, newName);
      if (target === null && exchange) throw new FsError("ENOENT");
      requireMayRemove(from, source.inode);
      if (target === null) requireMayAdd(to);
      else requireMayRemove(to, target.inode);
      // Moving writes the attributes anew; those that stand for lost ones must not become real.
      for (const moved of exchange ? [source, target] : [source])
        if (moved?.inode.isDamaged) throw new DamageError(`inode ${moved.inode.ino}`);
      if (target !== null && (flags & RenameFlag.NOREPLACE) !== 0) throw new FsError("EEXIST");
      if (target?.inode === source.inode) {
        if (await this.#areBoth(from, name, to, newName, source.inode)) return null;
        continue;
      }
      const change = emptyChange();
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
      await this.#entries.refresh(from, name, source.inode);
      await this.#entries.refresh(to, newName, target?.inode ?? null);
      for (const dir of new Set([from, to])) if (!(await this.#entries.refetch(dir))) throw new FsError("ENOENT");
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
    const hash = this.#entries.namespace.shard.nameHash(to.number, newName);
    const newKey = dentryKey(to.number, hash);
    const emptyCheck = change.checks.length;
    if (replaced?.isDirectory === true) change.checks.push({ kind: "empty", prefix: dentryPrefix(replaced.number) });
    change.checks.push(this.#entries.entryIs(from, name, source.entry), unchanged(inode), { kind: "present", key: inodeKey(to.number) });
    change.checks.push(target === null ? { kind: "absent", key: newKey } : this.#entries.entryIs(to, newName, target.entry));
    const attributes = withChange(inode.stored, time);
    if (isFolder) attributes.parent = to.number;
    const oldHash = this.#entries.namespace.shard.nameHash(from.number, name);
    attributes.nameSum = sumHashes(sumHashes(attributes.nameSum, hashText(oldHash)), hashText(hash));
    change.deletes.push(dentryKey(from.number, oldHash));
    change.puts.push(dentryPut(to, newKey, newName, inode), inodePut(inode.number, attributes));
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
      else dropped = this.#entries.dropLink(replaced, hash, time, change);
    }
    const result = await this.#entries.namespace.shard.commit(change).finally(() => {
      if (replaced !== null) replaced.isVanishing = false;
    });
    if (!result.ok) {
      const onlyNotEmpty = replaced?.isDirectory === true && result.failed.length === 1 && result.failed[0] === emptyCheck;
      if (onlyNotEmpty) throw new FsError("ENOTEMPTY");
      return "conflict";
    }
    this.#entries.entriesChanged(from === to ? [from] : [from, to], result.counters);
    inode.committed(result.seq, attributes);
    from.folder.apply(name, null);
    to.folder.apply(newName, entryOf(inode, result.seq, hash));
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
    const { shard } = this.#entries.namespace;
    const time = now();
    const oldHash = shard.nameHash(from.number, name);
    const newHash = shard.nameHash(to.number, newName);
    const [one, other] = [withChange(source.inode.stored, time), withChange(target.inode.stored, time)];
    const moved = sumHashes(hashText(oldHash), hashText(newHash));
    one.nameSum = sumHashes(one.nameSum, moved);
    other.nameSum = sumHashes(other.nameSum, moved);
    if (source.inode.isDirectory) one.parent = to.number;
    if (target.inode.isDirectory) other.parent = from.number;
    change.checks.push(this.#entries.entryIs(from, name, source.entry), this.#entries.entryIs(to, newName, target.entry));
    change.checks.push(unchanged(source.inode), unchanged(target.inode));
    change.puts.push(
      dentryPut(from, dentryKey(from.number, oldHash), name, target.inode),
      dentryPut(to, dentryKey(to.number, newHash), newName, source.inode),
      inodePut(source.inode.number, one),
      inodePut(target.inode.number, other),
    );
    const links = (source.inode.isDirectory ? 1 : 0) - (target.inode.isDirectory ? 1 : 0);
    if (from === to) change.bumps.push(bump(from, 0, 0, time));
    else change.bumps.push(bump(from, -links, 0, time), bump(to, links, 0, time));
    const result = await shard.commit(change);
    if (!result.ok) return "conflict";
    this.#entries.entriesChanged(from === to ? [from] : [from, to], result.counters);
    source.inode.committed(result.seq, one);
    target.inode.committed(result.seq, other);
    from.folder.apply(name, entryOf(target.inode, result.seq, oldHash));
    to.folder.apply(newName, entryOf(source.inode, result.seq, newHash));
    return null;
  }

  /** Adds checks that keep `dir` from coming to lie inside `moved`, whoever renames what meanwhile. Throws EINVAL if it lies there now. */
  async #checkNotInside(moved: Inode, dir: Inode, checks: Check[]): Promise<void> {
    let at = dir;
    for (let depth = 0; depth < DEPTH_MAX; depth++) {
      if (at === moved) throw new FsError("EINVAL");
      if (at.isDamaged) throw new DamageError(`inode ${at.ino}`);
      if (at.stored.parent === 0 || at.stored.parent === at.number) return;
      checks.push(unchanged(at));
      at = await this.#entries.namespace.get(at.stored.parent);
    }
    throw new FsError("ELOOP");
  }

  /** Whether two names lead to one inode, as the node has them: what is known of the first may be older than of the second. */
  async #areBoth(from: Inode, name: Name, to: Inode, newName: Name, inode: Inode): Promise<boolean> {
    if (from === to && name === newName) return true;
    const [one, other] = await Promise.all([this.#entries.namespace.lookupNow(from, name), this.#entries.namespace.lookupNow(to, newName)]);
    return one?.inode === inode && other?.inode === inode;
  }
}
