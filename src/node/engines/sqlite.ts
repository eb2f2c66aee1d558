/** The embedded metadata engine: one SQLite file a namespace, DIR/tenants/<tenant>/<namespace>/shard.db. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { NodeError } from "../../protocol/errors.ts";
import { NAMESPACE_NAME_PATTERN, TENANT_NAME_PATTERN } from "../../protocol/limits.ts";
import type { Lane } from "../../transport/lanes.ts";
import type { MetadataEngine, Shard } from "./engine.ts";
import { syncFolder } from "./file-sync.ts";
import { LazyShard, OpenShards } from "./lazy-shard.ts";
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

/** How many shards are open at a time where nobody says otherwise. */
const OPEN_SHARDS_DEFAULT = 128;
/** Descriptors of an open shard: database, WAL, two journal files, and one to sync with. */
export const DESCRIPTORS_PER_SHARD = 5;

export interface SqliteEngineOptions {
  readonly openShardsMax?: number | undefined;
  /** In which a tenant's deltas are applied; without it they are at once. */
  readonly lane?: (tenant: string) => Lane;
  /** Told once of each record that fails its checksum when it is read. */
  readonly onDamaged?: (tenant: string, namespace: string, record: string) => void;
  /** A shard was opened for the first time in this run. */
  readonly onFirstOpen?: (tenant: string, namespace: string, shard: Shard, recoveredSeq: number) => void;
}

export class SqliteEngine implements MetadataEngine {
  readonly #root: string;
  readonly #shards = new Map<string, LazyShard>();
  readonly #openShards: OpenShards;
  readonly #options: SqliteEngineOptions;

  /** `tenantsFolder`: DIR/tenants. */
  constructor(tenantsFolder: string, options: SqliteEngineOptions = {}) {
    this.#root = tenantsFolder;
    this.#options = options;
    this.#openShards = new OpenShards(options.openShardsMax ?? OPEN_SHARDS_DEFAULT);
  }

  /** Shards that are open now. */
  get openCount(): number {
    return this.#openShards.count;
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

  async open(tenant: string, namespace: string): Promise<Shard> {
    const folder = this.#folder(tenant, namespace);
    const known = this.#shards.get(folder);
    if (known !== undefined) return known;
    const file = join(folder, SHARD_FILE);
    const shard = new LazyShard(
      this.#openShards,
      () => new SqliteShard(file, this.#options.lane?.(tenant), (record) => this.#options.onDamaged?.(tenant, namespace, record)),
      (opened, recoveredSeq) => this.#options.onFirstOpen?.(tenant, namespace, opened, recoveredSeq),
      this.#options.lane?.(tenant),
    );
    if (!existsSync(file)) {
      try {
        makeFolder(folder);
      } catch (error) {
        throw toNodeError(error);
      }
      // A new one is there, on disk, when this returns.
      await shard.usage();
    }
    this.#shards.set(folder, shard);
    return shard;
  }

  async delete(tenant: string, namespace: string): Promise<void> {
    const folder = this.#folder(tenant, namespace);
    await this.#shards.get(folder)?.end();
    this.#shards.delete(folder);
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
    const shards = [...this.#shards.values()];
    this.#shards.clear();
    for (const shard of shards) await shard.end();
    this.#openShards.close();
  }
}
