/**
 * Destroys what is in a pool, and the pool. The caller holds the pool's lock, and nobody uses a file in it.
 *
 * Every folder is opened from the one above it, without following links, and must be the same user's on the same filesystem: whatever names somebody
 * gives to other folders meanwhile, nothing outside of the pool is touched.
 */
import { rmdirSync, statSync, unlinkSync } from "node:fs";
import { readdir, rmdir } from "node:fs/promises";
import { basename } from "node:path";
import type { Logger } from "../../log.ts";
import { MIB } from "../../protocol/limits.ts";
import { isOpenNowhere } from "../images/image-file.ts";
import type { CacheFolder } from "./cache-folder.ts";
import type { FolderHandle } from "./folder-handle.ts";
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
export async function wipeContents(pool: FolderHandle, options: WipeOptions): Promise<WipeReport> {
  const wipe = new Wipe(options);
  for (const name of CONTENT_FOLDERS) await wipe.contentOf(pool, name, "keep folders");
  return wipe.report;
}

/**
 * Overwrites and deletes everything, the lock file last: a pool that is half wiped is found again by the next scrub. What can't be deleted
 * stays, with its lock file. `record` is written into the lock file with the progress: see PoolRecord.wipe.
 */
export async function wipePool(
  folder: CacheFolder,
  pool: FolderHandle,
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
  for (const name of CONTENT_FOLDERS) await wipe.contentOf(pool, name, "all");
  await wipe.filesBelow(pool, "all but the pool's own");
  if (wipe.report.failed > 0) {
    // Other pools may have the room of what is gone.
    writeReserved(pool.self, wipe.report.bytesLeft);
    return wipe.report;
  }
  try {
    // Under the lock of the node, as a folder without pool.lock counts as a dead pool, and the tenant's may be about to get a new one.
    await folder.withNodeLock(() => removeEmpty(folder, record.tenant, pool));
  } catch (error) {
    addFault(wipe.report, pool.path, (error as Error).message);
  }
  return wipe.report;
}

/** Removes a pool of which only the pool's own files are left, and the tenant's folder with its last pool. Under node.lock. */
function removeEmpty(folder: CacheFolder, tenant: string, pool: FolderHandle): void {
  for (const path of [pool.at(RESERVED_FILE), lockPath(pool.self)]) unlessGone(() => unlinkSync(path));
  using tenants = folder.openTenant(tenant);
  unlessGone(() => rmdirSync(tenants.at(basename(pool.path))));
  try {
    rmdirSync(folder.handle.at(tenant));
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

  async contentOf(pool: FolderHandle, name: (typeof CONTENT_FOLDERS)[number], mode: "keep folders" | "all"): Promise<void> {
    await this.#inChild(pool, name, (content) => this.filesBelow(content, mode, name === IMAGE_FOLDER));
  }

  /** All files below a folder, which stays; and the folders below it, unless they are to stay. */
  async filesBelow(folder: FolderHandle, mode: "keep folders" | "all but the pool's own" | "all", areImages = false): Promise<void> {
    const files: string[] = [];
    const images: string[] = [];
    for (const entry of await readdir(folder.self, { withFileTypes: true })) {
      const { name } = entry;
      if (!entry.isDirectory()) {
        if (mode === "all but the pool's own" && (name === LOCK_FILE || name === RESERVED_FILE)) continue;
        if (areImages && entry.isFile()) images.push(folder.at(name));
        else files.push(folder.at(name));
        continue;
      }
      // What is left in these is in the report.
      const isDone = mode === "all but the pool's own" && (CONTENT_FOLDERS as readonly string[]).includes(name);
      let isEmpty = true;
      await this.#inChild(folder, name, async (child) => {
        if (isDone) isEmpty = (await readdir(child.self)).length === 0;
        else await this.filesBelow(child, mode === "keep folders" ? mode : "all", areImages);
      });
      if (mode !== "keep folders" && isEmpty) await rmdir(folder.at(name)).catch((error) => this.#fault(`${folder.path}/${name}`, error));
    }
    const nameOf = (path: string): string => `${folder.path}/${basename(path)}`;
    const options = { onBytes: (bytes: number) => this.#progress(bytes), nameOf };
    await zeroizeFiles([...files, ...this.#unused(images, nameOf)], options, this.report);
  }

  /** What can't be opened or read is in the report. */
  async #inChild(folder: FolderHandle, name: string, work: (child: FolderHandle) => Promise<void>): Promise<void> {
    try {
      using child = folder.child(name);
      await work(child);
    } catch (error) {
      this.#fault(`${folder.path}/${name}`, error);
    }
  }

  #unused(images: readonly string[], nameOf: (path: string) => string): string[] {
    return images.filter((path) => {
      if (isOpenNowhere(path)) return true;
      addFault(this.report, nameOf(path), "a program has this staged file open: it is deleted when that has closed it");
      this.report.bytesLeft += (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * STAT_BLOCK_BYTES;
      return false;
    });
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
