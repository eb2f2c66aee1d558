import { closeSync } from "node:fs";
import { backingClose, backingOpen } from "../../ffi/libfuse3/passthrough.ts";
import type { BackingFile } from "../cache/images/backing-file.ts";
import { Errno } from "../fs/posix/errno.ts";
import type { BackingIds } from "./io-modes.ts";
import type { MountLog } from "./log.ts";

/** Answers of the kernel that no later attempt will change: no privilege, not known, a filesystem that can't be one to read from. */
const LASTING: readonly number[] = [Errno.EPERM, Errno.ELOOP, Errno.EOPNOTSUPP, Errno.EINVAL, Errno.ENODEV, 25];

/**
 * The backing files that a FUSE session's kernel side knows. A file is acquired as long as it is registered. Where the kernel refuses, the
 * caller does without: nobody but the log hears of it.
 */
export class BackingTable implements BackingIds {
  readonly #device: number;
  readonly #log: MountLog;
  #isOff = false;

  /** `device`: the session's descriptor of /dev/fuse. */
  constructor(device: number, log: MountLog) {
    this.#device = device;
    this.#log = log;
  }

  open(file: BackingFile): number {
    if (this.#isOff) return 0;
    let descriptor: number;
    try {
      descriptor = file.acquire();
    } catch (error) {
      this.#log.debug({ err: error }, "the image of a staged file can't be opened: it is read in the ordinary way");
      return 0;
    }
    // The kernel has its own reference from here on, so that thousands of open files cost no descriptors.
    const id = backingOpen(this.#device, descriptor);
    closeSync(descriptor);
    if (id > 0) return id;
    file.release();
    this.#refused(-id);
    return 0;
  }

  #refused(errno: number): void {
    if (!LASTING.includes(errno)) return;
    this.#isOff = true;
    this.#log.info({ errno }, "the kernel can't read staged files by itself (passthrough): they are read in the ordinary way");
  }

  close(file: BackingFile, id: number): void {
    // Fails only when the device is gone, and all ids with it.
    backingClose(this.#device, id);
    file.release();
  }
}
