/**
 * The tenant's data keys, as the node keeps them (wrapped: worth nothing without the KEK), in a pool's `keys.json`: a mount that takes the
 * pool over while no node answers opens what is staged with them.
 */
import { closeSync, fdatasyncSync, fstatSync, openSync, readFileSync, renameSync, unlinkSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { WrappedKey } from "../../crypto/key-ring.ts";

const KEYS_FILE = "keys.json";

const keysSchema = z.object({ keys: z.array(z.object({ epoch: z.int().positive(), wrapped: z.base64() })) });

/** Replaces what is there, whole or not at all. @throws the system's error */
export function storeWrappedKeys(poolPath: string, keys: readonly WrappedKey[]): void {
  const path = join(poolPath, KEYS_FILE);
  const text = JSON.stringify({ keys: keys.map(({ epoch, wrapped }) => ({ epoch, wrapped: Buffer.from(wrapped).toString("base64") })) });
  writeFileSync(`${path}.new`, text, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** With the KEK they open whatever was kept of the tenant's data. @throws the system's error */
export function destroyWrappedKeys(poolPath: string): void {
  const path = join(poolPath, KEYS_FILE);
  let fd: number;
  try {
    fd = openSync(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  try {
    writeSync(fd, new Uint8Array(fstatSync(fd).size), 0, null, 0);
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
  unlinkSync(path);
}

/** null: there are none, or they can't be understood. */
export function readWrappedKeys(poolPath: string): WrappedKey[] | null {
  try {
    const { keys } = keysSchema.parse(JSON.parse(readFileSync(join(poolPath, KEYS_FILE), "utf8")));
    return keys.length === 0
      ? null
      : keys.map(({ epoch, wrapped }) => ({ epoch, wrapped: new Uint8Array(Buffer.from(wrapped, "base64")) }));
  } catch {
    return null;
  }
}
