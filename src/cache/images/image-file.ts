import { closeSync, constants, openSync } from "node:fs";
import { EAGAIN } from "../../../ffi/libc/constants.ts";
import { takeWriteLease } from "../../../ffi/libc/libc.ts";
import type { BackingFile } from "./backing-file.ts";

/** How often whenUnused looks: a lease is one system call on an open file. */
const UNUSED_POLL_MS = 500;

/** A whole staged file in a local one. Make one object per image, and hand out the same one each time. */
export class ImageFile implements BackingFile {
  readonly path: string;
  readonly bytes: number;
  #users = 0;

  /** `bytes`: the size of the file at `path`, which is there already and checked. */
  constructor(path: string, bytes: number) {
    this.path = path;
    this.bytes = bytes;
  }

  acquire(): number {
    const descriptor = openSync(this.path, constants.O_RDONLY | constants.O_NOFOLLOW);
    this.#users++;
    return descriptor;
  }

  release(): void {
    if (this.#users === 0) throw new Error(`${this.path}: released more often than acquired`);
    this.#users--;
  }

  /**
   * Nobody reads it: neither a program through a descriptor of the mount, nor one through a mapping, which outlives the descriptor. Zeros
   * would be wrong bytes for it.
   */
  get isUnused(): boolean {
    return this.#users === 0 && isOpenNowhere(this.path);
  }

  /** Resolves when it is unused (true), or when `signal` is aborted before (false). Hand it out no more from then on. */
  async whenUnused(signal?: AbortSignal): Promise<boolean> {
    while (!this.isUnused) {
      if (signal?.aborted === true) return false;
      await Bun.sleep(UNUSED_POLL_MS);
    }
    return true;
  }
}

/**
 * Whether nobody, this process included, has the file open or mapped, as far as the kernel tells: it grants a write lease to none but a
 * file's only user (fcntl(2), F_SETLEASE). A program's mapping of a passthrough file is one of this file, and lives on after the mount's
 * process has died. True for files that are not there, and where the filesystem knows no leases (then nothing can be known).
 */
export function isOpenNowhere(path: string): boolean {
  let descriptor: number;
  try {
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
  try {
    // Closing the descriptor gives the lease back.
    return takeWriteLease(descriptor) !== -EAGAIN;
  } finally {
    closeSync(descriptor);
  }
}
