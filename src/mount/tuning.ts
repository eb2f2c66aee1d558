import { readFileSync, writeFileSync } from "node:fs";
import { mountAt } from "../process/mountinfo.ts";
import type { MountLog } from "./log.ts";
import { MAX_READAHEAD_BYTES } from "./negotiation.ts";

/**
 * Raises the kernel's read-ahead for a mount: INIT can only lower it, from 128 KiB. Needs root, and is without effect otherwise. The
 * device number comes from mountinfo, since stat(2) of the mount would be a request to ourselves.
 */
export function raiseReadAhead(mountpoint: string, log: MountLog): void {
  try {
    const device = mountAt(mountpoint)?.device;
    if (device === undefined) return;
    const file = `/sys/class/bdi/${device}/read_ahead_kb`;
    const wanted = MAX_READAHEAD_BYTES / 1024;
    if (Number(readFileSync(file, "utf8")) < wanted) writeFileSync(file, String(wanted));
  } catch (cause) {
    log.debug({ err: cause }, "the kernel's read-ahead stays as it is");
  }
}
