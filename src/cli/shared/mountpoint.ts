/** Looks at a mountpoint from outside. Nothing here waits for a mount that does not answer. */
import { realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { mountAt } from "../../process/mountinfo.ts";

/** What /proc/self/mountinfo shows as the type of our mounts. */
const MOUNT_TYPE = "fuse.kiseki";

/**
 * The absolute path without symbolic links. Works on a stale mount too, where every system call on the folder itself fails.
 * @throws CommandError when there is no such folder.
 */
export function resolveMountpoint(text: string): string {
  const path = resolve(text);
  try {
    return realpathSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") throw new CommandError(ExitStatus.failure, `${path}: no such folder; create it with: mkdir -p ${path}`);
    if (code === "ENOTDIR") throw new CommandError(ExitStatus.failure, `${path}: not a folder; choose or create one`);
    if (code === "ENOTCONN" && path !== "/") return join(realpathSync(dirname(path)), basename(path));
    throw error;
  }
}

/** Whether the topmost mount on `mountpoint` is one of ours. */
export function isKisekiMount(mountpoint: string): boolean {
  return mountAt(mountpoint)?.type === MOUNT_TYPE;
}

/** Refuses a mountpoint that is missing or no folder, before anything else is asked of the user. */
export function checkIsFolder(mountpoint: string): void {
  try {
    if (statSync(mountpoint).isDirectory()) return;
  } catch (error) {
    // What a killed client left: the mount process clears it.
    if ((error as NodeJS.ErrnoException).code === "ENOTCONN") return;
    throw error;
  }
  throw new CommandError(ExitStatus.failure, `${mountpoint}: not a folder; choose or create one`);
}
