/** Puts an inode with all its records into a manifest. */

import { IntegrityError } from "../crypto/integrity-error.ts";
import type { StoredMap } from "../fs/records/composition.ts";
import { FileType } from "../fs/records/inode-record.ts";
import { xattrSum } from "../fs/records/xattr-sum.ts";
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
  const xattrs = new Map<string, Uint8Array>();
  const regions: { region: number; map: StoredMap }[] = [];
  for (const { key, record } of records) {
    manifest.putRecord(key, record);
    if (isRegionKey(key)) regions.push({ region: regionOfKey(key), map: canonical.region(ino, attributes, regionOfKey(key), record) });
    // The attributes have been opened already.
    else if (record !== attr) {
      const { name, value } = canonical.xattr(key, attributes, record);
      xattrs.set(name, value);
    }
  }
  const missing = attributes.regionGenerations.findIndex(
    (generation, region) => generation !== 0 && !regions.some((one) => one.region === region),
  );
  if (missing >= 0) throw new IntegrityError(`inode ${ino}: its extents from region ${missing} are missing`);
  if (xattrSum(xattrs) !== attributes.xattrSum)
    throw new IntegrityError(`inode ${ino}: extended attributes of another time than its attributes`);
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
