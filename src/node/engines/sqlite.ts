/** The embedded metadata engine: one SQLite file a namespace, DIR/tenants/<tenant>/<namespace>/shard.db. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { NodeError } from "../../protocol/errors.ts";
import { NAMESPACE_NAME_PATTERN, TENANT_NAME_PATTERN } from "../../protocol/limits.ts";
import type { MetadataEngine } from "./engine.ts";
import { syncFolder } from "./file-sync.ts";
import { toNodeError } from "./sqlite-errors.ts";
import { SqliteShard } from "./sqlite-shard.ts";

const SHARD_FILE = "shard.db";
const NAMESPACES_FOLDER = "namespaces";
/** No namespace's name begins with a dot. */
const DELETED_PREFIX = ".deleted-";

/** Makes a folder with its parents; those that are new survive power loss. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  mkdirSync(path, { mode: 0o700 });
  syncFolder(dirname(path));
}

export class SqliteEngine implements MetadataEngine {
  readonly #root: string;
  readonly #open = new Map<string, SqliteShard>();

  /** `tenantsFolder`: DIR/tenants. */
  constructor(tenantsFolder: string) {
    this.#root = tenantsFolder;
  }

  #folder(tenant: string, namespace?: string): string {
    // Names become paths here: this is the last line of defence, whatever was checked before.
    if (!TENANT_NAME_PATTERN.test(tenant)) throw new NodeError("bad_request", "not a tenant name");
    if (namespace === undefined) return join(this.#root, tenant, NAMESPACES_FOLDER);
    if (!NAMESPACE_NAME_PATTERN.test(namespace)) throw new NodeError("bad_request", "not a namespace name");
    return join(this.#root, tenant, NAMESPACES_FOLDER, namespace);
  }

  list(tenant: string): string[] {
    const folder = this.#folder(tenant);
    if (!existsSync(folder)) return [];
    return readdirSync(folder)
      .filter((name) => NAMESPACE_NAME_PATTERN.test(name) && existsSync(join(folder, name, SHARD_FILE)))
      .sort();
  }

  /** Removes what a crash has left of deleted namespaces. */
  cleanUp(tenant: string): void {
    const folder = this.#folder(tenant);
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
      if (name.startsWith(DELETED_PREFIX)) rmSync(join(folder, name), { recursive: true, force: true });
    }
  }

  async open(tenant: string, namespace: string): Promise<SqliteShard> {
    const folder = this.#folder(tenant, namespace);
    const known = this.#open.get(folder);
    if (known !== undefined) return known;
    try {
      makeFolder(folder);
    } catch (error) {
      throw toNodeError(error);
    }
    const shard = new SqliteShard(join(folder, SHARD_FILE));
    this.#open.set(folder, shard);
    return shard;
  }

  async delete(tenant: string, namespace: string): Promise<void> {
    const folder = this.#folder(tenant, namespace);
    await this.#open.get(folder)?.close();
    this.#open.delete(folder);
    if (!existsSync(folder)) return;
    try {
      // A name that is no namespace name: gone for list() at once, whatever becomes of the rest.
      const aside = join(dirname(folder), `${DELETED_PREFIX}${namespace}-${Date.now()}`);
      renameSync(folder, aside);
      syncFolder(dirname(folder));
      rmSync(aside, { recursive: true, force: true });
    } catch (error) {
      throw toNodeError(error);
    }
  }

  async close(): Promise<void> {
    for (const shard of this.#open.values()) await shard.close();
    this.#open.clear();
  }
}
