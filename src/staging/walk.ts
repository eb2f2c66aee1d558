/**
 * The first half of staging: reads the folders of a dataset and puts what the node has into a manifest: entries, attributes, extents, and
 * with them small files' data. Per file it is of one moment; the folder as a whole may change while it is read.
 */

import { StagingError } from "../cache/disk/staging-error.ts";
import type { FileId } from "../crypto/file-id.ts";
import { REGION_BYTES } from "../fs/posix/offsets.ts";
import { FileType, type InodeAttributes } from "../fs/records/inode-record.ts";
import { ROOT_INO } from "../protocol/limits.ts";
import type { Counters, InodeBundle, ListEntry, StoredRecord } from "../protocol/messages.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix, NAME_HASH_BYTES, prefixEnd, regionKey } from "../protocol/record-keys.ts";
import type { Canonical, WholeInode } from "./canonical.ts";
import { STAGE_DEPTH_MAX, STAGE_FILES_MAX } from "./limits.ts";
import { DataKind, hasDataOutside, type InodeRow, type Manifest, StageState } from "./manifest.ts";
import { putWhole } from "./put-whole.ts";

/** Folders read at a time, and files whose records are fetched one by one: they hide the round trip. */
const FOLDERS_AT_ONCE = 8;
const FILES_AT_ONCE = 32;
const PAGE_ENTRIES = 1_024;
/** Region 0 comes with the listing when it is at most this large: inline data, or the extents of up to 64 MiB. */
const REGION0_WANTED_BYTES = 36 * 1024;
/** A folder that changes between two pages of its listing is read again, so often; then it is taken as it came. */
const LISTINGS_MAX = 4;

/** What has been found so far. */
export interface Found {
  files: number;
  bytes: number;
  /** Of these, what needs no more fetching: all data is in the manifest, or was staged before. */
  filesDone: number;
  bytesDone: number;
}

export interface WalkOptions {
  readonly canonical: Canonical;
  /** To be filled. */
  readonly manifest: Manifest;
  /** The dataset as it is staged now: what has not changed since is taken from there. */
  readonly previous: Manifest | null;
  /** Whether the data of a row is in the pool, whole. */
  readonly isThere: (row: InodeRow) => boolean;
  readonly signal: AbortSignal;
  /** Resolves when there is room for a page in the manifest. */
  readonly beforePage: () => Promise<void>;
  /** Called after each page. */
  readonly onFound: (found: Readonly<Found>) => void;
}

interface FolderToRead {
  ino: number;
  fileId: FileId;
  depth: number;
  path: string;
  /** As its counters say. */
  links: number;
  entries: number;
}

export class Walk {
  readonly found: Found = { files: 0, bytes: 0, filesDone: 0, bytesDone: 0 };
  readonly #options: WalkOptions;
  readonly #folders: FolderToRead[] = [];
  readonly #seen = new Set<number>();
  /** Files whose records have to be asked for one by one. */
  readonly #files: number[] = [];
  #overLimit = false;

  constructor(options: WalkOptions) {
    this.#options = options;
  }

  /** Reads the whole dataset. @throws StagingError too_many_files, too_deep, not_found; what beforePage throws */
  async run(): Promise<void> {
    const { manifest } = this.#options;
    await this.#findRoot();
    await this.#all(this.#folders, FOLDERS_AT_ONCE, (folder) => this.#readFolder(folder));
    if (this.#overLimit) {
      throw new StagingError(
        "too_many_files",
        `${manifest.name.path}: ${this.found.files} files, at most ${STAGE_FILES_MAX} can be staged as one dataset; stage the folders in it`,
      );
    }
    await this.#all(this.#files, FILES_AT_ONCE, (ino) => this.#readFile(ino));
    this.#dropUnseen();
  }

