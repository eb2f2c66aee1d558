/**
 * The staged datasets of one namespace, as answers in the node's place. What stands in a complete manifest is answered from it, until this
 * client changes it, or it is released. Where two datasets hold one inode, the one that was staged last counts.
 */
import type { Counters, InodeBundle, ListEntry, StoredRecord } from "../protocol/messages.ts";
import { inodeOfKey } from "../protocol/record-keys.ts";
import { DataKind, type InodeRow, type Manifest, StageState } from "./manifest.ts";

/** A folder on the way to a dataset, for when no node can be reached. */
interface FolderAbove {
  attr: StoredRecord | null;
  counters: Counters | null;
  entries: Map<string, { hash: Uint8Array; dentry: StoredRecord }>;
}

/** A staged inode: in which dataset, and where its data is. */
export interface StagedInode {
  readonly manifest: Manifest;
  readonly version: number;
  readonly kind: number;
  readonly imageVersion: number;
}

const DENTRY_PREFIX_BYTES = 9;
const DENTRY_KIND = 0x02;

function keyText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

export class NamespaceSnapshot {
  readonly #inodes = new Map<number, StagedInode>();
  /** In the order of staging. */
  readonly #manifests: Manifest[] = [];
  readonly #above = new Map<number, FolderAbove>();

  get manifests(): readonly Manifest[] {
    return this.#manifests;
  }

  get isEmpty(): boolean {
    return this.#manifests.length === 0;
  }

  /** Puts a complete dataset in; returns its inodes. */
  add(manifest: Manifest): number[] {
    this.#manifests.push(manifest);
    this.#readAbove(manifest);
    return this.#addInodes(manifest);
  }

  #addInodes(manifest: Manifest): number[] {
    const inos: number[] = [];
    for (const row of manifest.inodes()) {
      if (row.state === StageState.left) continue;
      this.#inodes.set(row.ino, stagedInode(manifest, row));
      inos.push(row.ino);
    }
    return inos;
  }

  /** Takes a dataset out; returns the inodes that were answered from it. */
  remove(manifest: Manifest): number[] {
    const at = this.#manifests.indexOf(manifest);
    if (at < 0) return [];
    this.#manifests.splice(at, 1);
    const inos: number[] = [];
    for (const [ino, staged] of this.#inodes) if (staged.manifest === manifest) inos.push(ino);
    for (const ino of inos) this.#inodes.delete(ino);
    // What stands in others too is answered from those.
    this.#inodes.clear();
    this.#above.clear();
    for (const other of this.#manifests) {
      this.#readAbove(other);
      this.#addInodes(other);
    }
    return inos;
  }

  /** This client changes them: from now on the node is asked. Returns those that were in the snapshot. */
  leave(inos: Iterable<number>): number[] {
    const gone: number[] = [];
    for (const ino of inos) {
      if (!this.#inodes.delete(ino)) continue;
      gone.push(ino);
      for (const manifest of this.#manifests) if (manifest.inode(ino) !== null) manifest.setState(ino, StageState.left);
    }
    return gone;
  }

  find(ino: number): StagedInode | undefined {
    return this.#inodes.get(ino);
  }

  has(ino: number): boolean {
    return this.#inodes.has(ino);
  }

  /** null: it is not staged. */
  bundle(ino: number, region0MaxBytes: number): InodeBundle | null {
    const staged = this.#inodes.get(ino);
    return staged === undefined ? null : staged.manifest.bundle(ino, staged.kind, region0MaxBytes);
  }

  // ---- the folders above ----

  #readAbove(manifest: Manifest): void {
    const { records, counters } = manifest.above();
    for (const { key, version, link, value } of records) {
      const record = { version, link, value };
      if (key[0] === DENTRY_KIND) {
        const hash = key.slice(DENTRY_PREFIX_BYTES);
        this.#folderAbove(inodeOfKey(key)).entries.set(keyText(hash), { hash, dentry: record });
      } else {
        this.#folderAbove(inodeOfKey(key)).attr = record;
      }
    }
    for (const { ino, ...rest } of counters) this.#folderAbove(ino).counters = rest;
  }

  #folderAbove(ino: number): FolderAbove {
    let folder = this.#above.get(ino);
    if (folder === undefined) {
      folder = { attr: null, counters: null, entries: new Map() };
      this.#above.set(ino, folder);
    }
    return folder;
  }

  isAbove(ino: number): boolean {
    return this.#above.has(ino);
  }

  /** A staged inode, or a folder above one as it was then: not leased. */
  offlineBundle(ino: number, region0MaxBytes: number): InodeBundle | null {
    const staged = this.bundle(ino, region0MaxBytes);
    if (staged !== null) return staged;
    const folder = this.#above.get(ino);
    if (folder === undefined || folder.attr === null) return null;
    return { ino, attr: folder.attr, counters: folder.counters, region0: null, leased: false };
  }

  aboveEntry(dir: number, hash: Uint8Array): StoredRecord | null {
    return this.#above.get(dir)?.entries.get(keyText(hash))?.dentry ?? null;
  }

  aboveEntries(dir: number): { entries: ListEntry[]; counters: Counters | null } | null {
    const folder = this.#above.get(dir);
    if (folder === undefined) return null;
    const entries = [...folder.entries.values()].map(({ hash, dentry }) => ({ hash, dentry, inode: null }));
    entries.sort((a, b) => Buffer.compare(a.hash, b.hash));
    return { entries, counters: folder.counters };
  }
}

function stagedInode(manifest: Manifest, { version, kind, imageVersion }: InodeRow): StagedInode {
  return { manifest, version, kind, imageVersion };
}

/** Whether an inode's data stands in an image of its own. */
export function hasImage(staged: StagedInode | undefined, version: number): staged is StagedInode {
  return staged !== undefined && staged.kind === DataKind.image && staged.version === version;
}
