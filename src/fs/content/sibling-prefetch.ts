/**
 * Programs that read small files (tar, cp, grep, compilers) read a folder's files one after the other. The second one whose data has to be
 * fetched brings the data of those that come next in the folder, in the same round trip.
 */
import { FOLDER_ENTRIES_MAX } from "../inodes/folder.ts";
import type { Inode } from "../inodes/inode.ts";
import type { Namespace } from "../inodes/namespace.ts";
import { REGION_BYTES } from "../posix/offsets.ts";
import { regionFits } from "../records/inode-record.ts";

/** Files and bytes that one round trip brings; an answer to `get` has at most 4 MiB. */
const FILES_MAX = 128;
const ANSWER_BYTES_MAX = 1024 * 1024;
/** Larger files have their data in chunks, and only a few extents in the region. */
const INLINE_FILE_MAX_BYTES = 36 * 1024;
const EXTENTS_BYTES = 512;
/** Fetches in one folder before the next ones are fetched ahead. */
const MISSES_BEFORE = 2;

/** Makes region 0 of a file known, and that of its neighbours when others of its folder were read before. */
export async function loadFirstRegion(namespace: Namespace, inode: Inode): Promise<void> {
  const dir = inode.foundIn;
  const folder = dir?.cachedFolder ?? null;
  const ahead =
    folder !== null && !namespace.isStaged(inode) && ++folder.contentMissCount >= MISSES_BEFORE ? neighbours(namespace, inode) : [];
  const files = [inode, ...ahead];
  const before = files.map(({ version, content }) => ({ version, changes: content.changes }));
  const regions = await namespace.shard.firstRegions(files);
  files.forEach((file, i) => {
    const region = regions[i];
    const same = file.version === before[i]?.version && file.content.changes === before[i]?.changes;
    if (region == null || !same || file.content.isRegionKnown(0) || !regionFits(file.stored, 0, region.generation)) return;
    // A neighbour's region was asked for without its inode: a lease says that they belong together.
    if (file === inode || namespace.isCurrent(file)) file.adoptRegion(0, region);
  });
  namespace.trimContents();
}

/** Files of the same folder whose region 0 is not known, in the order in which the folder is read. */
function neighbours(namespace: Namespace, inode: Inode): Inode[] {
  const found: Inode[] = [];
  const folder = inode.foundIn?.cachedFolder;
  if (folder == null || folder.presentCount > FOLDER_ENTRIES_MAX / 16) return found;
  let bytes = 0;
  for (const { number } of folder.entries.values()) {
    if (number === 0 || number === inode.number) continue;
    const file = namespace.peek(number);
    if (file === undefined || !file.isRegular || file.size === 0 || file.size > REGION_BYTES) continue;
    if (!namespace.isCurrent(file) || (file.hasContent && (file.content.isDirty || file.content.isRegionKnown(0)))) continue;
    bytes += file.size <= INLINE_FILE_MAX_BYTES ? Number(file.size) : EXTENTS_BYTES;
    if (bytes > ANSWER_BYTES_MAX || found.push(file) >= FILES_MAX) break;
  }
  return found;
}
