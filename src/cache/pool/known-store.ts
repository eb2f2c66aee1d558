/**
 * What the client that has a pool knows of the storage node's data, in the pool's `store.json`: so that a mount that takes the pool over is not
 * taken in by a node whose data has gone back since, or by another one.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const STORE_FILE = "store.json";

const hexId = z.string().regex(/^[0-9a-f]{32}$/);
const schema = z.object({
  instance: hexId,
  startId: hexId,
  start: z.int().nonnegative(),
  durable: z.record(z.string(), z.int().positive()),
  ids: z.record(z.string(), z.string().regex(/^[0-9a-f]{16}$/)),
});

/** Byte strings in hexadecimal; by namespace, the newest delta that is known to be durable, and the id. */
export type KnownStoreFile = z.infer<typeof schema>;

/** Replaces what is there, whole or not at all. @throws the system's error */
export function storeKnownStore(poolPath: string, known: KnownStoreFile): void {
  const path = join(poolPath, STORE_FILE);
  writeFileSync(`${path}.new`, JSON.stringify(known), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** null: there is none, or it can't be understood. */
export function readKnownStore(poolPath: string): KnownStoreFile | null {
  try {
    return schema.parse(JSON.parse(readFileSync(join(poolPath, STORE_FILE), "utf8")));
  } catch {
    return null;
  }
}
