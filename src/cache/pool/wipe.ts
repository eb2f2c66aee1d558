/** Destroys what is in a pool, and the pool. The caller holds the pool's lock, and nobody uses a file in it. */
import { type Dirent, rmdirSync, statSync, unlinkSync } from "node:fs";
import { readdir, rmdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Logger } from "../../log.ts";
import { MIB } from "../../protocol/limits.ts";
import { isOpenNowhere } from "../images/image-file.ts";
import type { CacheFolder } from "./cache-folder.ts";
import { LOCK_FILE, lockPath, type PoolRecord, writePoolRecord } from "./pool-record.ts";
import { RESERVED_FILE, writeReserved } from "./space.ts";
import { addFault, emptyReport, type ZeroizeReport, zeroizeFiles } from "./zeroize.ts";

/** Made with every pool, and there until it goes. */
export const CONTENT_FOLDERS = ["chunks", "files", "staging"] as const;
/** The one with the images of staged files, which programs may be reading past us (FUSE passthrough). */
const IMAGE_FOLDER = "files";
/** st_blocks counts in these, stat(2). */
const STAT_BLOCK_BYTES = 512;

/** Progress is told at most this often. */
const PROGRESS_INTERVAL_MS = 200;
/** The log is told of a wipe that takes longer than this, and so often. */
const LOG_INTERVAL_MS = 2_000;

export interface WipeProgress {
  /** Overwritten with zeros. */
  readonly bytesDone: number;
  /** As far as is known. */
  readonly bytesTotal: number;
}

export interface WipeOptions {
  /** What is there, roughly. */
  readonly bytesTotal: number;
  readonly onProgress?: ((progress: WipeProgress) => void) | undefined;
}

export type WipeReport = Readonly<ZeroizeReport>;

/**
 * Overwrites and deletes all files below the content folders; the folders stay. So do images that a program still has open or mapped: zeros
 * would be wrong bytes for it. They are in the report's faults, and go with the next wipe.
 */
export async function wipeContents(poolPath: string, options: WipeOptions): Promise<WipeReport> {
  const wipe = new Wipe(options);
  for (const name of CONTENT_FOLDERS) await wipe.contentOf(poolPath, name, "keep folders");
  return wipe.report;
}

/**
 * Overwrites and deletes everything, the lock file last: a pool that is half wiped is found again by the next scrub. What can't be deleted
 * stays, with its lock file. `record` is written into the lock file with the progress: see PoolRecord.wipe.
 */
export async function wipePool(
  folder: CacheFolder,
  poolPath: string,
  lockFd: number,
  record: PoolRecord,
  options: WipeOptions,
): Promise<WipeReport> {
  const tell = (progress: WipeProgress): void => {
    writePoolRecord(lockFd, { ...record, wipe: progress });
    options.onProgress?.(progress);
  };
  const wipe = new Wipe({ ...options, onProgress: tell });
  tell({ bytesDone: 0, bytesTotal: options.bytesTotal });
  for (const name of CONTENT_FOLDERS) await wipe.contentOf(poolPath, name, "all");
  await wipe.filesBelow(poolPath, "all but the pool's own");
  if (wipe.report.failed > 0) {
    // Other pools may have the room of what is gone.
    writeReserved(poolPath, wipe.report.bytesLeft);
    return wipe.report;
  }
  try {
    // Under the lock of the node, as a folder without pool.lock counts as a dead pool, and the tenant's may be about to get a new one.
    await folder.withNodeLock(() => removeEmpty(poolPath));
  } catch (error) {
    addFault(wipe.report, poolPath, (error as Error).message);
  }
  return wipe.report;
}

/** Removes a pool of which only the pool's own files are left, and the tenant's folder with its last pool. Under node.lock. */
function removeEmpty(poolPath: string): void {
  for (const path of [join(poolPath, RESERVED_FILE), lockPath(poolPath)]) unlessGone(() => unlinkSync(path));
  unlessGone(() => rmdirSync(poolPath));
  try {
    rmdirSync(dirname(poolPath));
  } catch {
    // Other pools of this tenant.
  }
}

/** An onProgress that tells the log about a wipe that takes long. */
export function logWipe(log: Pick<Logger, "info">, what: string): (progress: WipeProgress) => void {
  let toldAt = performance.now();
  return ({ bytesDone, bytesTotal }) => {
    const now = performance.now();
    if (now - toldAt < LOG_INTERVAL_MS) return;
    toldAt = now;
    const percent = bytesTotal === 0 ? 0 : Math.floor((bytesDone / bytesTotal) * 100);
    log.info({ bytesDone, bytesTotal }, `${what}: ${percent} % of ${Math.ceil(bytesTotal / MIB)} MiB overwritten`);
  };
}

class Wipe {
  readonly report = emptyReport();
  readonly #options: WipeOptions;
  #bytesDone = 0;
  #toldAt = performance.now();

  constructor(options: WipeOptions) {
    this.#options = options;
  }

  contentOf(poolPath: string, name: (typeof CONTENT_FOLDERS)[number], mode: "keep folders" | "all"): Promise<void> {
    return this.filesBelow(join(poolPath, name), mode, name === IMAGE_FOLDER);
  }

  /** All files below a folder, which stays; and the folders below it, unless they are to stay. */
  async filesBelow(path: string, mode: "keep folders" | "all but the pool's own" | "all", areImages = false): Promise<void> {
    const files: string[] = [];
    const images: string[] = [];
    for (const entry of await this.#list(path)) {
      const child = join(path, entry.name);
      if (!entry.isDirectory()) {
        if (mode === "all but the pool's own" && (entry.name === LOCK_FILE || entry.name === RESERVED_FILE)) continue;
        if (areImages && entry.isFile()) images.push(child);
        else files.push(child);
        continue;
      }
      // What is left in these is in the report.
      const isDone = mode === "all but the pool's own" && (CONTENT_FOLDERS as readonly string[]).includes(entry.name);
      if (isDone && (await this.#list(child)).length > 0) continue;
      if (!isDone) await this.filesBelow(child, mode === "keep folders" ? mode : "all", areImages);
      if (mode !== "keep folders") await rmdir(child).catch((error) => this.#fault(child, error));
    }
    await zeroizeFiles([...files, ...this.#unused(images)], { onBytes: (bytes) => this.#progress(bytes) }, this.report);
  }

  #unused(images: readonly string[]): string[] {
    return images.filter((path) => {
      if (isOpenNowhere(path)) return true;
      addFault(this.report, path, "a program has this staged file open: it is deleted when that has closed it");
      this.report.bytesLeft += (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * STAT_BLOCK_BYTES;
      return false;
    });
  }

  async #list(path: string): Promise<Dirent[]> {
    try {
      return await readdir(path, { withFileTypes: true });
    } catch (error) {
      this.#fault(path, error);
      return [];
    }
  }

  #fault(path: string, error: unknown): void {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") addFault(this.report, path, (error as Error).message);
  }

  #progress(bytes: number): void {
    this.#bytesDone += bytes;
    const now = performance.now();
    if (now - this.#toldAt < PROGRESS_INTERVAL_MS) return;
    this.#toldAt = now;
    this.#options.onProgress?.({ bytesDone: this.#bytesDone, bytesTotal: Math.max(this.#options.bytesTotal, this.#bytesDone) });
  }
}

function unlessGone(work: () => void): void {
  try {
    work();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
