/**
 * What an earlier process has staged in a pool is taken up: manifests are opened, and images read through against their tables. A damaged
 * one is dropped: its file is still in the snapshot, but its data comes from the node.
 */

import type { StagingDisk } from "../cache/disk/staging-disk.ts";
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import type { Canonical } from "./canonical.ts";
import type { Dataset } from "./dataset.ts";
import type { ManifestFiles } from "./datasets.ts";
import { layoutIn } from "./fetch.ts";
import type { Image, Images } from "./images.ts";
import { DataKind, type InodeRow, Manifest, StageState } from "./manifest.ts";
import type { SnapshotCalls } from "./snapshot-calls.ts";

/** A mount does not begin before its images have been verified, unless that takes longer: then they are read like other files so far. */
const VERIFY_WAIT_MS = 3_000;
/** Images read at a time: what keeps a fast disk busy. */
const VERIFY_AT_ONCE = 8;

/** What takes datasets up (StagingArea). */
export interface AdoptingArea {
  readonly files: ManifestFiles;
  readonly images: Images;
  readonly options: {
    readonly disk: Pick<StagingDisk, "pin" | "onFault">;
    readonly log: { warn(fields: object, message: string): void };
  };
  readonly known: ReadonlyMap<string, Dataset>;
  readonly calls: Pick<SnapshotCalls, "snapshot">;
  canonical(namespace: string): Canonical;
  forget(id: string): void;
  take(dataset: Dataset, manifest: Manifest): void;
  addUnfinished(dataset: Dataset): void;
  unfinishedImages(): Parameters<Images["discardOthers"]>[0];
  useChunk(id: string, key: string, ref: ChunkRef): void;
}

interface Claim {
  readonly dataset: Dataset;
  readonly row: InodeRow;
}

export async function adoptDatasets(area: AdoptingArea): Promise<void> {
  const { files } = area;
  const claims = new Map<Image, Claim[]>();
  for (const id of files.ids()) {
    try {
      await files.recover(id);
      adoptDataset(area, id, claims);
    } catch (error) {
      area.options.log.warn({ id, err: error }, "a staged dataset's manifest can't be read: it has to be staged again");
      area.options.disk.onFault("crc", `${files.pathOf(id)}: can't be read`);
      area.forget(id);
      await files.destroy(id);
    }
  }
  await area.images.discardOthers(area.unfinishedImages());
  const verified = verifyAll(area, claims);
  await Promise.race([verified, Bun.sleep(VERIFY_WAIT_MS)]);
}

function adoptDataset(area: AdoptingArea, id: string, claims: Map<Image, Claim[]>): void {
  const { files } = area;
  if (files.has(id)) {
    const manifest = new Manifest(files.pathOf(id));
    const dataset: Dataset = { id, name: manifest.name, manifest: null, isDamaged: false, totals: manifest.totals };
    area.take(dataset, manifest);
    dataset.isDamaged = !adoptRows(area, dataset, manifest, claims);
    area.calls.snapshot(manifest.name.namespace).add(manifest);
  }
  if (!files.hasNext(id)) return;
  const next = new Manifest(files.nextPathOf(id));
  try {
    const dataset = area.known.get(id) ?? { id, name: next.name, manifest: null, isDamaged: false, totals: next.totals };
    area.addUnfinished(dataset);
    adoptRows(area, dataset, next, claims);
  } finally {
    next.close();
  }
}

/** Registers the images and pinned chunks of a manifest. False: some are missing. */
function adoptRows(area: AdoptingArea, dataset: Dataset, manifest: Manifest, claims: Map<Image, Claim[]>): boolean {
  let isWhole = true;
  const missing: number[] = [];
  for (const row of manifest.inodes()) {
    if (row.state !== StageState.staged) isWhole &&= row.state === StageState.left;
    else if (row.kind === DataKind.image) {
      const image = adoptImage(area, manifest, row);
      if (image === null) missing.push(row.ino);
      else {
        area.images.use(image, dataset.id);
        claims.set(image, [...(claims.get(image) ?? []), { dataset, row }]);
      }
    } else if (row.kind === DataKind.chunks) {
      const canonical = area.canonical(manifest.name.namespace);
      for (const { key, ref } of layoutIn(manifest, canonical, row.ino).chunks) {
        area.useChunk(dataset.id, key, ref);
        if (!area.options.disk.pin(ref) && missing.at(-1) !== row.ino) missing.push(row.ino);
      }
    }
  }
  manifest.transaction(() => {
    for (const ino of missing) manifest.setState(ino, StageState.pending);
  });
  return isWhole && missing.length === 0;
}

function adoptImage(area: AdoptingArea, manifest: Manifest, row: InodeRow): Image | null {
  const { images, options } = area;
  const { namespace } = manifest.name;
  const known = images.find(namespace, row);
  if (known !== undefined) return known;
  const canonical = area.canonical(namespace);
  const path = images.pathOf(namespace, row.ino, row.imageVersion);
  const bytes = Number(manifest.attributes(canonical, row.ino).size);
  const crcs = images.table(path, bytes, row.tableSum);
  if (crcs === null) {
    options.disk.onFault(images.isOnDisk(path) ? "crc" : "missing", `${path}: the image or its table of checksums is missing or damaged`);
    return null;
  }
  return images.add(path, bytes, crcs, layoutIn(manifest, canonical, row.ino).chunks, images.bytesOnDisk(path), false);
}

async function verifyAll(area: AdoptingArea, claims: Map<Image, Claim[]>): Promise<void> {
  const images = [...claims.keys()];
  const verify = async (): Promise<void> => {
    for (let image = images.shift(); image !== undefined; image = images.shift()) {
      const right = await area.images.verifiedBlocks(image.path, image.file.bytes, image.crcs);
      if (right === image.crcs.length) {
        image.verified = true;
        continue;
      }
      area.options.disk.onFault("crc", `${image.path}: block ${right} fails its checksum`);
      area.images.remove(image);
      for (const { dataset, row } of claims.get(image) ?? []) {
        dataset.isDamaged = true;
        dataset.manifest?.setState(row.ino, StageState.pending);
      }
    }
  };
  await Promise.all(Array.from({ length: VERIFY_AT_ONCE }, verify));
}
