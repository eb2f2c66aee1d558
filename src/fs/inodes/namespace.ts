/**
 * One namespace of a mount: its inodes and folders in memory, how long they may be trusted, and the way to get what is missing.
 *
 * Trust: an inode (or a folder's entries) with a lease is current as long as the session's leases hold, because the node waits for
 * this client before it answers another client's change. Without one it may be used for meta_ttl_ms after it was fetched, except
 * by open(), which asks.
 *
 * This folder is what a mount knows of inodes, in memory: records come in from the shard; inodes, with a folder's entries or a file's dirty and stored
 * bytes, go out to ../names and ../content, which change them.
 */
import { INO_MAX, ROOT_INO } from "../../protocol/limits.ts";
import type { InodeWant } from "../../protocol/messages.ts";
import { FsError } from "../posix/errno.ts";
import type { KernelCache, MaybePromise, Name } from "../posix/vfs.ts";
import { FileType } from "../records/inode-record.ts";
import { askOrRemember } from "../shard/ask-or-remember.ts";
import { DamageError, isStandInNumber, standInAttributes } from "../shard/damage.ts";
import { InodeNumbers } from "../shard/inode-numbers.ts";
import type { NodeCalls } from "../shard/node-calls.ts";
import type { LoadedEntry, LoadedInode, Shard } from "../shard/shard.ts";
import { FOLDER_ENTRIES_MAX, type Folder, type FolderEntry } from "./folder.ts";
import { DataCredit, listAhead } from "./folder-prefetch.ts";
import { Inode } from "./inode.ts";
import { InodeTable } from "./inode-table.ts";

/** Inode numbers of one namespace in the mount: (index, number) as one integer. */
export const NAMESPACE_SPAN = INO_MAX + 1;
/** Region 0 comes with the inode when it is at most this large: small files are then read without another round trip. */
const REGION0_WANTED_BYTES = 36 * 1024;
/** The second miss in a folder lists it, when it has at most this many entries. */
const LIST_INSTEAD_ENTRIES_MAX = 4_096;
const LIST_INSTEAD_MISSES = 2;
/** Of a folder that is listed from a snapshot on this machine: 8 us an entry, where a lookup is 40. */
const LIST_STAGED_ENTRIES_MAX = 32_768;
/** Entries per round trip of a listing. */
const LIST_PAGE_ENTRIES = 1_024;
/** How long a stat of the root waits for a node that is silent. */
const ROOT_PATIENCE_MS = 1_000;
export interface NamespaceOptions {
  index: number;
  metaTtlMs: number;
  /** Inodes kept in memory (some 700 bytes each). */
  inodesMax: number;
}

export class Namespace {
  readonly shard: Shard;
  readonly index: number;
  readonly #calls: NodeCalls;
  readonly #metaTtlMs: number;
  readonly #inodes: InodeTable;
  readonly #numbers: InodeNumbers;
  readonly #fetching = new Map<number, Promise<Inode>>();
  #kernel: KernelCache | null = null;
  readonly dataCredit = new DataCredit();

