/** What kiseki umount does. */

import { open, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { MNT_DETACH } from "../../../ffi/libc/constants.ts";
import { LibcError } from "../../../ffi/libc/errors.ts";
import { umount2 } from "../../../ffi/libc/libc.ts";
import { lockPath, readPoolRecord } from "../../cache/pool/pool-record.ts";
import { Errno } from "../../fs/posix/errno.ts";
import { endByForce } from "../../process/end-by-force.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { printable } from "../../process/printable.ts";
import { findRuntimeFile, isRunning, type RuntimeEntry } from "../../process/runtime-file.ts";
import { isKisekiMount, resolveMountpoint } from "../shared/mountpoint.ts";
import { humanBytes } from "../shared/quantities.ts";
import type { UmountOptions } from "./options.ts";

/** How often the end of the mount's process is looked for. */
const EXIT_POLL_MS = 20;
/** After this long the user is told what is being waited for. */
const PATIENCE_MS = 3_000;

/** @throws CommandError: not mounted, in use, or not everything could be written out (then it stays mounted). */
export async function unmount(text: string, options: UmountOptions): Promise<void> {
  const mountpoint = resolveMountpoint(text);
  if (!isKisekiMount(mountpoint)) {
    throw new CommandError(ExitStatus.failure, `${mountpoint}: no kiseki mount; see: findmnt -t fuse.kiseki`);
  }
  const found = findRuntimeFile(mountpoint);
  const entry = found?.entry ?? null;
  // Without a process nobody would answer; its mount is stale and can only be removed.
  const asked = entry !== null && options.force !== true;
  const ended = asked ? await tellWhenSlow(`writing out ${printable(mountpoint)}`, flush(mountpoint)) : null;
  const flushes = asked && ended === null;
  if (ended !== null) process.stderr.write(`kiseki: ${printable(mountpoint)}: ${ended}; what was unwritten is lost\n`);
  const leftAlone = found !== null && options.force === true ? endByForce(found.entry, found.path) : null;
  if (leftAlone !== null) process.stderr.write(`kiseki: process ${found?.entry.pid} was not killed: ${leftAlone}\n`);
  detach(mountpoint, options);
  if (options.lazy === true) {
    console.log(`${printable(mountpoint)}: ${flushes ? "flushed; " : ""}unmounted, ends when its last file is closed`);
    return;
  }
  if (entry !== null && leftAlone === null) await untilEnded(entry);
  console.log(`${printable(mountpoint)}: ${flushes ? "flushed and unmounted" : "unmounted"}`);
}

/**
 * Has the kernel write out what it holds (syncfs), then the client (fsync of the root folder). Returns why nothing can be written any more, ever;
 * null: all is written.
 */
async function flush(mountpoint: string): Promise<string | null> {
  const notFlushed = (reason: string) =>
    new CommandError(
      ExitStatus.failure,
      `${mountpoint}: could not be written out (${reason}); it stays mounted. --force gives up what is unwritten`,
    );
  try {
    await stat(mountpoint);
    // Only coreutils' sync reaches syncfs(2) from here; FUSE does not pass it on, which is why fsync follows.
    const sync = Bun.spawn(["sync", "-f", mountpoint], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    if ((await sync.exited) !== 0) throw new Error((await new Response(sync.stderr).text()).trim());
    await using root = await open(mountpoint, "r");
    await root.sync();
    return null;
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === -Errno.EKEYREVOKED) return "the tenant was shredded";
    // Of a mount's root only this can be the reason.
    if (errno === -Errno.ESTALE) return "the namespace was deleted";
    throw notFlushed((error as Error).message);
  }
}

function detach(mountpoint: string, options: UmountOptions): void {
  const lazy = options.lazy === true || options.force === true;
  const reason = process.geteuid?.() === 0 ? detachAsRoot(mountpoint, lazy) : detachAsUser(mountpoint, lazy);
  if (reason === null) return;
  if (/busy/i.test(reason)) {
    throw new CommandError(
      ExitStatus.failure,
      `${mountpoint}: in use; close the files and shells in it (fuser -vm ${mountpoint} shows them), or use --lazy`,
    );
  }
  throw new CommandError(ExitStatus.failure, `${mountpoint}: can't be unmounted (${reason})`);
}

/** Returns why it failed, or null. */
function detachAsRoot(mountpoint: string, lazy: boolean): string | null {
  try {
    umount2(mountpoint, lazy ? MNT_DETACH : 0);
    return null;
  } catch (error) {
    if (!(error instanceof LibcError)) throw error;
    return error.errno === Errno.EBUSY ? "busy" : error.message;
  }
}

/** fusermount3 may, where the caller of umount2(2) may not. Returns why it failed, or null. */
function detachAsUser(mountpoint: string, lazy: boolean): string | null {
  const command = ["fusermount3", "-u", ...(lazy ? ["-z"] : []), "--", mountpoint];
  const result = Bun.spawnSync(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  return result.success
    ? null
    : result.stderr
        .toString()
        .trim()
        .replace(/^fusermount3: /, "");
}

/** Waits for the end of the mount's process, which overwrites its disk cache before. Tells how far it is when that takes long. */
async function untilEnded(entry: RuntimeEntry): Promise<void> {
  let tellAt = performance.now() + PATIENCE_MS;
  while (isRunning(entry)) {
    await Bun.sleep(EXIT_POLL_MS);
    if (performance.now() < tellAt) continue;
    tellAt += PATIENCE_MS;
    process.stderr.write(`kiseki: ${whatItDoes(entry)} ...\n`);
  }
}

function whatItDoes({ control, pid }: RuntimeEntry): string {
  const wipe = control === null ? null : (readPoolRecord(lockPath(dirname(control)))?.wipe ?? null);
  if (wipe === null || wipe.bytesTotal === 0) return `waiting for the end of process ${pid}`;
  const percent = Math.floor((wipe.bytesDone / wipe.bytesTotal) * 100);
  return `wiping the disk cache: ${percent} % of ${humanBytes(wipe.bytesTotal)}`;
}

async function tellWhenSlow<T>(what: string, work: Promise<T>): Promise<T> {
  const timer = setTimeout(() => process.stderr.write(`kiseki: ${what} ...\n`), PATIENCE_MS);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}
