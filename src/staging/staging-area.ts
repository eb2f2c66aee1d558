/**
 * Staging, as a mount or a staging daemon that has a pool sees it: the datasets in the pool, the snapshot in front of the node
 * (snapshot-calls.ts), the images, and the runs that stage.
 */

import { ControlError, type StageProgress, type StagingControl } from "../cache/control/control.ts";
import type { StagedDataset } from "../cache/control/stats.ts";
import type { StagingDisk } from "../cache/disk/staging-disk.ts";
import { StagingError } from "../cache/disk/staging-error.ts";
import type { BackingFile, StagedImages } from "../cache/images/backing-file.ts";
import type { BlockArena } from "../cache/memory/block-arena.ts";
import type { Pool } from "../cache/pool/pool.ts";
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import type { KeyRing } from "../crypto/key-ring.ts";
import { type AdoptingArea, adoptDatasets } from "./adopt.ts";
import type { AnyCalls } from "./any-calls.ts";
import { Canonical } from "./canonical.ts";
import type { Dataset } from "./dataset.ts";
import { datasetId, datasetName, ManifestFiles, type Namespaces, shownPath } from "./datasets.ts";
import { layoutIn } from "./fetch.ts";
import { Images } from "./images.ts";
import { DataKind, type DatasetName, hasDataOutside, type InodeRow, Manifest, ManifestError, StageState } from "./manifest.ts";
import { ManifestRoom, manifestBytes } from "./manifest-room.ts";
import { hasImage } from "./snapshot.ts";
import { SnapshotCalls } from "./snapshot-calls.ts";
import { StageRun } from "./stage-run.ts";

/** release() waits so long for programs that have an image open through the kernel; their images go when they let go. */
const RELEASE_PATIENCE_MS = 10_000;
/** Of a dataset there are two at most. */
const MANIFEST_TRIES_MAX = 3;

export interface StageOptions {
  readonly signal?: AbortSignal;
  /** Fails with StagingError "timeout" when it is not complete by then. */
  readonly timeoutMs?: number;
  /** Called some ten times a second, and once at the end. */
  readonly onProgress?: (progress: StageProgress) => void;
}

export interface Staging extends StagingControl, StagedImages {
  /** Resolves when everything is there and the snapshot holds. @throws StagingError */
  stage(path: string, options?: StageOptions): Promise<void>;
  /** Unpins and zeroizes. Resolves to the bytes that were freed. @throws ControlError not_found, conflict */
  release(path: string): Promise<number>;
  releaseAll(): Promise<number>;
  datasets(): readonly StagedDataset[];
}

export interface StagingHooks {
  /** What the next answers say of these inodes is another state than before: nothing about them may be trusted. */
  readonly onChange: (namespace: string, inos: readonly number[]) => void;
  /** The newest state of an inode that this client has seen, if it knows it. */
  readonly newestKnown?: (namespace: string, ino: number) => { version: number; bumps: number } | null;
  /** Writes out what this client has buffered. */
  readonly beforeStage?: () => Promise<void>;
}

export interface StagingOptions {
  readonly pool: Pool;
  readonly disk: StagingDisk;
  readonly node: AnyCalls;
  readonly keys: KeyRing;
  readonly arena: BlockArena;
  /** Fetches, opens and verifies blocks, from the node. */
  readonly get: (ref: ChunkRef, first: number, cells: readonly number[]) => Promise<void>;
  readonly namespaces: Namespaces;
  readonly hooks: StagingHooks;
  readonly log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
}

export class StagingArea implements Staging, AdoptingArea {
  /** What the filesystem asks instead of the node. */
  readonly calls: SnapshotCalls;
  readonly images: Images;
  readonly options: StagingOptions;
  readonly files: ManifestFiles;
  readonly #datasets = new Map<string, Dataset>();
  /** Chunks that are pinned for files without an image: by which datasets. */
  readonly #chunkUsers = new Map<string, { ref: ChunkRef; users: Set<string> }>();
  readonly #running = new Map<string, StageRun | null>();
  #turn: Promise<unknown> = Promise.resolve();
  /** Aborted when what runs has to end. */
  #ending = new AbortController();

