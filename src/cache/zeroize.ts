/**
 * Destroys files: overwrites their bytes with zeros, has these written to the disk, and only then unlinks. Holes are left alone.
 *
 * What it can't do: on filesystems that never write in place (btrfs, ZFS), and in the spare blocks of an SSD, old bytes may stay.
 */
import { constants } from "node:fs";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { SEEK_DATA, SEEK_HOLE, seek } from "../../ffi/libc/flock.ts";
import { MIB } from "../protocol/limits.ts";

/** Written at once: large enough for a disk's full speed. */
const WRITE_BYTES = 4 * MIB;
const STAT_BLOCK_BYTES = 512;

export interface ZeroizeOptions {
  /** Told after each write how many bytes more are zeros now. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

/** A file that could not be overwritten, or not be unlinked. */
export interface ZeroizeFault {
  readonly path: string;
  readonly reason: string;
}

export interface ZeroizeReport {
  readonly files: number;
  /** On the disk: what the files took up. */
  readonly bytes: number;
  readonly faults: readonly ZeroizeFault[];
}

const zeros = Buffer.alloc(WRITE_BYTES);

/**
 * Overwrites and unlinks files. A file that is gone already counts as done. Never throws for a file: see `faults`.
 * One that can't be overwritten is unlinked all the same, and named there.
 */
export async function zeroizeFiles(paths: readonly string[], options: ZeroizeOptions = {}): Promise<ZeroizeReport> {
  let files = 0;
  let bytes = 0;
  const faults: ZeroizeFault[] = [];
  for (const path of paths) {
    try {
      bytes += await overwrite(path, options);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
      faults.push({ path, reason: `not overwritten: ${(error as Error).message}` });
    }
    try {
      await unlink(path);
      files++;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") faults.push({ path, reason: `not deleted: ${(error as Error).message}` });
    }
  }
  return { files, bytes, faults };
}

async function overwrite(path: string, options: ZeroizeOptions): Promise<number> {
  await using file = await open(path, constants.O_WRONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const { size, blocks } = await file.stat();
  const onDisk = blocks * STAT_BLOCK_BYTES;
  if (onDisk >= size) {
    await overwriteRange(file, 0, size, options);
  } else {
    for (let at = seek(file.fd, 0, SEEK_DATA); at >= 0 && at < size; at = seek(file.fd, at, SEEK_DATA)) {
      const end = Math.min(seek(file.fd, at, SEEK_HOLE), size);
      await overwriteRange(file, at, end, options);
      at = end;
    }
  }
  await file.datasync();
  return onDisk;
}

async function overwriteRange(file: FileHandle, from: number, to: number, { onBytes }: ZeroizeOptions): Promise<void> {
  for (let at = from; at < to; ) {
    const { bytesWritten } = await file.write(zeros, 0, Math.min(zeros.length, to - at), at);
    at += bytesWritten;
    onBytes?.(bytesWritten);
  }
}
