/** How DIR/policy.json is changed, beside a running node or without one: whole or not at all, one change at a time. */
import { chownSync, closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tryLock } from "../../ffi/libc/flock.ts";
import type { PolicyLevel } from "../protocol/policy.ts";
import { DataFolder } from "./data-folder.ts";
import { levelPath, type PolicyDocument, type PolicyScope } from "./policy-document.ts";
import { POLICY_FILE_MAX_BYTES, readPolicyDocument } from "./policy-store.ts";

/** Another command's change takes milliseconds; one that was stopped must not stop us for ever. */
const LOCK_PATIENCE_MS = 10_000;
const LOCK_POLL_MS = 20;

/** @throws Error, one line, when there is no node's data in the folder */
export function policyPathOf(dataDir: string): string {
  const folder = new DataFolder(dataDir);
  if (!existsSync(folder.database)) throw new Error(`${dataDir}: not a storage node's data folder`);
  return folder.policy;
}

/** The document with what one level says replaced; a level that says nothing has no entry. */
export function withLevel(document: PolicyDocument, scope: PolicyScope, level: PolicyLevel): PolicyDocument {
  const { [levelPath(scope)]: _, ...others } = document.levels;
  const said = Object.fromEntries(Object.entries(level).filter(([, value]) => value !== undefined)) as PolicyLevel;
  const levels = Object.keys(said).length === 0 ? others : { ...others, [levelPath(scope)]: said };
  return { ...document, levels: Object.fromEntries(Object.entries(levels).sort(([a], [b]) => (a < b ? -1 : 1))) };
}

/**
 * Replaces the document by what `change` makes of it.
 * @throws Error, one line; what `change` throws: then nothing has changed
 */
export async function changePolicyFile(dataDir: string, change: (document: PolicyDocument) => PolicyDocument): Promise<void> {
  const path = policyPathOf(dataDir);
  const lock = openOwned(`${path}.lock`, dataDir);
  try {
    for (const deadline = performance.now() + LOCK_PATIENCE_MS; !tryLock(lock); await Bun.sleep(LOCK_POLL_MS)) {
      if (performance.now() > deadline) throw new Error(`${path}: another command has been changing it for a while; try again`);
    }
    const text = `${JSON.stringify(change(readPolicyDocument(path)), null, 2)}\n`;
    if (Buffer.byteLength(text) > POLICY_FILE_MAX_BYTES) {
      throw new Error(`${path}: would become larger than ${POLICY_FILE_MAX_BYTES} bytes; unset what is not needed any more`);
    }
    writeWhole(path, text, dataDir);
  } finally {
    closeSync(lock);
  }
}

/** The node may run as another user than the one who changes its policy: what is made belongs to the owner of the folder. */
function openOwned(path: string, dataDir: string): number {
  const fd = openSync(path, "a", 0o600);
  if (process.geteuid?.() === 0) {
    const { uid, gid } = statSync(dataDir);
    chownSync(path, uid, gid);
  }
  return fd;
}

function writeWhole(path: string, text: string, dataDir: string): void {
  const aside = `${path}.new`;
  rmSync(aside, { force: true });
  try {
    const fd = openOwned(aside, dataDir);
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
  const folder = openSync(dataDir, "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
