/** Reads every record and every chunk of a data folder and reports what is damaged. The node must not run meanwhile. */
import { existsSync } from "node:fs";
import { CHUNK_PARTS } from "../protocol/limits.ts";
import { DataFolder } from "./data-folder.ts";
import { chunkName } from "./engines/chunk-list.ts";
import { SqliteEngine } from "./engines/sqlite.ts";
import { NodeDatabase } from "./node-database.ts";
import { openTenants } from "./storage-node.ts";
import type { Tenant } from "./tenant.ts";

export interface VerifyReport {
  namespaces: number;
  chunks: number;
  damages: number;
  /** Chunks that no record refers to: uploads under way, or left for the collector. */
  unreferenced: number;
}

/**
 * One call of `onDamage` for each damage, with the ids that it concerns.
 * @throws Error where the folder is no node's, or a node is running in it
 */
export async function verifyDataFolder(dataDir: string, onDamage: (line: string) => void): Promise<VerifyReport> {
  const folder = new DataFolder(dataDir);
  if (!existsSync(folder.database)) throw new Error(`${dataDir}: not a storage node's data folder`);
  const database = new NodeDatabase(folder.database);
  const engine = new SqliteEngine(folder.tenants);
  try {
    const report: VerifyReport = { namespaces: 0, chunks: 0, damages: 0, unreferenced: 0 };
    for (const tenant of (await openTenants(folder, engine, database.shreddedTenants)).values()) {
      await verifyTenant(tenant, report, (line) => {
        report.damages++;
        onDamage(`tenant ${tenant.name}: ${line}`);
      });
    }
    return report;
  } finally {
    await engine.close();
    database.close();
  }
}

async function verifyTenant(tenant: Tenant, report: VerifyReport, onDamage: (line: string) => void): Promise<void> {
  const referred = new Map<string, Uint8Array>();
  for (const { name, shard } of tenant.namespaces()) {
    report.namespaces++;
    for await (const line of shard.verify((id) => referred.set(chunkName(id), id))) onDamage(`namespace ${name}: ${line}`);
  }
  for (let part = 0; part < CHUNK_PARTS; part++) {
    for (const { id } of await tenant.chunks.listPart(part)) {
      report.chunks++;
      if (!referred.delete(chunkName(id))) report.unreferenced++;
      const damage = await tenant.chunks.verify(id);
      if (damage !== null) onDamage(damage);
    }
  }
  for (const id of referred.values()) onDamage(`chunk ${id.toHex()} is missing, and a record refers to it`);
}
