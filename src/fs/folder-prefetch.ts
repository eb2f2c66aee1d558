/**
 * Programs that walk a tree (find, tar, rsync, git status) read one folder after the other. The second one that is read lists those that
 * come next beside it, while the program is still busy with the first entries.
 */
import type { Inode } from "./inode.ts";
import { FileType } from "./inode-record.ts";
import type { Namespace } from "./namespace.ts";

/** Folders listed ahead: enough to keep the node busy, few enough to waste little when the walk goes elsewhere. */
const FOLDERS_AHEAD = 4;
/** Folders of one parent that are read before the next ones are listed ahead. */
const READS_BEFORE = 2;
/** Larger folders are not listed on suspicion, nor looked for in larger parents. */
const ENTRIES_MAX = 2_048;

/** To be called when a folder is listed for somebody: lists the next ones of its parent, in the order in which that is read. */
export function listAhead(namespace: Namespace, dir: Inode): void {
  const parent = dir.foundIn;
  const siblings = parent?.cachedFolder;
  if (parent === null || siblings == null || !siblings.isComplete || siblings.presentCount > ENTRIES_MAX) return;
  if (++siblings.folderReadCount < READS_BEFORE) return;
  let ahead = -1;
  for (const { number, type } of siblings.entries.values()) {
    if (number === dir.number) ahead = 0;
    if (ahead < 0 || number === dir.number || type !== FileType.DIRECTORY) continue;
    const next = namespace.peek(number);
    if (next === undefined || !namespace.isFresh(next) || (next.counters?.entries ?? 0) > ENTRIES_MAX) continue;
    if (!namespace.folderOf(next).isComplete) namespace.listWhole(next).catch(() => undefined);
    if (++ahead === FOLDERS_AHEAD) return;
  }
}
