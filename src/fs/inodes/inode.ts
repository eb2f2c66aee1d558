/** An inode as this client holds it: what is stored, what was changed here and is not committed yet, and how far to trust it. */
import type { FileId } from "../../crypto/file-id.ts";
import { fileIdTag } from "../../crypto/file-id.ts";
import type { Counters } from "../../protocol/messages.ts";
import { isLater, type Timestamp } from "../posix/clock.ts";
import { maxOffset, regionOf } from "../posix/offsets.ts";
import type { Attr, Offset } from "../posix/vfs.ts";
import { FileType, type InodeAttributes } from "../records/inode-record.ts";
import type { LoadedInode, StoredRegion, Xattrs } from "../shard/shard.ts";
import { type ContentMemory, FileContent } from "./file-content.ts";
import { Folder, type FolderMemory } from "./folder.ts";

/** Attributes changed here that the next write-out commits. */
export interface PendingAttributes {
  /** Set by writes: the file is at least this long. */
  size?: Offset;
  mode?: number;
  uid?: number;
  gid?: number;
  atime?: Timestamp;
  mtime?: Timestamp;
  ctime?: Timestamp;
}

/** What the inodes of a namespace share: counts of what they keep in memory. */
export interface InodeMemory {
  folders: FolderMemory;
  contents: ContentMemory;
}

export class Inode implements Attr {
  /** In the mount: the namespace's index times 2^40, plus `number`. */
  readonly ino: number;
  /** In the shard. */
  readonly number: number;
  readonly fileId: FileId;
  version: number;
  stored: InodeAttributes;
  counters: Counters | null;
  pending: PendingAttributes | null = null;
  /** The node recalls it before another mount's change is answered. */
  leased = false;
  /** performance.now() when it was last known to be current. */
  fetchedAtMs: number;
  /** Version of its record when that can't be read (0: there is none); null: it can. `stored` is then what was known before, or stands in. */
  damagedVersion: number | null = null;
  goesWithIt: LoadedInode["goesWithIt"] = null;
  /** Known to have changed elsewhere since: it is of no use, even where nobody can be asked. */
  isOutdated = false;
  /** Open handles. */
  openCount = 0;
  /** Deleted; lives on for its open handles. */
  isOrphan = false;
  /** Deleted, and nothing of it is stored any more: what is in memory is all that is left. */
  isGone = false;
  /** Of ranges that fallocate(2) has set aside and nobody has written: see Reservations, which counts them. */
  reservedBytes = 0;
  /** A delta that deletes it whole, since it was not open, is under way: who wants to open it waits for the inode's lock. */
  isVanishing = false;
  /** Used since the eviction hand last passed. */
  isReferenced = true;
  /** The generation that the kernel's cached pages belong to, -1: none that we know of. */
  kernelGeneration = -1;
  /** Sequence number of the last delta of this client that changed it: what an fsync must make durable. */
  committedSeq = 0;
  /** Changes of this client that were answered were lost by the node: until it is opened anew, changing, fsync and close say so. */
  isWriteLost = false;
  /** Ends when the operation that is changing the inode's record has been answered. */
  #lock: Promise<unknown> | null = null;
  #lockDepth = 0;
  #content: FileContent | null = null;
  #folder: Folder | null = null;
  readonly #memory: InodeMemory;
  /** The folder that it was last found in. */
  foundIn: Inode | null = null;
  xattrs: Xattrs | null = null;

  constructor(ino: number, loaded: LoadedInode, nowMs: number, memory: InodeMemory) {
    this.ino = ino;
    this.number = loaded.number;
    this.fileId = loaded.attributes.fileId;
    this.version = loaded.version;
    this.stored = loaded.attributes;
    this.counters = loaded.counters;
    this.leased = loaded.leased;
    this.fetchedAtMs = nowMs;
    this.#memory = memory;
    if (loaded.isDamaged) this.#absorbDamage(loaded);
    if (loaded.region0 !== null) this.content.adoptStored(0, loaded.region0);
  }

  /** Takes over a newer answer. Content that was cached from an older generation goes. */
  absorb(loaded: LoadedInode, nowMs: number): void {
    if (loaded.isDamaged) {
      this.#absorbDamage(loaded);
      return;
    }
    const wasDamaged = this.damagedVersion !== null;
    this.damagedVersion = null;
    if (loaded.version < this.version && !wasDamaged) return;
    if (loaded.version !== this.version || wasDamaged) {
      if (wasDamaged || loaded.attributes.generation !== this.stored.generation) this.#content?.forgetStored();
      this.version = loaded.version;
      this.stored = loaded.attributes;
      this.xattrs = null;
    }
    this.absorbCounters(loaded.counters);
    if (loaded.region0 !== null) this.content.adoptStored(0, loaded.region0);
    this.leased = loaded.leased;
    this.fetchedAtMs = nowMs;
    this.isOutdated = false;
  }

