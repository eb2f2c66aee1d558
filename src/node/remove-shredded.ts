/** What is left of shredded tenants on disk can't be opened by anybody: it goes when the node starts, beside its work. */
import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { DataFolder } from "./data-folder.ts";

export interface RemovalLogger {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Deletes the data of these tenants, one folder of chunks at a time; goes on at the next start where it was stopped. Never rejects. */
export async function removeShredded(
  folder: DataFolder,
  tenants: ReadonlySet<string>,
  stop: AbortSignal,
  logger: RemovalLogger,
): Promise<void> {
  for (const tenant of tenants) {
    const path = join(folder.tenants, tenant);
    if (!existsSync(path)) continue;
    try {
      const chunks = folder.chunks(tenant);
      const parts = existsSync(chunks) ? await readdir(chunks) : [];
      for (const part of [...parts.map((name) => join(chunks, name)), folder.aside(tenant), path]) {
        if (stop.aborted) return;
        await rm(part, { recursive: true, force: true });
      }
      logger.info({ tenant }, "data of a shredded tenant deleted");
    } catch (error) {
      logger.error({ tenant, err: error }, "deleting the data of a shredded tenant failed: the next start tries again");
    }
  }
}
