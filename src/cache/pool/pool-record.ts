/** What pool.lock says about the process that holds it: for commands and for who comes after a crash. */
import { readFileSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

/** Its flock is what keeps a pool alive; its content is only information. */
export const LOCK_FILE = "pool.lock";
/** Rewritten in place (the inode is the lock) by one write of always this length, so that readers never see two mixed up. */
const RECORD_BYTES = 8_192;

const poolRecordSchema = z.object({
  pid: z.int().positive(),
  uid: z.int().nonnegative(),
  tenant: z.string(),
  cluster: z.string(),
  mode: z.enum(["pinned", "organic", "bypass"]),
  /** Whose: a mount's, or a staging daemon's, which hands it over. */
  kind: z.enum(["mount", "stage"]),
  mountpoint: z.string().nullable(),
  /** What was in it is being destroyed, or part of it is already: nobody may take it over. */
  wipe: z.object({ bytesDone: z.number(), bytesTotal: z.number() }).nullable(),
});
export type PoolRecord = z.infer<typeof poolRecordSchema>;

/** @param file the path of pool.lock, or a descriptor of it. Returns null where there is none, or nothing that can be understood. */
export function readPoolRecord(file: string | number): PoolRecord | null {
  try {
    const text = typeof file === "number" ? readAtStart(file) : readFileSync(file, "utf8");
    return poolRecordSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

export function writePoolRecord(fd: number, record: PoolRecord): void {
  const bytes = Buffer.alloc(RECORD_BYTES, " ");
  if (bytes.write(JSON.stringify(record)) === RECORD_BYTES) throw new RangeError(`mountpoint of ${record.mountpoint?.length} characters`);
  writeSync(fd, bytes, 0, RECORD_BYTES, 0);
}

export function lockPath(poolPath: string): string {
  return join(poolPath, LOCK_FILE);
}

function readAtStart(fd: number): string {
  const bytes = Buffer.alloc(RECORD_BYTES);
  return bytes.toString("utf8", 0, readSync(fd, bytes, 0, RECORD_BYTES, 0));
}
