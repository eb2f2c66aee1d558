/**
 * Programs that walk a tree (find, tar, rsync, git status) read one folder after the other. While one is being read, those that come next
 * are listed: the node and this client then work at the same time, and the program finds everything in memory.
 */

import type { Folder } from "./folder.ts";
import { FOLDERS_AHEAD_MAX, FolderWalk } from "./folder-walk.ts";
import type { Inode } from "./inode.ts";

/** Their entries together: some 2 MiB of answers. */
const ENTRIES_AHEAD_MAX = 4_096;
/** Larger folders are not listed on suspicion, nor looked for in larger parents. */
const ENTRIES_MAX = 2_048;
/** Larger folders are listed without the data of their small files: sibling-prefetch.ts brings it, when it is wanted. */
const ENTRIES_WITH_DATA_MAX = 256;
/** Folders looked at, for the few to list: bounds what one reading costs where most are in memory. */
const LOOKED_AT_MAX = 64;

/**
 * Whether those who walk read the files too. Each folder of which a file is read pays for two that are listed with their small files' data:
 * so a walk that reads (tar, grep, cp) soon has the data of every folder before it comes there, and one that doesn't costs little.
 */
export class DataCredit {
  #folders = 0;

  fileIsRead(file: Inode): void {
    const folder = file.foundIn?.cachedFolder;
    if (folder == null || folder.areFilesRead) return;
    folder.areFilesRead = true;
    this.#folders = Math.min(this.#folders + 2, 2 * FOLDERS_AHEAD_MAX);
  }

  take(): boolean {
    if (this.#folders === 0) return false;
    this.#folders--;
    return true;
  }
}

/** What lists folders (Namespace). */
export interface FolderLister {
  readonly dataCredit: DataCredit;
  /** The inode as it is in memory, whatever its age. */
  peek(number: number): Inode | undefined;
  isFresh(inode: Inode): boolean;
  folderOf(dir: Inode): Folder;
  listWhole(dir: Inode, withData: boolean): Promise<unknown>;
}

function walkOf(dir: Inode): FolderWalk | null {
  const folder = dir.cachedFolder;
  if ((dir.counters?.links ?? 0) === 0 || folder === null || !folder.isComplete || folder.presentCount > ENTRIES_MAX) return null;
  folder.walk ??= new FolderWalk(folder.entries);
  return folder.walk;
}

/** To be called when a folder is listed for somebody, or was listed ahead and somebody uses it: lists those that come next. */
export function listAhead(lister: FolderLister, dir: Inode): void {
  const { folder } = dir;
  const wasAhead = folder.isAhead;
  folder.isAhead = false;
  const walk = dir.foundIn === null ? null : walkOf(dir.foundIn);
  walk?.read(dir.number, wasAhead);
  if (walk === null || !walk.isWalk) return;
  let folders = walk.ahead;
  let entries = ENTRIES_AHEAD_MAX;
  let lookedAt = 0;
  for (const next of upcoming(lister, dir)) {
    if (++lookedAt > LOOKED_AT_MAX) return;
    const count = next.counters?.entries ?? 0;
    if (count > ENTRIES_MAX || !lister.isFresh(next)) continue;
    const there = lister.folderOf(next);
    if (there.isComplete && !there.isAhead) continue;
    entries -= count;
    if (folders-- === 0 || entries < 0) return;
    if (there.isComplete || there.listing !== null) continue;
    there.isAhead = true;
    const withData = count > 0 && count <= ENTRIES_WITH_DATA_MAX && lister.dataCredit.take();
    lister.listWhole(next, withData).catch(() => undefined);
  }
}

/** The folders that a walk comes to after `dir`, as far as they are known: those in it, those beside it, those beside its parents. */
function* upcoming(lister: FolderLister, dir: Inode): Generator<Inode> {
  yield* below(lister, dir);
  for (let at = dir; at.foundIn !== null; at = at.foundIn) {
    const walk = walkOf(at.foundIn);
    if (walk === null || !walk.isWalk) return;
    for (const number of walk.after(at.number)) {
      const beside = lister.peek(number);
      if (beside === undefined) continue;
      yield beside;
      yield* below(lister, beside);
    }
  }
}

function* below(lister: FolderLister, dir: Inode): Generator<Inode> {
  const walk = walkOf(dir);
  if (walk === null) return;
  for (const number of walk.after(0)) {
    const inside = lister.peek(number);
    if (inside === undefined) continue;
    yield inside;
    yield* below(lister, inside);
  }
}
