/** The inodes of a namespace that are in memory, and what may be forgotten of them to stay within bounds. */
import { type FileId, fileIdTag } from "../../crypto/file-id.ts";
import type { Inode, InodeMemory } from "./inode.ts";

/** Entries that the folders of a namespace keep together (some 150 bytes each). */
const FOLDER_ENTRIES_TOTAL_MAX = 262_144;
/** Extents, and data of small files, that the inodes of a namespace keep together. */
const CONTENTS_MAX_BYTES = 32 * 1024 * 1024;
/** Inodes beyond the limit before any is evicted: each pass starts with the places in the Map that the pass before it left empty. */
const EVICTED_AT_ONCE = 1_024;
/**
 * New inodes, some 4 KiB of garbage each by the time that they are here, after which garbage is collected: 30 ms. Left alone, the engine waits
 * until its heap has doubled, and it counts the cache's memory in: with 256 MiB of that, 300 MiB of garbage piled up in a walk.
 */
const INODES_BEFORE_COLLECTING = 16_384;
/** Inodes of which is remembered, after they were evicted, which file they were (some 40 bytes each). */
const EVICTED_REMEMBERED_MAX = 262_144;
/** Leases given up are told to the node in batches. */
const LEASE_RELEASE_BATCH = 256;

export class InodeTable {
  readonly memory: InodeMemory = { folders: { entries: 0 }, contents: { bytes: 0 } };
  readonly #inodes = new Map<number, Inode>();
  readonly #max: number;
  readonly #releaseLeases: (numbers: number[]) => void;
  /** Leases that we gave up and have not told the node of. */
  readonly #released = new Set<number>();
  /** Tags of the file ids of inodes that were evicted, and that the kernel may still know by their numbers. */
  readonly #evicted = new Map<number, number>();
  #newSinceCollection = 0;

  /** `max`: inodes kept in memory (some 700 bytes each). */
  constructor(max: number, releaseLeases: (numbers: number[]) => void) {
    this.#max = max;
    this.#releaseLeases = releaseLeases;
  }

  get(number: number): Inode | undefined {
    return this.#inodes.get(number);
  }

  values(): Iterable<Inode> {
    return this.#inodes.values();
  }

  /** Whether an inode that is not in memory is the one that had this number when it was, as far as that is remembered. */
  wasOrIsNew(number: number, fileId: FileId): boolean {
    const tag = this.#evicted.get(number);
    return tag === undefined || tag === fileIdTag(fileId);
  }

  #rememberEvicted(number: number, fileId: FileId): void {
    if (this.#evicted.size >= EVICTED_REMEMBERED_MAX) {
      const [oldest] = this.#evicted.keys();
      if (oldest !== undefined) this.#evicted.delete(oldest);
    }
    this.#evicted.set(number, fileIdTag(fileId));
  }

  /** The inode is gone. */
  drop(number: number): void {
    this.#inodes.get(number)?.forgetMemory();
    this.#inodes.delete(number);
  }

  /** `garbage`: what it left, in inodes that were fetched. */
  add(inode: Inode, garbage = 1): void {
    this.#inodes.set(inode.number, inode);
    // It may have been given up and granted again.
    if (this.#released.size > 0) this.#released.delete(inode.number);
    if (this.#inodes.size > this.#max + EVICTED_AT_ONCE) this.#evict();
    this.trimContents();
    this.#newSinceCollection += garbage;
    if (this.#newSinceCollection < INODES_BEFORE_COLLECTING) return;
    this.#newSinceCollection = 0;
    Bun.gc(true);
  }

  #evict(): void {
    // Second chance: what was used since the hand last passed goes to the end of the queue (a Map keeps the order of insertion).
    for (const [number, candidate] of this.#inodes) {
      if (this.#inodes.size <= this.#max) break;
      this.#inodes.delete(number);
      if (candidate.isPinned || candidate.isReferenced) {
        candidate.isReferenced = false;
        this.#inodes.set(number, candidate);
        if (candidate.isPinned) break;
        continue;
      }
      if (candidate.leased) this.#released.add(number);
      this.#rememberEvicted(number, candidate.fileId);
      candidate.forgetMemory();
    }
    if (this.#released.size >= LEASE_RELEASE_BATCH) {
      this.#releaseLeases([...this.#released]);
      this.#released.clear();
    }
  }

  /** Keeps small files' data and extents within bounds: those that came first go first, but for files in use. */
  trimContents(): void {
    if (this.memory.contents.bytes <= CONTENTS_MAX_BYTES) return;
    for (const inode of this.#inodes.values()) {
      if (this.memory.contents.bytes <= CONTENTS_MAX_BYTES / 2) return;
      if (inode.hasContent && !inode.isPinned) inode.content.forgetStored();
    }
  }

  /** The same for entries of folders: those that were not used lately lose theirs first (a Map keeps the order of insertion). */
  trimFolders(except: Inode): void {
    if (this.memory.folders.entries <= FOLDER_ENTRIES_TOTAL_MAX) return;
    for (const inode of this.#inodes.values()) {
      if (this.memory.folders.entries <= FOLDER_ENTRIES_TOTAL_MAX / 2) return;
      if (inode !== except) inode.cachedFolder?.forget();
    }
  }
}
