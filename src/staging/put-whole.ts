/** Puts an inode with all its records into a manifest. */
import type { StoredMap } from "../fs/records/composition.ts";
import { FileType } from "../fs/records/inode-record.ts";
import { inodePrefix, isRegionKey, regionOfKey } from "../protocol/record-keys.ts";
import type { Canonical, WholeInode } from "./canonical.ts";
import { layoutOf } from "./layout.ts";
import { DataKind, hasDataOutside, type InodeRow, type Manifest, StageState } from "./manifest.ts";

/**
 * Opens every record, which verifies it (`attributes` are those of `attr`). In a transaction.
 * @param image a row of the same inode whose image is in the pool: used on when the content is the same
 */
export function putWhole(
  manifest: Manifest,
  canonical: Canonical,
  ino: number,
  { attr, attributes, records }: WholeInode,
  image: InodeRow | null,
): InodeRow {
  manifest.deletePrefix(inodePrefix(ino));
  const regions: { region: number; map: StoredMap }[] = [];
  for (const { key, record } of records) {
    manifest.putRecord(key, record);
    if (isRegionKey(key)) regions.push({ region: regionOfKey(key), map: canonical.region(ino, regionOfKey(key), record) });
    // The attributes have been opened already.
    else if (record !== attr) canonical.verify(key, record);
  }
  const layout = layoutOf(attributes.size, regions);
  const kind = (attributes.mode & FileType.MASK) === FileType.DIRECTORY ? DataKind.folder : layout.kind;
  const needsData = hasDataOutside(kind);
  // Only its attributes have changed: the image is still right.
  const same = image !== null && kind === DataKind.image && image.kind === kind && image.generation === attributes.generation;
  const row: InodeRow = {
    ino,
    version: attr.version,
    bytes: layout.dataBytes,
    kind,
    state: needsData && !same ? StageState.pending : StageState.staged,
    imageVersion: same ? image.imageVersion : attr.version,
    generation: attributes.generation,
    tableSum: same ? image.tableSum : 0,
  };
  manifest.putInode(row);
  return row;
}
