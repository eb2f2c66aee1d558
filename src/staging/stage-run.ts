/** One run of staging a dataset: the walk, the fetching, and what is reported meanwhile. Fills a manifest that nobody uses yet. */
import type { StageProgress } from "../cache/control/control.ts";
import { CacheCapacityExceeded } from "../cache/disk/staging-error.ts";
import { bytesOnDisk } from "../cache/pool/space.ts";
import type { Canonical } from "./canonical.ts";
import { capacityMessage, Fetch, type FetchOptions } from "./fetch.ts";
import { DataKind, type InodeRow, type Manifest } from "./manifest.ts";
import type { ManifestRoom } from "./manifest-room.ts";
import { Walk } from "./walk.ts";

const PROGRESS_INTERVAL_MS = 100;

export interface StageRunOptions extends Omit<FetchOptions, "onBytes" | "onFile"> {
  readonly canonical: Canonical;
  readonly manifest: Manifest;
  readonly previous: Manifest | null;
  readonly room: ManifestRoom;
  readonly isThere: (row: InodeRow) => boolean;
  readonly onProgress: (progress: StageProgress) => void;
}

export class StageRun {
  readonly #options: StageRunOptions;
  readonly #progress = { files: 0, bytes: 0, filesDone: 0, bytesDone: 0, walked: false };
  #toldAtMs = 0;

  constructor(options: StageRunOptions) {
    this.#options = options;
  }

  get progress(): Readonly<StageProgress> {
    return this.#progress;
  }

  /** @throws StagingError, CacheCapacityExceeded, the signal's reason, and what the node, the disk or the connection throw */
  async run(): Promise<void> {
    const { disk, images, manifest, room, space } = this.#options;
    const { namespace } = manifest.name;
    const full = (): Error => new CacheCapacityExceeded(capacityMessage(manifest.name.path, space));
    const walk = new Walk({
      ...this.#options,
      beforePage: () => room.ensure(full),
      onFound: (found) => {
        Object.assign(this.#progress, found);
        this.#tell();
      },
    });
    await walk.run();
    this.#progress.walked = true;
    manifest.transaction(() => manifest.setTotals({ files: this.#progress.files, bytes: this.#progress.bytes }));
    const rows = manifest.pending();
    let missing = 0;
    for (const { ino, kind, bytes, imageVersion } of rows) {
      if (kind === DataKind.chunks) missing += bytesOnDisk(bytes);
      // An interrupted run has written some of it.
      else if (kind === DataKind.image)
        missing += Math.max(0, bytesOnDisk(bytes) - images.bytesOnDisk(images.pathOf(namespace, ino, imageVersion)));
    }
    // Nothing is fetched unless all of it can stay.
    if (missing > 0 && !(await disk.makeRoom(missing))) throw full();
    await new Fetch({
      ...this.#options,
      onBytes: (bytes) => {
        this.#progress.bytesDone += bytes;
        this.#tell();
      },
      onFile: () => {
        this.#progress.filesDone++;
        this.#tell();
      },
    }).run(rows);
    this.#options.onProgress({ ...this.#progress });
  }

  #tell(): void {
    const nowMs = performance.now();
    if (nowMs - this.#toldAtMs < PROGRESS_INTERVAL_MS) return;
    this.#toldAtMs = nowMs;
    this.#options.onProgress({ ...this.#progress, bytesDone: Math.min(this.#progress.bytesDone, this.#progress.bytes) });
  }
}
