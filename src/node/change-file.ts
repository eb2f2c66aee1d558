/** How a file in the data folder is changed beside a running node, or without one: whole or not at all, one change at a time. */
import { chownSync, closeSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { tryLock } from "../../ffi/libc/flock.ts";

/** Another command's change takes milliseconds; one that was stopped must not stop us for ever. */
const LOCK_PATIENCE_MS = 10_000;
const LOCK_POLL_MS = 20;

/**
 * Replaces a file by what `change` makes, which reads it while nobody else changes it.
 * @throws Error, one line; the system's; what `change` throws: then nothing has changed
 */
export async function changeFile(path: string, change: () => string): Promise<void> {
  const lock = openOwned(`${path}.lock`);
  try {
    for (const deadline = performance.now() + LOCK_PATIENCE_MS; !tryLock(lock); await Bun.sleep(LOCK_POLL_MS)) {
      if (performance.now() > deadline) throw new Error(`${path}: another command has been changing it for a while; try again`);
    }
    writeWhole(path, change());
  } finally {
    closeSync(lock);
  }
}

/** The node may run as another user than the one who changes its files: what is made belongs to the owner of the folder. */
function openOwned(path: string): number {
  const fd = openSync(path, "a", 0o600);
  if (process.geteuid?.() === 0) {
    const { uid, gid } = statSync(dirname(path));
    chownSync(path, uid, gid);
  }
  return fd;
}

function writeWhole(path: string, text: string): void {
  const aside = `${path}.new`;
  rmSync(aside, { force: true });
  try {
    const fd = openOwned(aside);
    try {
      writeFileSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(aside, path);
  } catch (error) {
    rmSync(aside, { force: true });
    throw error;
  }
  const folder = openSync(dirname(path), "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