  private constructor(options: StagingOptions) {
    const { pool, disk, arena, node, hooks } = options;
    this.options = options;
    this.calls = new SnapshotCalls(node, { onChange: hooks.onChange, onFault: (error) => this.#damaged(error) });
    this.images = new Images({ path: pool.filesPath, space: pool.space, disk, arena });
    this.files = new ManifestFiles(pool.stagingPath);
  }

  /** Takes up what is staged in the pool already. */
  static async open(options: StagingOptions): Promise<StagingArea> {
    const area = new StagingArea(options);
    await adoptDatasets(area);
    return area;
  }

  canonical(namespace: string, signal: AbortSignal | null = null): Canonical {
    return new Canonical(this.options.node, this.options.keys.namespace(namespace), signal);
  }

  /** The next staging makes a new manifest. */
  #damaged({ manifest, message }: ManifestError): void {
    this.options.disk.onFault("crc", message);
    for (const dataset of this.#datasets.values()) {
      if (dataset.manifest !== manifest) continue;
      dataset.manifest = null;
      manifest.close();
      // A run of it that is under way will put a new one in its place.
      if (!this.#running.has(dataset.id)) void this.#inTurn(null, () => this.files.destroyComplete(dataset.id)).catch(() => undefined);
    }
  }

  // ---- staging ----

  async stage(path: string, { signal, timeoutMs, onProgress }: StageOptions = {}): Promise<void> {
    const name = datasetName(this.options.namespaces, path);
    const id = datasetId(name);
    if (this.#running.has(id)) throw new StagingError("busy", `${name.path}: is being staged or released already`);
    this.#running.set(id, null);
    const ending = this.#ending.signal;
    const signals = [ending];
    if (signal !== undefined) signals.push(signal);
    const timeout = timeoutMs === undefined ? null : AbortSignal.timeout(timeoutMs);
    if (timeout !== null) signals.push(timeout);
    const ended = AbortSignal.any(signals);
    try {
      await this.#inTurn(ended, () => this.#stageAnyway(id, name, ended, onProgress ?? (() => {})));
    } catch (error) {
      if (error instanceof StagingError) throw error;
      if (timeout?.aborted === true)
        throw new StagingError(
          "timeout",
          `${name.path}: not staged within ${(timeoutMs ?? 0) / 1_000} s; what is there stays for the next try`,
        );
      if (ending.aborted) throw new StagingError("cancelled", `${name.path}: staging ended, as ${ending.reason.message}`);
      if (ended.aborted) throw new StagingError("cancelled", `${name.path}: staging was cancelled; what is there stays for the next try`);
      throw error;
    } finally {
      this.#running.delete(id);
    }
  }

  /** One after the other. */
  async #inTurn<T>(signal: AbortSignal | null, work: () => Promise<T>): Promise<T> {
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = before.then(() => promise);
    try {
      const aborted = new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
      aborted.catch(() => undefined);
      await Promise.race([before, aborted]);
      signal?.throwIfAborted();
      return await work();
    } finally {
      resolve();
    }
  }

  /** Manifests that turn out to be damaged are done without. */
  async #stageAnyway(id: string, name: DatasetName, signal: AbortSignal, onProgress: (progress: StageProgress) => void): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#stage(id, name, signal, onProgress);
      } catch (error) {
        if (!(error instanceof ManifestError) || tries === MANIFEST_TRIES_MAX) throw error;
        if (error.manifest.file === this.files.nextPathOf(id)) await this.files.destroyNext(id);
        else this.calls.fail(error);
      }
    }
  }

  async #stage(id: string, name: DatasetName, signal: AbortSignal, onProgress: (progress: StageProgress) => void): Promise<void> {
    const { pool, disk, hooks, log } = this.options;
    const canonical = this.canonical(name.namespace, signal);
    const dataset = this.#datasets.get(id) ?? { id, name, manifest: null, isDamaged: false, totals: { files: 0, bytes: 0 } };
    this.#datasets.set(id, dataset);
    const manifest = new Manifest(this.files.nextPathOf(id), name);
    const room = new ManifestRoom(manifest.file, pool.space, (bytes) => disk.makeRoom(bytes));
    // Until the new snapshot holds, nobody else takes note of what this client changes.
    const touched = new Set<number>();
    using _watch = this.#watchCommits(name.namespace, touched);
    let outcome: "complete" | "to go on" | "in vain" = "to go on";
    try {
      await hooks.beforeStage?.();
      const run = new StageRun({
        ...this.options,
        space: pool.space,
        images: this.images,
        dataset: id,
        canonical,
        manifest,
        previous: dataset.manifest,
        room,
        isThere: (row) => this.#isThere(name.namespace, row),
        signal,
        onProgress,
      });
      this.#running.set(id, run);
      await run.run();
      this.#leaveNewer(manifest, touched);
      manifest.complete(new Date().toISOString());
      outcome = "complete";
    } catch (error) {
      // Trying again would end the same way.
      if (error instanceof StagingError) outcome = "in vain";
      throw error;
    } finally {
      const { progress } = this.#running.get(id) ?? {};
      if (progress !== undefined && dataset.manifest === null) dataset.totals = { files: progress.files, bytes: progress.bytes };
      manifest.close();
      room.settle();
      if (outcome === "in vain") await this.#discardNext(dataset);
    }
    await this.#activate(dataset, touched);
    log.info({ path: name.path, files: dataset.totals.files, bytes: dataset.totals.bytes }, "staged");
  }

  #watchCommits(namespace: string, touched: Set<number>): Disposable {
    const unwatch = this.calls.watchCommits((ns, inos) => {
      if (ns === namespace) for (const ino of inos) touched.add(ino);
    });
    return { [Symbol.dispose]: unwatch };
  }

  #isThere(namespace: string, row: InodeRow): boolean {
    if (row.kind === DataKind.image) return this.images.find(namespace, row) !== undefined;
    return row.state === StageState.staged && row.kind !== DataKind.chunks;
  }

  /** What this client has changed or seen changed since the walk: there the node is asked. */
  #leaveNewer(manifest: Manifest, touched: ReadonlySet<number>): void {
    const { newestKnown } = this.options.hooks;
    const { namespace } = manifest.name;
    const left: number[] = [];
    for (const { ino, version } of manifest.inodes()) {
      const known = newestKnown?.(namespace, ino) ?? null;
      const isOlder = known !== null && (known.version > version || known.bumps > (manifest.counters(ino)?.bumps ?? 0));
      if (isOlder || touched.has(ino)) left.push(ino);
    }
    manifest.transaction(() => {
      for (const ino of left) manifest.setState(ino, StageState.left);
    });
  }

  /** The finished manifest takes the place of the one before. */
  async #activate(dataset: Dataset, touched: ReadonlySet<number>): Promise<void> {
    const { pool } = this.options;
    const { id, name } = dataset;
    const before = dataset.manifest;
    const snapshot = this.calls.snapshot(name.namespace);
    const stale = before === null ? [] : this.#rowsWithData(before);
    const beforeBytes = before === null ? 0 : manifestBytes(before.file);
    const changed = new Set(before === null ? [] : snapshot.remove(before));
    before?.close();
    await this.files.putNext(id);
    pool.space.release(beforeBytes);
    const manifest = new Manifest(this.files.pathOf(id));
    this.take(dataset, manifest);
    for (const ino of snapshot.add(manifest)) changed.add(ino);
    snapshot.leave(touched);
    this.calls.changed(name.namespace, [...changed]);
    for (const row of stale) {
      const now = manifest.inode(row.ino);
      if (row.kind === DataKind.image && now?.imageVersion === row.imageVersion && now.kind === DataKind.image) continue;
      const image = row.kind === DataKind.image ? this.images.find(name.namespace, row) : undefined;
      if (image !== undefined) this.images.drop(image, id);
    }
    await this.#dropChunks(id, this.#chunksOf(manifest));
    await this.images.discardOthers(this.unfinishedImages());
  }

  /** A manifest is what a dataset is served from. */
  take(dataset: Dataset, manifest: Manifest): void {
    dataset.manifest = manifest;
    dataset.totals = manifest.totals;
    dataset.isDamaged = false;
    this.#datasets.set(dataset.id, dataset);
    for (const [key, ref] of this.#chunksOf(manifest)) this.useChunk(dataset.id, key, ref);
  }

  useChunk(dataset: string, key: string, ref: ChunkRef): void {
    const known = this.#chunkUsers.get(key);
    if (known !== undefined) known.users.add(dataset);
    else this.#chunkUsers.set(key, { ref, users: new Set([dataset]) });
  }

  #rowsWithData(manifest: Manifest): InodeRow[] {
    return [...manifest.inodes()].filter(({ kind }) => hasDataOutside(kind));
  }

  #chunksOf(manifest: Manifest): Map<string, ChunkRef> {
    const canonical = this.canonical(manifest.name.namespace);
    const chunks = new Map<string, ChunkRef>();
    for (const { ino, kind } of manifest.inodes()) {
      if (kind === DataKind.chunks) for (const { key, ref } of layoutIn(manifest, canonical, ino).chunks) chunks.set(key, ref);
    }
    return chunks;
  }

  /** Lets go of the pinned chunks of a dataset that are not in `wanted`. */
  async #dropChunks(dataset: string, wanted: ReadonlyMap<string, ChunkRef>): Promise<void> {
    for (const [key, { ref, users }] of [...this.#chunkUsers]) {
      if (wanted.has(key) || !users.delete(dataset) || users.size > 0) continue;
      this.#chunkUsers.delete(key);
      await this.options.disk.unpinChunk(ref);
    }
  }

  /** Where interrupted runs have begun to write images. */
  unfinishedImages(): Set<string> {
    const paths = new Set<string>();
    for (const { id, name } of this.#datasets.values()) {
      if (!this.files.hasNext(id)) continue;
      const manifest = new Manifest(this.files.nextPathOf(id));
      for (const row of this.#rowsWithData(manifest)) paths.add(this.images.pathOf(name.namespace, row.ino, row.imageVersion));
      manifest.close();
    }
    return paths;
  }

  /** Lets go of what was staged for a manifest that will not be used. Resolves to the bytes that this frees. */
  async #discardNext(dataset: Dataset): Promise<number> {
    const { disk, pool } = this.options;
    const { id, name } = dataset;
    if (dataset.manifest === null) this.#datasets.delete(id);
    if (!this.files.hasNext(id)) return 0;
    const usedBefore = pool.space.usedBytes;
    let bytes = 0;
    const next = new Manifest(this.files.nextPathOf(id));
    try {
      for (const row of this.#rowsWithData(next)) {
        const image = this.images.find(name.namespace, row);
        if (image === undefined || dataset.manifest?.inode(row.ino)?.imageVersion === row.imageVersion) continue;
        bytes += this.images.drop(image, id);
      }
      for (const [key, ref] of this.#chunksOf(next)) if (!this.#chunkUsers.has(key)) await disk.unpinChunk(ref);
    } finally {
      next.close();
    }
    const records = manifestBytes(this.files.nextPathOf(id));
    await this.files.destroyNext(id);
    pool.space.release(records);
    await this.images.discardOthers(this.unfinishedImages());
    return bytes + Math.max(0, usedBefore - pool.space.usedBytes);
  }

  // ---- release ----

  release(path: string): Promise<number> {
    const { namespaces } = this.options;
    const { path: wanted } = datasetName(namespaces, path);
    const id = [...this.#datasets.values()].find(({ name }) => shownPath(namespaces, name) === wanted)?.id;
    if (id === undefined) throw new ControlError("not_found", `${path}: is not staged`);
    if (this.#running.has(id)) throw new ControlError("conflict", `${path}: is being staged or released`);
    this.#running.set(id, null);
    return this.#inTurn(null, () => this.#release(id)).finally(() => this.#running.delete(id));
  }

  async releaseAll(): Promise<number> {
    let bytes = 0;
    for (const { name } of [...this.#datasets.values()]) bytes += await this.release(shownPath(this.options.namespaces, name));
    return bytes;
  }

  async #release(id: string): Promise<number> {
    const { pool, log } = this.options;
    const dataset = this.#datasets.get(id);
    if (dataset === undefined) return 0;
    const { name, manifest } = dataset;
    let bytes = await this.#discardNext(dataset);
    this.#datasets.delete(id);
    if (manifest !== null) this.calls.changed(name.namespace, this.calls.snapshot(name.namespace).remove(manifest));
    manifest?.close();
    for (const image of [...this.images.all]) bytes += this.images.drop(image, id);
    const usedBefore = pool.space.usedBytes;
    await this.#dropChunks(id, new Map());
    bytes += Math.max(0, usedBefore - pool.space.usedBytes);
    const records = manifestBytes(this.files.pathOf(id));
    await this.files.destroy(id);
    pool.space.release(records);
    await this.images.discardOthers(this.unfinishedImages());
    await this.images.settled(RELEASE_PATIENCE_MS);
    log.info({ path: name.path, bytes: bytes + records }, "released");
    return bytes + records;
  }

  // ---- what there is ----

  datasets(): readonly StagedDataset[] {
    return [...this.#datasets.values()].map(({ id, name, manifest, isDamaged, totals }) => {
      const progress = this.#running.get(id)?.progress;
      const { files, bytes } = progress !== undefined && manifest === null ? progress : totals;
      const state = progress !== undefined ? "staging" : manifest !== null && !isDamaged ? "complete" : "incomplete";
      return { path: shownPath(this.options.namespaces, name), state, files, bytes, stagedAt: manifest?.stagedAt ?? null };
    });
  }

  /** By id; for adoption. */
  get known(): ReadonlyMap<string, Dataset> {
    return this.#datasets;
  }

  /** A dataset of which the manifests are of no use. */
  forget(id: string): void {
    const dataset = this.#datasets.get(id);
    this.#datasets.delete(id);
    if (dataset === undefined || dataset.manifest === null) return;
    this.calls.snapshot(dataset.name.namespace).remove(dataset.manifest);
    dataset.manifest.close();
  }

  addUnfinished(dataset: Dataset): void {
    this.#datasets.set(dataset.id, dataset);
  }

  imageOf(namespace: string, ino: number, version: number): BackingFile | null {
    const staged = this.calls.snapshot(namespace).find(ino);
    if (!hasImage(staged, version)) return null;
    const image = this.images.find(namespace, { ino, imageVersion: staged.imageVersion });
    return image?.verified === true ? image.file : null;
  }

  /** Everything will be wiped: what runs ends, and the snapshot with it. */
  async forgetAll(): Promise<void> {
    this.#ending.abort(new Error("the caches were wiped"));
    this.#ending = new AbortController();
    for (const { name, manifest } of this.#datasets.values()) {
      if (manifest === null) continue;
      this.calls.changed(name.namespace, this.calls.snapshot(name.namespace).remove(manifest));
      manifest.close();
    }
    await this.#turn.catch(() => undefined);
    this.#datasets.clear();
    this.#chunkUsers.clear();
    this.images.forgetAll();
  }

  /** Ends what runs, and the use of the pool; the datasets stay in it. */
  async close(): Promise<void> {
    this.#ending.abort(new Error("the mount has ended"));
    await this.#turn.catch(() => undefined);
    for (const { manifest } of this.#datasets.values()) {
      if (manifest === null) continue;
      manifest.close();
    }
    // A second close finds nothing to do.
    this.#datasets.clear();
  }
}
