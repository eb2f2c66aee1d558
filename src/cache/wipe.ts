/** Destroys what is in a pool, and the pool. The caller holds the pool's lock. */

import { rmdirSync, unlinkSync } from "node:fs";
import { readdir, rmdir, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { CacheFolder } from "./cache-folder.ts";
import { LOCK_FILE, lockPath, type PoolRecord, writePoolRecord } from "./pool-record.ts";
import { type ZeroizeFault, zeroizeFiles } from "./zeroize.ts";

export interface WipeProgress {
  readonly bytesDone: number;
  /** As far as is known. */
  readonly bytesTotal: number;
  readonly filesDone: number;
}

export interface WipeOptions {
  readonly bytesTotal: number;
  readonly onProgress?: ((progress: WipeProgress) => void) | undefined;
}

export interface WipeReport {
  readonly files: number;
  readonly bytes: number;
  /** Of files that could not be deleted. */
  readonly bytesLeft: number;
  readonly faults: readonly ZeroizeFault[];
}

/** Progress is told at most this often. */
const PROGRESS_INTERVAL_MS = 200;
const CONTENT_FOLDERS = ["chunks", "files", "staging"];

/** Overwrites and deletes all files below the content folders, which stay. */
export async function wipeContents(poolPath: string, options: WipeOptions): Promise<WipeReport> {
  const wipe = new Wipe(options);
  for (const name of CONTENT_FOLDERS) await wipe.filesBelow(join(poolPath, name), "keep folders");
  return wipe.report();
}

/** Overwrites and deletes everything, the lock file last. What can't be deleted stays, with its lock file, for the next try. */
export async function wipePool(
  folder: CacheFolder,
  poolPath: string,
  lockFd: number,
  record: PoolRecord | null,
  options: WipeOptions,
): Promise<WipeReport> {
  const tell = (progress: WipeProgress): void => {
    if (record !== null) writePoolRecord(lockFd, { ...record, wipe: progress });
    options.onProgress?.(progress);
  };
  const wipe = new Wipe({ ...options, onProgress: tell });
  tell({ bytesDone: 0, bytesTotal: options.bytesTotal, filesDone: 0 });
  await wipe.filesBelow(poolPath, "keep pool.lock");
  if (wipe.faults.length === 0) {
    await folder.withNodeLock(() => {
      // Without pool.lock a folder counts as a dead pool: both go in one step.
      rmLockAndFolder(poolPath);
    });
  }
  return wipe.report();
}

function rmLockAndFolder(poolPath: string): void {
  unlinkSync(lockPath(poolPath));
  rmdirSync(poolPath);
  try {
    rmdirSync(dirname(poolPath));
  } catch {
    // Other pools of this tenant.
  }
}

class Wipe {
  readonly faults: ZeroizeFault[] = [];
  readonly #options: WipeOptions;
  #files = 0;
  #bytes = 0;
  #bytesDone = 0;
  #toldAt = performance.now();

  constructor(options: WipeOptions) {
    this.#options = options;
  }

  report(): WipeReport {
    return { files: this.#files, bytes: this.#bytes, bytesLeft: 0, faults: this.faults };
  }

  /** All files below a folder, which stays; and the folders below it unless they are to stay. */
  async filesBelow(path: string, mode: "keep folders" | "keep pool.lock" | "all"): Promise<void> {
    const entries = await readdir(path, { withFileTypes: true }).catch((error) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    });
    const files: string[] = [];
    for (const entry of entries) {
      const child = join(path, entry.name);
      if (entry.isDirectory()) {
        await this.filesBelow(child, mode === "keep folders" ? mode : "all");
        if (mode !== "keep folders") await rmdir(child).catch((error) => this.faults.push({ path: child, reason: error.message }));
      } else if (entry.isFile()) {
        if (mode !== "keep pool.lock" || entry.name !== LOCK_FILE) files.push(child);
      } else {
        await unlink(child);
      }
    }
    const report = await zeroizeFiles(files, { onBytes: (bytes) => this.#progress(bytes) });
    this.#files += report.files;
    this.#bytes += report.bytes;
    this.faults.push(...report.faults);
  }

  #progress(bytes: number): void {
    this.#bytesDone += bytes;
    const now = performance.now();
    if (now - this.#toldAt < PROGRESS_INTERVAL_MS) return;
    this.#toldAt = now;
    const bytesTotal = Math.max(this.#options.bytesTotal, this.#bytesDone);
    this.#options.onProgress?.({ bytesDone: this.#bytesDone, bytesTotal, filesDone: this.#files });
  }
}
