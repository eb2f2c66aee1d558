/** Collects the chunks of a data folder that nothing refers to. The node must not run meanwhile. */
import { existsSync } from "node:fs";
import { CHUNK_PARTS } from "../protocol/limits.ts";
import type { GcReport } from "../protocol/messages.ts";
import { Collector, RETURN_PUT_MS } from "./collector.ts";
import { DataFolder } from "./data-folder.ts";
import { SqliteEngine } from "./engines/sqlite.ts";
import { NodeDatabase } from "./node-database.ts";
import { openTenants } from "./storage-node.ts";

const SILENT = { info: () => undefined, error: () => undefined };

/**
 * What the last hour has brought is kept as long as a client may come back to commit it. `onPart` is called for each of CHUNK_PARTS parts of each tenant.
 * @throws Error where the folder is no node's, or a node is running in it
 */
export async function gcDataFolder(dataDir: string, dryRun: boolean, onPart: (tenant: string, part: GcReport) => void): Promise<void> {
  const folder = new DataFolder(dataDir);
  if (!existsSync(folder.database)) throw new Error(`${dataDir}: not a storage node's data folder`);
  const database = new NodeDatabase(folder.database);
  const engine = new SqliteEngine(folder.tenants);
  try {
    const tenants = await openTenants(folder, engine, database.shreddedTenants);
    const now = Date.now();
    const returning = database.hasSessions
      ? { putFromMs: now - RETURN_PUT_MS, putToMs: Number.POSITIVE_INFINITY, untilMs: Number.POSITIVE_INFINITY }
      : null;
    const collector = new Collector(tenants, 0, returning, SILENT);
    for (const tenant of tenants.values()) {
      for (let part = 0; part < CHUNK_PARTS; part++) onPart(tenant.name, await collector.sweepPart(tenant, part, { graceMs: 0, dryRun }));
    }
  } finally {
    await engine.close();
    database.close();
  }
}
