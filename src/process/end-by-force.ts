/**
 * Ends a mount's process by force, if it is proved to be one. Root finds the processes of others' mounts by files that these users write, so a
 * file alone must not be able to have root kill whatever it names.
 */
import { lstatSync, readFileSync, readlinkSync } from "node:fs";
import { constants } from "node:os";
import { basename } from "node:path";
import { LibcError } from "../../ffi/libc/errors.ts";
import { pidfdClose, pidfdOpen, pidfdSendSignal } from "../../ffi/libc/pidfd.ts";
import { mountAt } from "./mountinfo.ts";
import { isRunning, type RuntimeEntry } from "./runtime-file.ts";

/** Real user id of a process; null: it has ended, or must not be looked at. */
function userOf(pid: number): number | null {
  try {
    return Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? Number.NaN);
  } catch {
    return null;
  }
}

/** Name of the program that a process runs; null as above. An updated binary's old file is "... (deleted)". */
function programOf(pid: number): string | null {
  try {
    return basename(readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, ""));
  } catch {
    return null;
  }
}

/** Who a FUSE mount belongs to, by the kernel's word (proc_pid_mountinfo(5), the option user_id); null: it says nothing. */
function ownerOfMount(mountpoint: string): number | null {
  const user = /(?:^|,)user_id=(\d+)/.exec(mountAt(mountpoint)?.superOptions ?? "")?.[1];
  return user === undefined ? null : Number(user);
}

/** Why the process that an entry names is not proved to be the one behind its mountpoint; null: it is. */
function doubt(entry: RuntimeEntry, path: string): string | null {
  const user = userOf(entry.pid);
  if (user === null) return "it can't be looked at";
  if (lstatSync(path, { throwIfNoEntry: false })?.uid !== user) return "it is not the process of the user who says so";
  const owner = ownerOfMount(entry.mountpoint);
  if (owner !== null && owner !== user) return "the mount is another user's";
  const program = programOf(entry.pid);
  // A process that protects its memory shows this to root alone; others can end none but their own anyway.
  const isHidden = program === null && process.geteuid?.() !== 0;
  if (!isHidden && program !== basename(process.execPath)) return `it runs ${program ?? "nobody knows what"}`;
  return isRunning(entry) ? null : "it has ended";
}

/** `path`: the file that names the process. Returns why it was left alone; null: it was killed, or had ended. @throws LibcError */
export function endByForce(entry: RuntimeEntry, path: string): string | null {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(entry.pid);
  } catch (error) {
    if (error instanceof LibcError && error.errno === constants.errno.ESRCH) return null;
    throw error;
  }
  try {
    // Only now: what is found out from here on is of the process that the descriptor means, or that has ended.
    const why = doubt(entry, path);
    if (why !== null) return why === "it has ended" ? null : why;
    pidfdSendSignal(pidfd, constants.signals.SIGKILL);
    return null;
  } catch (error) {
    if (error instanceof LibcError && error.errno === constants.errno.ESRCH) return null;
    throw error;
  } finally {
    pidfdClose(pidfd);
  }
}