  /** Nobody may rely on it for a moment: each who wants it asks again, and finds it well as soon as it is. */
  #absorbDamage(loaded: LoadedInode): void {
    if (this.damagedVersion !== null) this.stored = loaded.attributes;
    this.damagedVersion = loaded.version;
    this.goesWithIt = loaded.goesWithIt ?? null;
    this.absorbCounters(loaded.counters);
    this.leased = false;
    this.fetchedAtMs = Number.NEGATIVE_INFINITY;
  }

  /** Its attributes can't be read. */
  get isDamaged(): boolean {
    return this.damagedVersion !== null;
  }

  absorbCounters(counters: Counters | null): void {
    if (counters !== null && (this.counters === null || counters.bumps >= this.counters.bumps)) this.counters = counters;
  }

  /**
   * Takes over what this client has just committed. Returns false when an answer with another mount's later change was faster: this state
   * is old already, and must be asked for again before it is used.
   */
  committed(seq: number, attributes: InodeAttributes): boolean {
    const isNewest = seq >= this.version;
    this.version = seq;
    this.stored = attributes;
    this.committedSeq = seq;
    if (!isNewest) this.distrust();
    return isNewest;
  }

  /** It has changed elsewhere: nothing about it may be trusted without asking the node. */
  distrust(): void {
    this.leased = false;
    this.fetchedAtMs = Number.NEGATIVE_INFINITY;
    this.isOutdated = true;
    this.#folder?.forget();
  }

  /** It may have changed elsewhere: the node must be asked, if it can be. */
  doubt(): void {
    this.leased = false;
    this.fetchedAtMs = Number.NEGATIVE_INFINITY;
    this.#folder?.expire();
  }

  /**
   * The node has lost the deltas above this one: whatever it says of the inode next is newer than what is known. Where this client's own changes are
   * among the lost, or what was appended has lost what it follows, nothing more may be written: zeros would stand where the lost bytes were.
   */
  tailLost(survivedSeq: number): void {
    if (this.committedSeq > survivedSeq || this.#content?.appendedFrom != null) this.isWriteLost = true;
    this.committedSeq = Math.min(this.committedSeq, survivedSeq);
    this.version = 0;
    this.stored = { ...this.stored, generation: 0 };
  }

  /** Nothing of it may stay in memory, but for what is dirty. */
  wipe(): void {
    this.distrust();
    this.#content?.forgetStored();
    this.xattrs = null;
    this.kernelGeneration = -1;
  }

  /** Every extent of the file is in memory. The chunks that they name outlive the file by the node's grace period. */
  get isWholeKnown(): boolean {
    const regions = this.stored.size === 0 ? 0 : regionOf(this.stored.size) + 1;
    if (regions > WHOLE_REGIONS_MAX) return false;
    for (let region = 0; region < regions; region++) if (!this.content.isRegionKnown(region)) return false;
    return true;
  }

  /** Lets go of what can be asked for again. */
  forgetMemory(): void {
    this.#folder?.forget();
    this.#content?.forgetStored();
  }

  get handleTag(): number {
    return fileIdTag(this.fileId);
  }

  get isDirectory(): boolean {
    return (this.stored.mode & FileType.MASK) === FileType.DIRECTORY;
  }

  get isRegular(): boolean {
    return (this.stored.mode & FileType.MASK) === FileType.REGULAR;
  }

  get type(): number {
    return this.stored.mode & FileType.MASK;
  }

  /** May not be evicted: it is open, changed, or being changed. */
  get isPinned(): boolean {
    return this.openCount > 0 || this.pending !== null || this.reservedBytes > 0 || this.#lockDepth > 0 || this.#content?.isDirty === true;
  }

  get content(): FileContent {
    this.#content ??= new FileContent(this.#memory.contents);
    return this.#content;
  }

  get hasContent(): boolean {
    return this.#content !== null;
  }

  /** Marks every region as known to be absent: for a file that was made here. */
  contentIsNew(): void {
    this.content.allRegionsKnown = true;
  }

  adoptRegion(region: number, stored: StoredRegion): void {
    this.content.adoptStored(region, stored);
  }

  get folder(): Folder {
    this.#folder ??= new Folder(this.#memory.folders);
    return this.#folder;
  }

  get cachedFolder(): Folder | null {
    return this.#folder;
  }

  /** Whether somebody holds the lock now. */
  get isLocked(): boolean {
    return this.#lockDepth > 0;
  }

  /** Runs `action` alone among those that change this inode's record, in order of arrival. */
  async locked<T>(action: () => Promise<T>): Promise<T> {
    this.#lockDepth++;
    const before = this.#lock;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#lock = promise;
    try {
      if (before !== null) await before;
      return await action();
    } finally {
      resolve();
      if (--this.#lockDepth === 0) this.#lock = null;
    }
  }

  /** The attributes with everything pending applied: what the next commit of this inode stores. */
  merged(): InodeAttributes {
    const merged = { ...this.stored };
    const pending = this.pending;
    if (pending === null) return merged;
    if (pending.size !== undefined) merged.size = maxOffset(merged.size, pending.size);
    if (pending.mode !== undefined) merged.mode = pending.mode;
    if (pending.uid !== undefined) merged.uid = pending.uid;
    if (pending.gid !== undefined) merged.gid = pending.gid;
    if (pending.atime !== undefined) [merged.atimeSec, merged.atimeNsec] = [pending.atime.sec, pending.atime.nsec];
    if (pending.mtime !== undefined) [merged.mtimeSec, merged.mtimeNsec] = [pending.mtime.sec, pending.mtime.nsec];
    if (pending.ctime !== undefined) [merged.ctimeSec, merged.ctimeNsec] = [pending.ctime.sec, pending.ctime.nsec];
    return merged;
  }

  get mode(): number {
    return this.pending?.mode ?? this.stored.mode;
  }

  get nlink(): number {
    if (!this.isDirectory) return this.stored.nlink;
    return this.isOrphan ? 0 : 2 + (this.counters?.links ?? 0);
  }

  get uid(): number {
    return this.pending?.uid ?? this.stored.uid;
  }

  get gid(): number {
    return this.pending?.gid ?? this.stored.gid;
  }

  get rdev(): number {
    return this.stored.rdev;
  }

  get size(): Offset {
    if (this.isDirectory) return FOLDER_BASE_BYTES + (this.counters?.entries ?? 0) * FOLDER_ENTRY_BYTES;
    const pending = this.pending?.size;
    return pending === undefined ? this.stored.size : maxOffset(this.stored.size, pending);
  }

  get blocks(): number {
    const added = this.#content?.isDirty === true ? this.#content.newBytes : 0;
    return Math.ceil((this.stored.allocated + added + this.reservedBytes) / 512);
  }

  get atimeSec(): number {
    return this.pending?.atime?.sec ?? this.stored.atimeSec;
  }

  get atimeNsec(): number {
    return this.pending?.atime?.nsec ?? this.stored.atimeNsec;
  }

  /** The counters' time counts when the folder's entries changed after its mtime was last set. */
  get #bumped(): Counters | null {
    const { counters } = this;
    return counters !== null && counters.bumps > this.stored.mtimeBumps ? counters : null;
  }

  get mtimeSec(): number {
    return this.pending?.mtime?.sec ?? this.#bumped?.mtimeSec ?? this.stored.mtimeSec;
  }

  get mtimeNsec(): number {
    return this.pending?.mtime?.nsec ?? this.#bumped?.mtimeNsec ?? this.stored.mtimeNsec;
  }

  get #bumpedLast(): Counters | null {
    const bumped = this.#bumped;
    const { ctimeSec, ctimeNsec } = this.stored;
    return bumped !== null && isLater(bumped.mtimeSec, bumped.mtimeNsec, ctimeSec, ctimeNsec) ? bumped : null;
  }

  get ctimeSec(): number {
    return this.pending?.ctime?.sec ?? this.#bumpedLast?.mtimeSec ?? this.stored.ctimeSec;
  }

  get ctimeNsec(): number {
    return this.pending?.ctime?.nsec ?? this.#bumpedLast?.mtimeNsec ?? this.stored.ctimeNsec;
  }
}

/** Larger files are not looked at region by region when they are deleted. */
const WHOLE_REGIONS_MAX = 16;
/** What st_size shows for a folder: any number would do (POSIX leaves it open); one that grows with it helps a reader. */
const FOLDER_BASE_BYTES = 4096;
const FOLDER_ENTRY_BYTES = 32;
