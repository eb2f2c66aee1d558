/**
 * Scrubbing: destroys what processes that died have left in a cache folder, of all tenants, and never touches a pool that somebody
 * holds. Any number may run at once, beside processes that make, adopt and hand over pools.
 *
 * A pool is dead when its lock can be had, and who has the lock owns it: so a pool is wiped by one scrubber only, can't be adopted
 * meanwhile, and is dead again, to be wiped on by the next scrub, when the scrubber dies.
 */
import { closeSync, constants, existsSync, openSync, rmdirSync, rmSync } from "node:fs";
import { basename } from "node:path";
import { tryLock } from "../../../ffi/libc/flock.ts";
import { PoolError } from "./cache-error.ts";
import type { CacheFolder, PoolPlace } from "./cache-folder.ts";
import type { FolderHandle } from "./folder-handle.ts";
import { lockIfFree } from "./pool-lock.ts";
import { lockPath, type PoolRecord, readPoolRecord } from "./pool-record.ts";
import { readReserved } from "./space.ts";
import { type WipeProgress, wipePool } from "./wipe.ts";
import type { ZeroizeFault } from "./zeroize.ts";

/** What a scrub found or did. live: somebody holds it, or is wiping it. dead: a dry run left it. */
export type ScrubState = "live" | "dead" | "wiped" | "failed";

export interface ScrubbedPool {
  readonly tenant: string;
  readonly id: string;
  readonly state: ScrubState;
  /** The process that has, or had, the pool; null: not known. */
  readonly pid: number | null;
  /** Wiped: deleted. */
  readonly files: number;
  /** On the disk: wiped, or, of others, reserved. */
  readonly bytes: number;
  /** Of a failed one. */
  readonly faults: readonly ZeroizeFault[];
}

export interface ScrubOptions {
  /** Only look. */
  readonly dryRun?: boolean | undefined;
  readonly onProgress?: ((pool: PoolPlace, progress: WipeProgress) => void) | undefined;
  /** Called with the record of a dead pool before it is wiped. */
  readonly beforeWipe?: ((dead: PoolRecord) => Promise<void>) | undefined;
  /** Told as each pool is done. */
  readonly onPool?: ((pool: ScrubbedPool) => void) | undefined;
}

/** For what scrubs: a pool that was lost with its lock file has no other record. */
function unknownOwner(tenant: string): PoolRecord {
  return {
    pid: process.pid,
    uid: process.geteuid?.() ?? 0,
    tenant,
    cluster: "",
    mode: "organic",
    kind: "mount",
    mountpoint: null,
    wipe: null,
  };
}

/**
 * Wipes all dead pools of the folder. Never rejects for one pool: see its state.
 * @throws CacheFolderError: node.lock can't be had; a system error: the folder can't be read
 */
export async function scrub(folder: CacheFolder, options: ScrubOptions = {}): Promise<ScrubbedPool[]> {
  if (options.dryRun !== true) await folder.withNodeLock(() => removeUnfinished(folder));
  const found: ScrubbedPool[] = [];
  for (const place of folder.pools()) {
    const pool = await scrubPool(folder, place, options);
    if (pool === null) continue;
    found.push(pool);
    options.onPool?.(pool);
  }
  return found;
}

/** Under node.lock nobody is making a pool: what looks so was left by who died. Nothing was ever written into it. */
function removeUnfinished(folder: CacheFolder): void {
  for (const { tenant, path } of folder.unfinished()) {
    using pools = folder.openTenant(tenant);
    rmSync(pools.at(basename(path)), { recursive: true, force: true });
  }
  for (const tenant of folder.tenants()) {
    try {
      rmdirSync(folder.handle.at(tenant));
    } catch {
      // It has pools.
    }
  }
}

/** null: it was gone before it could be looked at. */
async function scrubPool(folder: CacheFolder, place: PoolPlace, options: ScrubOptions): Promise<ScrubbedPool | null> {
  const { tenant, id, path } = place;
  const reserved = readReserved(path).reservedBytes;
  const seen = { tenant, id, files: 0, bytes: reserved, faults: [] };
  let lockFd: number | null = null;
  try {
    using pool = folder.openPool(tenant, id);
    // Without a lock file nobody can have it: see takeDead.
    if (options.dryRun === true && !existsSync(lockPath(pool.self))) return { ...seen, state: "dead", pid: null };
    lockFd = await takeDead(folder, pool);
    const pid = readPoolRecord(lockPath(pool.self))?.pid ?? null;
    if (lockFd === null) return { ...seen, state: "live", pid };
    if (options.dryRun === true) return { ...seen, state: "dead", pid };
    const record = readPoolRecord(lockFd) ?? unknownOwner(tenant);
    await options.beforeWipe?.(record);
    const onProgress = (progress: WipeProgress) => options.onProgress?.(place, progress);
    const report = await wipePool(folder, pool, lockFd, { ...record, tenant }, { bytesTotal: reserved, onProgress });
    const { files, bytes, faults } = report;
    return { tenant, id, state: report.failed === 0 ? "wiped" : "failed", pid, files, bytes, faults };
  } catch (error) {
    const isGone = error instanceof PoolError ? error.code === "not_found" : (error as NodeJS.ErrnoException).code === "ENOENT";
    if (isGone) return null;
    return { ...seen, state: "failed", pid: null, faults: [{ path, reason: (error as Error).message }] };
  } finally {
    if (lockFd !== null) closeSync(lockFd);
  }
}

/** The lock of a dead pool; null: somebody has it. @throws PoolError not_found: it is gone */
async function takeDead(folder: CacheFolder, pool: FolderHandle): Promise<number | null> {
  const path = lockPath(pool.self);
  if (existsSync(path)) return lockIfFree(pool.self);
  // Pools get their lock before they get their name, and lose both under node.lock: somebody has deleted this one's lock file.
  return folder.withNodeLock(() => {
    if (pool.isGone) throw new PoolError("not_found", `${pool.path}: is gone`);
    if (existsSync(path)) return lockIfFree(pool.self);
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    if (tryLock(fd)) return fd;
    closeSync(fd);
    return null;
  });
}