  /** Works on a list that grows meanwhile, some of it at a time. */
  async #all<T>(list: T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
    const running = new Set<Promise<void>>();
    let failure: { error: unknown } | null = null;
    while (failure === null && (list.length > 0 || running.size > 0)) {
      const item = running.size < atOnce ? list.shift() : undefined;
      if (item === undefined) {
        await Promise.race(running);
        continue;
      }
      const task: Promise<void> = this.#checked(() => work(item))
        .catch((error) => {
          failure ??= { error };
        })
        .finally(() => running.delete(task));
      running.add(task);
    }
    await Promise.all(running);
    if (failure !== null) throw (failure as { error: unknown }).error;
  }

  async #checked(work: () => Promise<void>): Promise<void> {
    this.#options.signal.throwIfAborted();
    await work();
    this.#options.onFound(this.found);
  }

  // ---- the way to it ----

  async #findRoot(): Promise<void> {
    const { canonical, manifest } = this.#options;
    const missing = (): StagingError => new StagingError("not_found", `${manifest.name.path}: no such file or folder`);
    const names = componentsOf(manifest.name);
    let at = await canonical.inode(ROOT_INO);
    let attributes = at?.attr == null ? null : canonical.rootAttributes(at.attr);
    const above: { inode: InodeBundle; entry: { key: Uint8Array; dentry: StoredRecord } }[] = [];
    for (const name of names) {
      if (at === null || attributes === null || !isFolder(attributes)) throw missing();
      const found = await canonical.lookup({ number: at.ino, fileId: attributes.fileId }, name);
      if (found === null) throw missing();
      above.push({ inode: at, entry: found });
      at = found.inode;
      attributes = found.attributes;
    }
    if (at === null || attributes === null) throw missing();
    const root = at;
    const rootAttributes = attributes;
    if ((attributes.mode & FileType.MASK) === FileType.SYMLINK) {
      throw new StagingError("not_found", `${manifest.name.path}: is a symbolic link; give the path that it leads to`);
    }
    manifest.transaction(() => {
      manifest.clearAbove();
      for (const { inode, entry } of above) {
        if (inode.attr !== null) manifest.putAbove(inodeKey(inode.ino), inode.attr);
        if (inode.counters !== null) manifest.putAboveCounters(inode.ino, inode.counters);
        manifest.putAbove(entry.key, entry.dentry);
      }
      manifest.setRoot(root.ino);
      this.#takeInode(root, rootAttributes, 0, manifest.name.path);
    });
  }

  // ---- folders ----

  async #readFolder(folder: FolderToRead): Promise<void> {
    const { manifest } = this.#options;
    if (this.#overLimit && folder.links === 0) {
      this.found.files += folder.entries;
      return;
    }
    for (let tries = 1; ; tries++) {
      manifest.transaction(() => manifest.deletePrefix(dentryPrefix(folder.ino)));
      let first: Counters | null = null;
      let listed = 0;
      let last: Counters | null = null;
      for (let after: Uint8Array = new Uint8Array(), more = true; more; ) {
        const page = await this.#options.canonical.list(folder.ino, after, PAGE_ENTRIES, this.#wantedRegion0());
        await this.#options.beforePage();
        this.#takePage(folder, page.entries);
        this.#options.onFound(this.found);
        this.#options.signal.throwIfAborted();
        first ??= page.counters;
        last = page.counters;
        after = page.entries.at(-1)?.hash ?? after;
        more = page.more && page.entries.length > 0;
        listed += page.entries.length;
        if (!this.#overLimit) continue;
        // All that is left to do is to count, which needs a listing only for the folders in it.
        if (page.counters.links > 0) continue;
        this.found.files += Math.max(0, page.counters.entries - listed);
        return;
      }
      if (this.#overLimit) return;
      if (last !== null) manifest.putCounters(folder.ino, last);
      if (first?.bumps === last?.bumps || tries === LISTINGS_MAX) return;
    }
  }

  /** Data is not brought again where most of it is known. */
  #wantedRegion0(): number {
    return this.#options.previous === null ? REGION0_WANTED_BYTES : 0;
  }

  #takePage(folder: FolderToRead, entries: readonly ListEntry[]): void {
    const { canonical, manifest } = this.#options;
    manifest.transaction(() => {
      for (const { hash, dentry, inode } of entries) {
        // Its name is on the way out: the inode is gone already.
        if (inode === null || inode.attr === null) continue;
        const key = dentryKey(folder.ino, hash.length === NAME_HASH_BYTES ? hash : hash.slice(0, NAME_HASH_BYTES));
        const { name, attributes } = canonical.entry({ number: folder.ino, fileId: folder.fileId }, key, dentry, inode.attr);
        if (!this.#overLimit) manifest.putRecord(key, dentry);
        this.#takeInode(inode, attributes, folder.depth + 1, `${folder.path === "/" ? "" : folder.path}/${name}`);
      }
    });
  }

  /** An inode that a listing brought. `path` is for messages; one character per byte. */
  #takeInode(inode: InodeBundle, attributes: InodeAttributes, depth: number, path: string): void {
    const { manifest } = this.#options;
    const { ino, attr } = inode;
    if (attr === null || this.#seen.has(ino)) return;
    this.#seen.add(ino);
    if (isFolder(attributes)) {
      if (depth > STAGE_DEPTH_MAX && !this.#overLimit) {
        const shown = Buffer.from(path, "latin1").toString();
        throw new StagingError("too_deep", `${shown}: folders lie ${depth} deep in the dataset, at most ${STAGE_DEPTH_MAX} are staged`);
      }
      this.#folders.push({
        ino,
        fileId: attributes.fileId,
        depth,
        path,
        links: inode.counters?.links ?? 0,
        entries: inode.counters?.entries ?? 0,
      });
    } else {
      this.found.files++;
      this.#overLimit ||= this.found.files > STAGE_FILES_MAX;
    }
    if (this.#overLimit) return;
    const size = Number(attributes.size);
    if (isFolder(attributes) && attributes.xattrSum === "") {
      manifest.putRecord(inodeKey(ino), attr);
      if (inode.counters !== null) manifest.putCounters(ino, inode.counters);
      const { generation } = attributes;
      manifest.putInode({
        ino,
        version: attr.version,
        bytes: 0,
        kind: DataKind.folder,
        state: StageState.staged,
        imageVersion: attr.version,
        generation,
        tableSum: 0,
      });
      return;
    }
    if (inode.counters !== null) manifest.putCounters(ino, inode.counters);
    if (this.#takeKnown(ino, attr.version, !isFolder(attributes))) return;
    const isRegular = (attributes.mode & FileType.MASK) === FileType.REGULAR;
    const isAllHere = attributes.xattrSum === "" && (!isRegular || size === 0 || (inode.region0 !== null && size <= REGION_BYTES));
    if (!isAllHere) {
      this.#files.push(ino);
      return;
    }
    const records = [{ key: inodeKey(ino), record: attr }];
    if (inode.region0 !== null) records.push({ key: regionKey(ino, 0), record: inode.region0 });
    this.#takeWhole(ino, { attr, attributes, records });
  }

  /** What an earlier run, or the dataset as it is staged now, has of this version of an inode. */
  #takeKnown(ino: number, version: number, counts: boolean): boolean {
    const { manifest, previous, isThere } = this.#options;
    const known = manifest.inode(ino);
    if (known !== null && known.version === version) {
      if (counts) this.#count(known.bytes, !hasDataOutside(known.kind) || (known.state === StageState.staged && isThere(known)));
      return true;
    }
    const before = previous?.inode(ino) ?? null;
    if (previous === null || before === null || before.version !== version) return false;
    const prefix = inodePrefix(ino);
    manifest.deletePrefix(prefix);
    for (let from: Uint8Array = prefix, more = true; more; ) {
      const page = previous.range(from, prefixEnd(prefix) ?? prefix, PAGE_ENTRIES, Number.POSITIVE_INFINITY);
      for (const { key, record } of page.records) manifest.putRecord(key, record);
      from = Buffer.concat([page.records.at(-1)?.key ?? prefix, new Uint8Array(1)]);
      ({ more } = page);
    }
    const there = !hasDataOutside(before.kind) || isThere(before);
    manifest.putInode({ ...before, state: there ? StageState.staged : StageState.pending });
    if (counts) this.#count(before.bytes, there);
    return true;
  }

  // ---- files ----

  async #readFile(ino: number): Promise<void> {
    const { canonical, manifest } = this.#options;
    const whole = await canonical.whole(ino);
    await this.#options.beforePage();
    manifest.transaction(() => {
      // Deleted since: its name leads nowhere.
      if (whole === null) this.#seen.delete(ino);
      else this.#takeWhole(ino, whole);
    });
  }

  #takeWhole(ino: number, whole: WholeInode): void {
    const { canonical, manifest, previous, isThere } = this.#options;
    const before = manifest.inode(ino) ?? previous?.inode(ino) ?? null;
    const row = putWhole(manifest, canonical, ino, whole, before !== null && isThere(before) ? before : null);
    if (!isFolder(whole.attributes)) this.#count(row.bytes, row.state === StageState.staged);
  }

  #count(bytes: number, there: boolean): void {
    this.found.bytes += bytes;
    if (!there) return;
    this.found.filesDone++;
    this.found.bytesDone += bytes;
  }

  /** What an interrupted run had found, and is not there any more. */
  #dropUnseen(): void {
    const { manifest } = this.#options;
    const gone: number[] = [];
    for (const { ino } of manifest.inodes()) if (!this.#seen.has(ino)) gone.push(ino);
    manifest.transaction(() => {
      for (const ino of gone) manifest.deleteInode(ino);
    });
  }
}

function isFolder({ mode }: InodeAttributes): boolean {
  return (mode & FileType.MASK) === FileType.DIRECTORY;
}

/** The names on the way from the namespace's root, one character per byte. */
function componentsOf({ inNamespace }: Manifest["name"]): string[] {
  return inNamespace
    .split("/")
    .filter((name) => name !== "")
    .map((name) => Buffer.from(name).toString("latin1"));
}