  constructor(shard: Shard, calls: NodeCalls, options: NamespaceOptions) {
    this.shard = shard;
    this.index = options.index;
    this.#calls = calls;
    this.#metaTtlMs = options.metaTtlMs;
    this.#inodes = new InodeTable(options.inodesMax, (numbers) => shard.releaseLeases(numbers));
    this.#numbers = new InodeNumbers(
      (count) => shard.grantInos(count),
      (first) => shard.mistrust(first, "granted as a new number, and so was one above it before"),
    );
  }

  set kernel(kernel: KernelCache) {
    this.#kernel = kernel;
  }

  /** The inode number that the mount shows. */
  mountIno(number: number): number {
    return this.index * NAMESPACE_SPAN + number;
  }

  get isConnected(): boolean {
    return this.#calls.connected;
  }

  get wants(): InodeWant {
    return { lease: true, region0MaxBytes: REGION0_WANTED_BYTES };
  }

  // ---- trust ----

  #leasesHold(): boolean {
    return performance.now() < this.#calls.leaseValidUntilMs;
  }

  /** No other mount can have changed it since we learned of it. */
  isCurrent(inode: Inode): boolean {
    return inode.leased && this.#leasesHold();
  }

  /** Good enough for a lookup or stat. */
  isFresh(inode: Inode): boolean {
    return performance.now() - inode.fetchedAtMs < this.#metaTtlMs || this.isCurrent(inode) || this.#isRemembered(inode);
  }

  /** Not known to be out of date, and nobody can be asked. */
  #isRemembered(inode: Inode): boolean {
    return this.#calls.outage.isOn && !inode.isOutdated;
  }

  /** The folder's entries, as far as they may be used. */
  folderOf(dir: Inode): Folder {
    const { folder } = dir;
    if (folder.isLeased && this.#leasesHold()) return folder;
    const nowMs = performance.now();
    if (folder.isLeased || nowMs >= folder.validUntilMs) {
      folder.expire();
      folder.validUntilMs = nowMs + this.#metaTtlMs;
    }
    return folder;
  }

  // ---- inodes ----

  /** The inode as it is in memory, whatever its age. */
  peek(number: number): Inode | undefined {
    const inode = this.#inodes.get(number);
    if (inode !== undefined) inode.isReferenced = true;
    return inode;
  }

  /** The inode, at most meta_ttl_ms old. Throws ESTALE when there is none. */
  get(number: number): MaybePromise<Inode> {
    const inode = this.peek(number);
    if (inode !== undefined && (inode.isOrphan || this.isFresh(inode))) return inode;
    if (inode !== undefined && number === ROOT_INO) return this.#rootOrStale(inode);
    return inode === undefined ? this.fetch(number) : this.refetch(inode);
  }

  /** The inode as the node has it, or as it was when none can be reached. */
  refetch(inode: Inode): MaybePromise<Inode> {
    if (inode.isOutdated) return this.fetch(inode.number);
    return askOrRemember(
      this.#calls.outage,
      () => this.fetch(inode.number),
      () => (inode.isOutdated ? this.fetch(inode.number) : inode),
    );
  }

  /** The inode as no other mount has changed it: what open() needs. */
  getCurrent(number: number): MaybePromise<Inode> {
    const inode = this.peek(number);
    if (inode !== undefined && (inode.isOrphan || this.isCurrent(inode))) return inode;
    return inode === undefined ? this.fetch(number) : this.refetch(inode);
  }

  /** A folder, at most meta_ttl_ms old. Throws ENOTDIR. */
  getFolder(number: number): MaybePromise<Inode> {
    const inode = this.get(number);
    return inode instanceof Inode ? requireFolder(inode) : inode.then(requireFolder);
  }

  /** So that umount(8), which looks at the mountpoint, works while no node answers: the root is then served as it was. */
  async #rootOrStale(root: Inode): Promise<Inode> {
    if (!this.#calls.connected) return root;
    const { promise, resolve } = Promise.withResolvers<Inode>();
    const timer = setTimeout(() => resolve(root), ROOT_PATIENCE_MS);
    try {
      return await Promise.race([this.fetch(ROOT_INO), promise]);
    } catch (error) {
      if (error instanceof FsError && error.code === "EIO") return root;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Asks the node; several who ask for one inode at once share the answer. */
  fetch(number: number): Promise<Inode> {
    const running = this.#fetching.get(number);
    if (running !== undefined) return running;
    const fetching = this.#fetch(number).finally(() => this.#fetching.delete(number));
    this.#fetching.set(number, fetching);
    return fetching;
  }

  async #fetch(number: number): Promise<Inode> {
    if (isStandInNumber(number)) throw new DamageError(`inode ${number}`);
    const known = this.#inodes.get(number);
    const isRoot = number === ROOT_INO;
    const loaded = await this.shard.inode(number, this.wants, {
      type: isRoot ? FileType.DIRECTORY : (known?.type ?? FileType.REGULAR),
      parent: known?.stored.parent ?? 0,
      fileId: isRoot ? this.shard.rootFileId : (known?.fileId ?? ""),
    });
    if (loaded !== null && isRoot && loaded.attributes.fileId !== this.shard.rootFileId) {
      throw this.shard.mistrust(number, "not the root folder");
    }
    if (loaded === null) {
      // Known to be missing behind a name that is there.
      if (this.#inodes.get(number)?.damagedVersion === 0) throw new DamageError(`inode ${number}`);
      this.drop(number);
      throw new FsError("ESTALE");
    }
    const inode = this.absorb(loaded);
    // A folder can be entered without its attributes, anything else is nothing without them.
    if (inode.isDamaged && !inode.isDirectory) throw new DamageError(`inode ${number}`);
    return inode;
  }

  /** Takes over an inode from an answer. */
  absorb(loaded: LoadedInode, nowMs = performance.now()): Inode {
    const known = this.peek(loaded.number);
    if (known !== undefined) {
      if (known.fileId !== loaded.attributes.fileId) throw this.shard.mistrust(loaded.number, "its number is another file's now");
      if (loaded.version > known.version && loaded.attributes.generation < known.stored.generation) {
        throw this.shard.mistrust(loaded.number, "its attributes are older than those that were answered before");
      }
      known.absorb(loaded, nowMs);
      if (loaded.counters !== null) known.cachedFolder?.seen(loaded.counters);
      return known;
    }
    if (!this.#inodes.wasOrIsNew(loaded.number, loaded.attributes.fileId)) {
      throw this.shard.mistrust(loaded.number, "its number is another file's now");
    }
    const inode = new Inode(this.mountIno(loaded.number), loaded, nowMs, this.#inodes.memory);
    this.#inodes.add(inode);
    return inode;
  }

  /** Takes over an inode that this client has just made. */
  adopt(loaded: LoadedInode): Inode {
    const inode = new Inode(this.mountIno(loaded.number), loaded, performance.now(), this.#inodes.memory);
    inode.committedSeq = loaded.version;
    this.#inodes.add(inode, 2); // making one leaves more garbage than finding one
    return inode;
  }

  /** The inode is gone. */
  drop(number: number): void {
    this.#inodes.drop(number);
  }

  get inodes(): Iterable<Inode> {
    return this.#inodes.values();
  }

  /** Keeps small files' data and extents within bounds. */
  trimContents(): void {
    this.#inodes.trimContents();
  }

  /** Numbers that were granted are not used any more: the node has granted them to others, too. */
  forgetNumbers(): void {
    this.#numbers.forget();
  }

  /** A number for a new inode. */
  nextNumber(): MaybePromise<number> {
    return this.#numbers.next();
  }

  // ---- names ----

  /** What a name leads to; null: nothing. The inode is at most meta_ttl_ms old. */
  lookup(dir: Inode, name: Name): MaybePromise<Inode | null> {
    const folder = this.folderOf(dir);
    if (folder.isAhead) listAhead(this, dir);
    const entry = folder.find(name);
    if (entry === undefined) {
      const remembered = folder.findRemembered(name);
      if (remembered === undefined) return this.#lookupMissing(dir, name);
      return askOrRemember(
        this.#calls.outage,
        () => this.#lookupMissing(dir, name),
        () => (remembered.number === 0 ? null : this.#getNamed(remembered)),
      );
    }
    if (entry.number === 0) return null;
    const inode = this.#getNamed(entry);
    if (inode instanceof Inode) return inode;
    return inode.catch((error) => {
      // The name may lead elsewhere by now; what is damaged can still be found, to be removed.
      if (!(error instanceof DamageError) && !(error instanceof FsError && error.code === "ESTALE")) throw error;
      dir.folder.forgetName(name);
      return this.#lookupMissing(dir, name);
    });
  }

  /** What an entry leads to. @throws FsError EIO when the number has become another file's */
  #getNamed(entry: FolderEntry): MaybePromise<Inode> {
    const inode = this.get(entry.number);
    return inode instanceof Inode ? this.#isMeant(entry, inode) : inode.then((found) => this.#isMeant(entry, found));
  }

  #isMeant({ number, fileId }: FolderEntry, inode: Inode): Inode {
    if (inode.fileId !== fileId) throw this.shard.mistrust(number, "not the file that its name was given to");
    return inode;
  }

  /** What an entry leads to, as it is in memory, whatever its age. @throws FsError EIO when the number has become another file's */
  peekNamed(entry: FolderEntry): Inode | undefined {
    const inode = this.peek(entry.number);
    return inode === undefined ? undefined : this.#isMeant(entry, inode);
  }

  /** The entry behind a name as the node has it now, or as a lease keeps it; null: none. */
  entry(dir: Inode, name: Name): MaybePromise<FolderEntry | null> {
    const known = this.folderOf(dir).find(name);
    if (known !== undefined) return known.number === 0 ? null : known;
    return this.lookupNow(dir, name).then((found) => found?.entry ?? null);
  }

  async #lookupMissing(dir: Inode, name: Name): Promise<Inode | null> {
    const { folder } = dir;
    folder.missCount++;
    const entriesMax = this.isStaged(dir) ? LIST_STAGED_ENTRIES_MAX : LIST_INSTEAD_ENTRIES_MAX;
    const worthListing = folder.missCount >= LIST_INSTEAD_MISSES && (dir.counters?.entries ?? 0) <= entriesMax;
    if (worthListing || folder.listing !== null) {
      const listed = this.listWhole(dir);
      listAhead(this, dir);
      await listed;
      const entry = folder.find(name);
      if (entry?.number === 0) return null;
      try {
        if (entry !== undefined) return await this.#getNamed(entry);
      } catch (error) {
        // It is found all the same, to be removed.
        if (!(error instanceof DamageError)) throw error;
      }
    }
    return (await this.lookupNow(dir, name))?.inode ?? null;
  }

  /** Asks the node for a name. */
  async lookupNow(dir: Inode, name: Name): Promise<{ entry: FolderEntry; inode: Inode } | null> {
    const { folder } = dir;
    const askedAt = folder.changes;
    const { entry, parentLeased } = await this.shard.lookup(dir, name, this.wants);
    const current = this.#leaseFolder(folder, parentLeased, askedAt);
    const loaded = entry === null ? null : this.#inodeOf(dir, entry);
    if (entry === null || loaded === null) {
      folder.learn(name, null, current);
      return null;
    }
    if (!entry.dentry.isDamaged) folder.learn(name, entry.dentry, current);
    const inode = this.absorb(loaded);
    inode.foundIn = dir;
    return { entry: entry.dentry, inode };
  }

  /** The inode of an entry as it was answered; where there is none, or it can't be read, what stands for it. */
  #inodeOf(dir: Inode, { dentry, inode }: LoadedEntry): LoadedInode | null {
    if (inode !== null && !inode.isDamaged) return inode;
    // A snapshot names files that are gone by now.
    if (inode === null && this.isStaged(dir)) return null;
    const { number, type, fileId } = dentry;
    const known = inode?.attributes ?? standInAttributes({ type, parent: dir.number, fileId });
    const attributes = { ...known, uid: dir.uid, gid: dir.gid };
    const missing = { number, version: 0, counters: null, region0: null, leased: false };
    return { ...(inode ?? missing), isDamaged: true, attributes };
  }

  /** Entries learned before the lease may have changed since: they go. Returns the `askedAt` for what came with the lease. */
  #leaseFolder(folder: Folder, leased: boolean, askedAt: number): number {
    if (!leased || folder.isLeased || askedAt !== folder.changes) return askedAt;
    folder.forget();
    folder.isLeased = true;
    return folder.changes;
  }

  /** All entries of a folder where they are known, or were known when no node can be reached; null: the node must be asked. */
  wholeFolder(dir: Inode): ReadonlyMap<Name, FolderEntry> | null {
    const folder = this.folderOf(dir);
    if (folder.isComplete) return folder.entries;
    return this.#calls.outage.isOn ? folder.rememberedEntries : null;
  }

  /** listWhole, unless no node can be reached and wholeFolder will do. */
  listOrRemember(dir: Inode): MaybePromise<void> {
    if (dir.folder.rememberedEntries === null) return this.listWhole(dir);
    return askOrRemember(
      this.#calls.outage,
      () => this.listWhole(dir),
      () => undefined,
    );
  }

  /** Gets all entries of a folder into memory, unless they are too many or change meanwhile; with small files' data where it is wanted. */
  listWhole(dir: Inode, withData = false): Promise<void> {
    const { folder } = dir;
    folder.listing ??= this.#listWhole(dir, folder, withData).finally(() => {
      folder.listing = null;
    });
    return folder.listing;
  }

  async #listWhole(dir: Inode, folder: Folder, withData: boolean): Promise<void> {
    let askedAt = folder.changes;
    let bumps = -1;
    let total = 0;
    let isWhole = true;
    for (let after = new Uint8Array(), more = true; more; ) {
      const page = await this.listPage(dir, after, withData);
      if (bumps === -1) {
        askedAt = this.#leaseFolder(folder, page.dirLeased, askedAt);
        bumps = page.counters.bumps;
      }
      total += page.entries.length;
      if (askedAt !== folder.changes || bumps !== page.counters.bumps || total > FOLDER_ENTRIES_MAX) return;
      for (const { dentry } of page.entries) {
        if (dentry.isDamaged) isWhole = false;
        else folder.learn(dentry.name, dentry, askedAt);
      }
      if (askedAt !== folder.changes) return;
      ({ lastHash: after, more } = page);
    }
    // What is damaged is asked for each time, as it may be well again.
    if (isWhole) folder.markComplete(bumps);
    this.#inodes.trimFolders(dir);
  }

  /** One round trip's worth of entries after a hash; their inodes are taken over. */
  async listPage(
    dir: Inode,
    after: Uint8Array,
    withData = false,
  ): Promise<{
    entries: LoadedEntry[];
    lastHash: Uint8Array<ArrayBuffer>;
    more: boolean;
    counters: NonNullable<Inode["counters"]>;
    dirLeased: boolean;
  }> {
    const want = { lease: true, region0MaxBytes: withData ? REGION0_WANTED_BYTES : 0 };
    const page = await this.shard.list(dir, after, { limit: LIST_PAGE_ENTRIES, inodes: true, want });
    const nowMs = performance.now();
    for (const entry of page.entries) {
      const loaded = this.#inodeOf(dir, entry);
      if (loaded !== null) this.absorb(loaded, nowMs).foundIn = dir;
    }
    dir.absorbCounters(page.counters);
    dir.folder.seen(page.counters);
    return { ...page, lastHash: new Uint8Array(page.lastHash) };
  }

  // ---- coherence ----

  /** The node tells that other mounts have changed these inodes; resolves when neither we nor the kernel use the old state. */
  async recall(numbers: readonly number[]): Promise<void> {
    this.shard.recalled(numbers);
    // Answers that came before the recall are older than it: those who wait for them must have seen them first.
    await new Promise((resolve) => setImmediate(resolve));
    const waits: Promise<void>[] = [];
    for (const number of numbers) {
      this.#inodes.get(number)?.distrust();
      if (this.#kernel !== null) waits.push(this.#kernel.invalidateInode(this.mountIno(number)));
    }
    await Promise.allSettled(waits);
  }

  /** The next answers about these inodes say another state than before: a staged snapshot begins for them, or ends. */
  stateChanged(numbers: readonly number[]): void {
    this.shard.recalled(numbers);
    // Of inodes that are not in memory the kernel keeps no page over an open, and attributes only for a while.
    for (const number of numbers) {
      const inode = this.#inodes.get(number);
      if (inode === undefined) continue;
      inode.distrust();
      this.invalidate(inode);
    }
  }

  /** Asking about it costs no round trip. */
  isStaged(inode: Inode): boolean {
    return this.#calls.isStaged?.(this.shard.name, inode.number) ?? false;
  }

  /** Its content, as it was staged, can't be read. */
  giveUpStaged(inode: Inode): void {
    this.#calls.giveUp?.(this.shard.name, inode.number);
  }

  /** The kernel is told to drop what it has cached of an inode; nobody waits for it. */
  invalidate(inode: Inode): void {
    this.#kernel?.invalidateInode(inode.ino).catch(() => undefined);
  }

  /** The connection was lost and made again: recalls may have been lost with it. */
  distrustAll(): void {
    this.shard.recalledAll();
    for (const inode of this.#inodes.values()) inode.doubt();
  }

  /**
   * The node has lost the deltas above this one: what is known may be of a future that never was. What is dirty stays, and is written onto what
   * there is, but for files that lost some of this client's own changes. Returns those: the caller gives up what is dirty of them.
   */
  tailLost(survivedSeq: number): Inode[] {
    for (const inode of this.#inodes.values()) inode.tailLost(survivedSeq);
    this.wipe().catch(() => undefined);
    return [...this.#inodes.values()].filter(({ isWriteLost }) => isWriteLost);
  }

  /**
   * Nothing that can be asked for again stays in memory, here or in the kernel. What is dirty stays: there is no other copy. Resolves when
   * the kernel has let go.
   */
  async wipe(): Promise<void> {
    this.shard.recalledAll();
    const waits: Promise<void>[] = [];
    for (const inode of this.#inodes.values()) {
      if (this.#kernel !== null) {
        for (const name of inode.cachedFolder?.knownNames() ?? []) waits.push(this.#kernel.invalidateEntry(inode.ino, name));
        waits.push(this.#kernel.invalidateInode(inode.ino));
      }
      inode.wipe();
      if (!inode.isPinned && inode.number !== ROOT_INO) this.drop(inode.number);
    }
    await Promise.allSettled(waits);
    this.#kernel?.forgetRequests();
  }
}

function requireFolder(inode: Inode): Inode {
  if (!inode.isDirectory) throw new FsError("ENOTDIR");
  return inode;
}
