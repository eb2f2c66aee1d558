/** What this client knows of a folder's entries: some names, names known to be absent, or all of them. */
import type { FileId } from "../../crypto/file-id.ts";
import type { Counters } from "../../protocol/messages.ts";
import type { Name } from "../posix/vfs.ts";
import type { FolderWalk } from "./folder-walk.ts";

/** An entry; `number` 0: the name is known to be absent. */
export interface FolderEntry {
  readonly number: number;
  readonly fileId: FileId;
  readonly type: number;
  readonly version: number;
  readonly cookie: number;
}

/** Names known to be absent that a folder remembers; beyond it they are forgotten. */
const ABSENT_NAMES_MAX = 4_096;
/** Entries that one folder keeps in memory (some 150 bytes each); larger folders are read page by page. */
export const FOLDER_ENTRIES_MAX = 131_072;

/** Counts the entries that all folders of a namespace hold. */
export interface FolderMemory {
  entries: number;
}

export class Folder {
  readonly #memory: FolderMemory;
  #entries = new Map<Name, FolderEntry>();
  /** What was known before it was too old to be used; it counts again while no node can be reached. */
  #remembered: { readonly entries: Map<Name, FolderEntry>; isComplete: boolean } | null = null;
  #absentCount = 0;
  /** performance.now() until which an unleased folder's entries may be used. */
  validUntilMs = 0;
  /** Lookups that had to ask the node since the folder was last forgotten: after a few, listing it is cheaper. */
  missCount = 0;
  /** Files of the folder whose data had to be fetched. */
  contentMissCount = 0;
  /** How the folders in it are being read; null: not, so far. */
  walk: FolderWalk | null = null;
  /** A file in it was opened for reading. */
  areFilesRead = false;
  /** It was listed, or is being listed, before anybody asked for it, and nobody has since. */
  isAhead = false;
  /** A listing in progress that others may wait for. */
  listing: Promise<void> | null = null;
  /** The node recalls the entries before another mount's change is answered. */
  isLeased = false;
  /** Rises with each change of this client and whenever entries are forgotten: answers to older questions are out of date. */
  changes = 0;
  #isComplete = false;
  /** Counters' bumps when all entries were known, the changes of this client since, and the newest bumps seen. */
  #baseBumps = 0;
  #ownBumps = 0;
  #seenBumps = 0;

  constructor(memory: FolderMemory) {
    this.#memory = memory;
  }

  /** Every entry is known: a name that isn't here does not exist. */
  get isComplete(): boolean {
    return this.#isComplete && this.#baseBumps + this.#ownBumps >= this.#seenBumps;
  }

  get entries(): ReadonlyMap<Name, FolderEntry> {
    return this.#entries;
  }

  get presentCount(): number {
    return this.#entries.size - this.#absentCount;
  }

  /** The entry, one with number 0 for a name that is known to be absent, or undefined when the node must be asked. */
  find(name: Name): FolderEntry | undefined {
    return this.#entries.get(name) ?? (this.isComplete ? ABSENT : undefined);
  }

  /** As find, in what was known before. */
  findRemembered(name: Name): FolderEntry | undefined {
    const remembered = this.#remembered;
    return remembered === null ? undefined : (remembered.entries.get(name) ?? (remembered.isComplete ? ABSENT : undefined));
  }

  /** Names that the kernel may have heard of, be it that they are absent. */
  *knownNames(): Generator<Name> {
    yield* this.#entries.keys();
    if (this.#remembered !== null) for (const name of this.#remembered.entries.keys()) if (!this.#entries.has(name)) yield name;
  }

  /** All entries as they were known before; null: not all were. */
  get rememberedEntries(): ReadonlyMap<Name, FolderEntry> | null {
    return this.#remembered?.isComplete === true ? this.#remembered.entries : null;
  }

  /** Takes over what an answer said, unless this client changed the folder after it asked (`changes` had been `askedAt`). */
  learn(name: Name, entry: FolderEntry | null, askedAt: number): void {
    if (askedAt === this.changes) this.#put(name, entry);
  }

  /** Takes over a delta of this client: `entry` null when the name is gone. */
  apply(name: Name, entry: FolderEntry | null): void {
    this.changes++;
    this.#put(name, entry);
  }

  #put(name: Name, entry: FolderEntry | null): void {
    const count = this.#entries.size;
    this.#place(name, entry);
    this.#memory.entries += this.#entries.size - count;
    if (this.presentCount > FOLDER_ENTRIES_MAX) this.forget();
  }

  #place(name: Name, entry: FolderEntry | null): void {
    const before = this.#entries.get(name);
    if (before?.number === 0) this.#absentCount--;
    if (entry !== null) {
      this.#entries.set(name, entry);
      return;
    }
    if (before !== undefined) this.#entries.delete(name);
    if (this.isComplete) return;
    if (this.#absentCount >= ABSENT_NAMES_MAX) this.#dropAbsent();
    this.#entries.set(name, ABSENT);
    this.#absentCount++;
  }

  /** The node must be asked for this name. */
  forgetName(name: Name): void {
    const before = this.#entries.get(name);
    this.changes++;
    this.#isComplete = false;
    if (before === undefined) return;
    if (before.number === 0) this.#absentCount--;
    this.#entries.delete(name);
    this.#memory.entries--;
  }

  /** All entries are in; `counters` are those that they belong to. */
  markComplete(bumps: number): void {
    this.#memory.entries -= this.#absentCount;
    this.#dropAbsent();
    this.#isComplete = true;
    this.#baseBumps = bumps;
    this.#ownBumps = 0;
    this.#seenBumps = bumps;
    this.#dropRemembered();
  }

  /** A delta of this client changed the folder and these are the counters after it. */
  ownChange(counters: Counters): void {
    this.#ownBumps++;
    this.seen(counters);
  }

  /** Counters from any answer: a bump that isn't ours means that names have changed. */
  seen(counters: Counters): void {
    if (counters.bumps > this.#seenBumps) this.#seenBumps = counters.bumps;
  }

  forget(): void {
    this.#dropRemembered();
    this.#memory.entries -= this.#entries.size;
    this.#entries.clear();
    this.#begin();
  }

  /** What is known is too old to be used, as far as anybody can be asked. */
  expire(): void {
    const before = this.#remembered;
    if (before === null || this.isComplete) {
      this.#dropRemembered();
      this.#remembered = { entries: this.#entries, isComplete: this.isComplete };
      this.#entries = new Map();
    } else {
      this.#memory.entries -= before.entries.size + this.#entries.size;
      for (const [name, entry] of this.#entries) before.entries.set(name, entry);
      this.#memory.entries += before.entries.size;
      this.#entries.clear();
    }
    this.#begin();
  }

  #dropRemembered(): void {
    this.#memory.entries -= this.#remembered?.entries.size ?? 0;
    this.#remembered = null;
  }

  #begin(): void {
    this.#absentCount = 0;
    this.#isComplete = false;
    this.isLeased = false;
    this.missCount = 0;
    this.contentMissCount = 0;
    this.walk = null;
    this.areFilesRead = false;
    this.changes++;
  }

  #dropAbsent(): void {
    if (this.#absentCount === 0) return;
    for (const [name, entry] of this.#entries) if (entry.number === 0) this.#entries.delete(name);
    this.#absentCount = 0;
  }
}

const ABSENT: FolderEntry = { number: 0, fileId: "", type: 0, version: 0, cookie: 0 };
