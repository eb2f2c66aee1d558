/**
 * One process's disk cache: a folder that lives exactly as long as its lock is held. This folder has the life of pools: a cache_dir and a tenant
 * come in, a locked pool with room goes out; at the end, or after its owner's death, it is overwritten and deleted.
 *
 *     pool.lock      flock(2) by its owner for the owner's whole life; content: pool-record.ts
 *     reserved       how much of the disk it has: space.ts
 *     policy.json    keys.json    control.sock
 *     chunks/<2 hex>/<64 hex>    files/    staging/
 *
 * Who gets the lock of a pool owns it: its maker, before the pool can be seen (it is made as .new-<id> and renamed); who adopts it;
 * or, where its owner has died, a scrubber, which wipes it. The lock belongs to the open file description, so it can be handed
 * to another process without a moment in which nobody has it. A lock counts only when the path still names the locked file.
 *
 * The owner uses every file in it through its path, and stops doing so before close(): then all is overwritten with zeros and unlinked.
 */
import { randomBytes } from "node:crypto";
import { closeSync, constants, lstatSync, mkdirSync, openSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { tryLock } from "../../../ffi/libc/flock.ts";
import { PoolError } from "./cache-error.ts";
import { type CacheFolder, NEW_PREFIX } from "./cache-folder.ts";
import { lockIfFree, receiveLock, sendLock } from "./pool-lock.ts";
import { lockPath, type PoolRecord, readPoolRecord, writePoolRecord } from "./pool-record.ts";
import { Space, type SpaceLimits } from "./space.ts";
import { CONTENT_FOLDERS, type WipeProgress, type WipeReport, wipeContents, wipePool } from "./wipe.ts";

const POOL_ID_BYTES = 16;
/** Chunks are spread over this many folders, by the first byte of their ids. */
const CHUNK_FOLDERS = 256;

/** A scrubber that only looks holds the lock for an instant: so long is tried again before a pool counts as in use. */
const LOCK_PATIENCE_MS = 250;
const LOCK_RETRY_MS = 5;
/** The unit of st_blocks (stat(2)). */
const STAT_BLOCK_BYTES = 512;

/** Who has a pool: what is written into its lock file. */
export type PoolOwner = Pick<PoolRecord, "tenant" | "cluster" | "mode" | "kind" | "mountpoint">;

export interface CloseOptions {
  /** false: leave everything, for a test that stands for a crash. */
  readonly wipe: boolean;
  /** Told several times a second. */
  readonly onProgress?: ((progress: WipeProgress) => void) | undefined;
}

export class Pool {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly path: string;
  readonly space: Space;
  readonly #folder: CacheFolder;
  readonly #lockFd: number;
  #record: PoolRecord;
  #state: "open" | "closing" | "closed" | "handed over" = "open";

  private constructor(folder: CacheFolder, path: string, id: string, lockFd: number, record: PoolRecord, limits: SpaceLimits) {
    this.id = id;
    this.path = path;
    this.space = new Space(folder, path, limits);
    this.#folder = folder;
    this.#lockFd = lockFd;
    this.#record = record;
  }

  /**
   * A new, empty pool.
   * @throws CacheFolderError; a system error (ENOSPC, EROFS, ...)
   */
  static async create(folder: CacheFolder, owner: PoolOwner, limits: SpaceLimits): Promise<Pool> {
    const id = randomBytes(POOL_ID_BYTES).toString("hex");
    const tenantPath = folder.tenantPath(owner.tenant);
    const path = folder.poolPath(owner.tenant, id);
    const record: PoolRecord = { ...owner, pid: process.pid, uid: process.geteuid?.() ?? 0, wipe: null };
    const lockFd = await folder.withNodeLock(() => {
      const aside = join(tenantPath, `${NEW_PREFIX}${id}`);
      mkdirSync(tenantPath, { recursive: true, mode: 0o700 });
      mkdirSync(aside, { mode: 0o700 });
      const fd = openSync(lockPath(aside), constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
      try {
        if (!tryLock(fd)) throw new PoolError("in_use", `${aside}: locked by another process as it was made`);
        writePoolRecord(fd, record);
        for (const name of CONTENT_FOLDERS) mkdirSync(join(aside, name), { mode: 0o700 });
        renameSync(aside, path);
        return fd;
      } catch (error) {
        using tenant = folder.openTenant(owner.tenant);
        rmSync(tenant.at(`${NEW_PREFIX}${id}`), { recursive: true, force: true });
        closeSync(fd);
        throw error;
      }
    });
    try {
      return Pool.#owned(folder, path, id, lockFd, record, limits);
    } catch (error) {
      // Nothing was written into it yet.
      using tenant = folder.openTenant(owner.tenant);
      rmSync(tenant.at(id), { recursive: true, force: true });
      closeSync(lockFd);
      throw error;
    }
  }

  /**
   * Takes a pool over: one whose owner has died, or, with `askForIt`, one that a staging daemon holds. `askForIt` asks the daemon to hand
   * its lock to the socket of this name in the pool's folder (POST /handover on its control socket).
   * @throws PoolError: not_found, in_use, not_yours, failed; CacheFolderError
   */
  static async adopt(
    folder: CacheFolder,
    id: string,
    owner: PoolOwner,
    limits: SpaceLimits,
    askForIt?: (poolPath: string, socketName: string) => Promise<void>,
  ): Promise<Pool> {
    const path = folder.poolPath(owner.tenant, id);
    const place = folder.pools().find((pool) => pool.id === id);
    if (place === undefined) throw new PoolError("not_found", `no cache pool ${id} in ${folder.path}`);
    if (place.tenant !== owner.tenant) throw new PoolError("not_yours", `cache pool ${id} belongs to tenant ${place.tenant}`);
    const deadline = performance.now() + LOCK_PATIENCE_MS;
    for (;;) {
      const free = lockIfFree(path);
      if (free !== null) return Pool.#takeOver(folder, path, id, free, owner, limits);
      const holder = readPoolRecord(lockPath(path));
      if (holder !== null) checkOwner(id, holder, owner);
      if (holder?.kind === "stage" && holder.wipe === null && askForIt !== undefined) {
        const received = await receiveLock(
          path,
          (socketName) => askForIt(path, socketName),
          () => lockIfFree(path),
        );
        return Pool.#takeOver(folder, path, id, received, owner, limits);
      }
      if (performance.now() > deadline) throw new PoolError("in_use", `cache pool ${id} is in use${byWhom(holder)}`);
      await Bun.sleep(LOCK_RETRY_MS);
    }
  }

  static async #takeOver(
    folder: CacheFolder,
    path: string,
    id: string,
    lockFd: number,
    owner: PoolOwner,
    limits: SpaceLimits,
  ): Promise<Pool> {
    try {
      const before = readPoolRecord(lockFd);
      if (before === null) throw new PoolError("not_found", `cache pool ${id} is damaged: ${lockPath(path)} can't be understood`);
      checkOwner(id, before, owner);
      const record: PoolRecord = { ...owner, pid: process.pid, uid: before.uid, wipe: null };
      writePoolRecord(lockFd, record);
      const pool = Pool.#owned(folder, path, id, lockFd, record, limits);
      pool.space.restate(await bytesBelow(path));
      return pool;
    } catch (error) {
      closeSync(lockFd);
      throw error;
    }
  }

  static #owned(folder: CacheFolder, path: string, id: string, lockFd: number, record: PoolRecord, limits: SpaceLimits): Pool {
    const pool = new Pool(folder, path, id, lockFd, record, limits);
    for (let prefix = 0; prefix < CHUNK_FOLDERS; prefix++) {
      mkdirSync(join(path, "chunks", prefix.toString(16).padStart(2, "0")), { recursive: true, mode: 0o700 });
    }
    return pool;
  }

  /** Where a chunk of its own file stands. @param idHex 64 lowercase hexadecimal digits */
  chunkPath(idHex: string): string {
    return `${this.path}/chunks/${idHex.slice(0, 2)}/${idHex}`;
  }

  get chunksPath(): string {
    return join(this.path, "chunks");
  }

  get filesPath(): string {
    return join(this.path, "files");
  }

  get stagingPath(): string {
    return join(this.path, "staging");
  }

  /**
   * Overwrites and deletes all chunks, images and manifests; the pool stays, empty. Nobody may be using a file in it.
   * Nothing is thrown for a file that can't be wiped: it is in the report.
   */
  async wipeContents(onProgress?: (progress: WipeProgress) => void): Promise<WipeReport> {
    if (this.#state !== "open") throw new Error(`wipeContents: the pool is ${this.#state}`);
    using pool = this.#folder.openPool(this.#record.tenant, this.id);
    const report = await wipeContents(pool, { bytesTotal: this.space.usedBytes, onProgress });
    this.space.restate(report.bytesLeft);
    return report;
  }

  /**
   * Hands the lock to who listens on the datagram socket of this name in the pool's folder. After that the pool is not this
   * process's any more: it must not touch it again. All use of it must have ended before.
   * @throws PoolError failed: nobody listens there; the pool is still this process's
   */
  handOver(socketName: string): void {
    if (this.#state !== "open") throw new PoolError("failed", `cache pool ${this.id} can't be handed over: it is ${this.#state}`);
    this.space.trim();
    sendLock(this.path, socketName, this.#lockFd);
    this.#state = "handed over";
    this.space.close();
    closeSync(this.#lockFd);
  }

  /** Ends the use of the pool. With `wipe`, all of it is overwritten and deleted. Nothing to do after a hand-over. */
  async close({ wipe, onProgress }: CloseOptions): Promise<WipeReport | null> {
    if (this.#state !== "open") return null;
    this.#state = "closing";
    this.space.close();
    try {
      if (!wipe) return null;
      using pool = this.#folder.openPool(this.#record.tenant, this.id);
      return await wipePool(this.#folder, pool, this.#lockFd, this.#record, { bytesTotal: this.space.usedBytes, onProgress });
    } finally {
      closeSync(this.#lockFd);
      this.#state = "closed";
    }
  }
}

/** What the files below the content folders take up on the disk. */
async function bytesBelow(poolPath: string): Promise<number> {
  let bytes = 0;
  const folders = CONTENT_FOLDERS.map((name) => join(poolPath, name));
  for (let path = folders.pop(); path !== undefined; path = folders.pop()) {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const child = join(path, entry.name);
      if (entry.isDirectory()) folders.push(child);
      else bytes += (lstatSync(child, { throwIfNoEntry: false })?.blocks ?? 0) * STAT_BLOCK_BYTES;
    }
    await setImmediate();
  }
  return bytes;
}

/** @throws PoolError not_yours, not_found */
function checkOwner(id: string, holder: PoolRecord, owner: PoolOwner): void {
  if (holder.wipe !== null) throw new PoolError("not_found", `cache pool ${id} is being deleted`);
  if (holder.tenant !== owner.tenant || holder.cluster !== owner.cluster) {
    throw new PoolError("not_yours", `cache pool ${id} belongs to tenant ${holder.tenant} of cluster ${holder.cluster}`);
  }
  if (holder.uid !== process.geteuid?.()) throw new PoolError("not_yours", `cache pool ${id} belongs to user ${holder.uid}`);
}

function byWhom(holder: PoolRecord | null): string {
  if (holder === null) return "";
  return holder.kind === "stage" ? ` by the staging daemon ${holder.pid}` : ` by process ${holder.pid}, mounted on ${holder.mountpoint}`;
}
