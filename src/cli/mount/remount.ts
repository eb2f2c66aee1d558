/** mount -o remount: changes the flags of what is mounted, by mount(2). What is not named stays as it is. */
import {
  MS_NOATIME,
  MS_NODEV,
  MS_NODIRATIME,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  MS_RELATIME,
  MS_STRICTATIME,
} from "../../../ffi/libc/constants.ts";
import { LibcError } from "../../../ffi/libc/errors.ts";
import { remount } from "../../../ffi/libc/libc.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { mountAt } from "../../process/mountinfo.ts";
import { isKisekiMount } from "../shared/mountpoint.ts";

/** What each word of mount(8) sets, and what it takes away. */
const WORDS: Readonly<Record<string, readonly [set: number, clear: number]>> = {
  ro: [MS_RDONLY, 0],
  rw: [0, MS_RDONLY],
  nosuid: [MS_NOSUID, 0],
  suid: [0, MS_NOSUID],
  nodev: [MS_NODEV, 0],
  dev: [0, MS_NODEV],
  noexec: [MS_NOEXEC, 0],
  exec: [0, MS_NOEXEC],
  noatime: [MS_NOATIME, MS_RELATIME | MS_STRICTATIME],
  atime: [0, MS_NOATIME],
  relatime: [MS_RELATIME, MS_NOATIME | MS_STRICTATIME],
  norelatime: [0, MS_RELATIME],
  strictatime: [MS_STRICTATIME, MS_NOATIME | MS_RELATIME],
  nostrictatime: [0, MS_STRICTATIME],
  nodiratime: [MS_NODIRATIME, 0],
  diratime: [0, MS_NODIRATIME],
};

/** The flags of mount(2) after `words`, from those that mountinfo shows ("rw,nosuid,nodev,relatime"). */
function flagsAfter(shown: string, words: readonly string[]): number {
  let flags = 0;
  for (const word of [...shown.split(","), ...words]) {
    const [set, clear] = WORDS[word] ?? [0, 0];
    flags = (flags & ~clear) | set;
  }
  return flags;
}

/** @throws CommandError: nothing of ours is mounted there, or it may not be changed */
export function remountCommand(mountpoint: string, words: readonly string[]): void {
  const mount = mountAt(mountpoint);
  if (mount === null || !isKisekiMount(mountpoint)) {
    throw new CommandError(ExitStatus.failure, `${mountpoint}: no kiseki mount to change with -o remount; see: findmnt -t fuse.kiseki`);
  }
  try {
    remount(mountpoint, flagsAfter(mount.options, words));
  } catch (error) {
    if (!(error instanceof LibcError)) throw error;
    const why = error.message.includes("EPERM")
      ? "only root may change a mount"
      : `${error.message}; files that are open for writing keep it writable`;
    throw new CommandError(ExitStatus.failure, `${mountpoint}: can't be remounted: ${why}`);
  }
}
