/** The disk cache's folder of a mount or staging daemon: a new one, or one that is taken over. */
import { join } from "node:path";
import { ControlClient } from "../cache/control/client.ts";
import { CONTROL_SOCKET } from "../cache/control/control.ts";
import type { CacheSettings } from "../cache/policy.ts";
import { PoolError } from "../cache/pool/cache-error.ts";
import { CacheFolder } from "../cache/pool/cache-folder.ts";
import { Pool, type PoolOwner } from "../cache/pool/pool.ts";
import type { SpaceLimits } from "../cache/pool/space.ts";
import { logWipe } from "../cache/pool/wipe.ts";
import type { ClientConfig } from "../config/mount-config.ts";
import type { Credentials } from "../crypto/credentials.ts";
import type { Logger } from "../log.ts";
import { type EffectivePolicy, nodeCacheLimitBytes } from "../protocol/policy.ts";
import { scrubInBackground } from "./background-scrub.ts";

/** Whose it will be. */
export interface PoolUser {
  readonly kind: "mount" | "stage";
  readonly mountpoint: string | null;
}

export interface PoolJob {
  readonly config: Pick<ClientConfig, "cacheDir" | "cachePoolId">;
  readonly credentials: Pick<Credentials, "tenant" | "cluster">;
  readonly settings: Pick<CacheSettings, "cacheMode" | "cacheL2MaxBytes">;
  readonly policy: EffectivePolicy;
  readonly log: Logger;
}

/**
 * The folder of the pool that is to be taken over; null: none is.
 * @throws CacheFolderError: cache_dir is not this user's alone
 */
export function adoptedPoolPath({ config, credentials }: Pick<PoolJob, "config" | "credentials">): string | null {
  const { cacheDir, cachePoolId: id } = config;
  return id === null ? null : CacheFolder.open(cacheDir).poolPath(credentials.tenant, id);
}

/**
 * null: nothing is to be kept on disk, or nothing can be.
 * @throws CacheFolderError: cache_dir is not this user's alone; PoolError: the pool that was asked for can't be had
 */
export async function openPool(
  { config, credentials, settings, policy, log }: PoolJob,
  { kind, mountpoint }: PoolUser,
): Promise<Pool | null> {
  const { cachePoolId: id } = config;
  const { cacheMode: mode, cacheL2MaxBytes: maxBytes } = settings;
  if (mode === "bypass" || maxBytes === 0) {
    if (id !== null)
      throw new PoolError("failed", `cache pool ${id} can't be used: ${mode === "bypass" ? "the mode is bypass" : "cache_l2_max is 0"}`);
    return null;
  }
  const folder = CacheFolder.open(config.cacheDir);
  const owner: PoolOwner = { tenant: credentials.tenant, cluster: credentials.cluster, mode, kind, mountpoint };
  const limits: SpaceLimits = { maxBytes, nodeLimitBytes: (filesystemBytes) => nodeCacheLimitBytes(policy, filesystemBytes) };
  try {
    const pool = await (id === null ? Pool.create(folder, owner, limits) : Pool.adopt(folder, id, owner, limits, askForPool));
    // Not before: a pool that is to be taken over from a dead process would be wiped.
    void scrubInBackground(folder, log);
    return pool;
  } catch (error) {
    if (id !== null || !(error instanceof Error && "errno" in error)) throw error;
    // A full or failing disk: the cache is only there to be faster.
    log.warn({ err: error }, `${config.cacheDir}: no disk cache can be made here; nothing is kept on disk`);
    return null;
  }
}

/** The tenant of the pool that was to be taken over is no more: neither is the pool. What can't be done is left to the scrubber. */
export async function destroyPool({ config, credentials, log }: Pick<PoolJob, "config" | "credentials" | "log">): Promise<void> {
  if (config.cachePoolId === null) return;
  try {
    const { tenant, cluster } = credentials;
    const owner: PoolOwner = { tenant, cluster, mode: "organic", kind: "mount", mountpoint: null };
    const pool = await Pool.adopt(
      CacheFolder.open(config.cacheDir),
      config.cachePoolId,
      owner,
      { maxBytes: 0, nodeLimitBytes: () => 0 },
      askForPool,
    );
    await closePool(pool, log);
  } catch (error) {
    log.warn({ err: error }, `cache pool ${config.cachePoolId} of a tenant that was shredded could not be deleted`);
  }
}

/** Overwrites and deletes a pool that is used no more. The log is told how far that is, and of what could not be deleted. Never rejects. */
export async function closePool(pool: Pool, log: Logger): Promise<void> {
  try {
    const report = await pool.close({ wipe: true, onProgress: logWipe(log, "wiping the disk cache") });
    if (report === null) return;
    const { files, bytes, failed, faults } = report;
    if (failed === 0) log.info({ pool: pool.id, files, bytes }, "the disk cache is wiped");
    else log.error({ pool: pool.id, failed, faults }, `${failed} files of the disk cache could not be wiped: kiseki scrub will try again`);
  } catch (error) {
    log.error({ err: error, pool: pool.id }, "the disk cache could not be wiped: kiseki scrub will try again");
  }
}

/** Has a staging daemon hand its pool to who listens on the socket of this name in the pool's folder. */
async function askForPool(poolPath: string, socketName: string): Promise<void> {
  await new ControlClient(join(poolPath, CONTROL_SOCKET)).handOver(socketName);
}
