/**
 * One process's disk cache: a folder that lives exactly as long as its lock is held.
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
import { closeSync, constants, mkdirSync, openSync, renameSync } from "node:fs";
import { join } from "node:path";
import { tryLock } from "../../ffi/libc/flock.ts";
import { PoolError } from "./cache-error.ts";
import { type CacheFolder, isStill, NEW_PREFIX } from "./cache-folder.ts";
import { lockPath, type PoolRecord, readPoolRecord, writePoolRecord } from "./pool-record.ts";
import { Space, type SpaceLimits } from "./space.ts";
import { type WipeProgress, type WipeReport, wipeContents, wipePool } from "./wipe.ts";

export const CHUNKS_FOLDER = "chunks";
export const FILES_FOLDER = "files";
export const STAGING_FOLDER = "staging";
const POOL_ID_BYTES = 16;
/** Chunks are spread over this many folders, by the first byte of their ids. */
const CHUNK_FOLDERS = 256;

/** A scrubber that only looks holds the lock for an instant: so long is tried again before a pool counts as in use. */
const LOCK_PATIENCE_MS = 250;
const LOCK_RETRY_MS = 5;

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
        for (const name of [CHUNKS_FOLDER, FILES_FOLDER, STAGING_FOLDER]) mkdirSync(join(aside, name), { mode: 0o700 });
        renameSync(aside, path);
        return fd;
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    });
    return Pool.#owned(folder, path, id, lockFd, record, limits);
  }

  /**
   * Takes a pool over whose owner has died.
   * @throws PoolError: not_found, in_use, not_yours
   */
  static async adopt(folder: CacheFolder, id: string, owner: PoolOwner, limits: SpaceLimits): Promise<Pool> {
    const path = folder.poolPath(owner.tenant, id);
    const place = folder.pools().find((pool) => pool.id === id);
    if (place === undefined) throw new PoolError("not_found", `no cache pool ${id} in ${folder.path}`);
    if (place.tenant !== owner.tenant) throw new PoolError("not_yours", `cache pool ${id} belongs to tenant ${place.tenant}`);
    const deadline = performance.now() + LOCK_PATIENCE_MS;
    for (;;) {
      const lockFd = lockIfFree(path);
      if (lockFd !== null) return Pool.#takeOver(folder, path, id, lockFd, owner, limits);
      if (performance.now() > deadline) throw new PoolError("in_use", `cache pool ${id} is in use${byWhom(path)}`);
      await Bun.sleep(LOCK_RETRY_MS);
    }
  }

  static #takeOver(folder: CacheFolder, path: string, id: string, lockFd: number, owner: PoolOwner, limits: SpaceLimits): Pool {
    try {
      const before = readPoolRecord(lockFd);
      if (before === null || before.wipe !== null) throw new PoolError("not_found", `cache pool ${id} is being deleted`);
      if (before.tenant !== owner.tenant || before.cluster !== owner.cluster) {
        throw new PoolError("not_yours", `cache pool ${id} belongs to tenant ${before.tenant} of cluster ${before.cluster}`);
      }
      const uid = process.geteuid?.() ?? 0;
      if (before.uid !== uid) throw new PoolError("not_yours", `cache pool ${id} belongs to user ${before.uid}`);
      const record: PoolRecord = { ...owner, pid: process.pid, uid, wipe: null };
      writePoolRecord(lockFd, record);
      return Pool.#owned(folder, path, id, lockFd, record, limits);
    } catch (error) {
      closeSync(lockFd);
      throw error;
    }
  }

  static #owned(folder: CacheFolder, path: string, id: string, lockFd: number, record: PoolRecord, limits: SpaceLimits): Pool {
    const pool = new Pool(folder, path, id, lockFd, record, limits);
    for (let prefix = 0; prefix < CHUNK_FOLDERS; prefix++) {
      mkdirSync(join(path, CHUNKS_FOLDER, prefix.toString(16).padStart(2, "0")), { recursive: true, mode: 0o700 });
    }
    return pool;
  }

  /** Where a chunk of its own file stands. @param idHex 64 lowercase hexadecimal digits */
  chunkPath(idHex: string): string {
    return `${this.path}/${CHUNKS_FOLDER}/${idHex.slice(0, 2)}/${idHex}`;
  }

  get filesPath(): string {
    return join(this.path, FILES_FOLDER);
  }

  get stagingPath(): string {
    return join(this.path, STAGING_FOLDER);
  }

  /**
   * Overwrites and deletes all chunks, images and manifests; the pool stays, empty. Nobody may be using a file in it.
   * Nothing is thrown for a file that can't be wiped: it is in the report.
   */
  async wipeContents(onProgress?: (progress: WipeProgress) => void): Promise<WipeReport> {
    if (this.#state !== "open") throw new Error(`wipeContents: the pool is ${this.#state}`);
    const report = await wipeContents(this.path, { bytesTotal: this.space.usedBytes, onProgress });
    this.space.restate(report.bytesLeft);
    return report;
  }

  /**
   * Hands the lock to who listens on the datagram socket of this name in the pool's folder. After that the pool is not this
   * process's any more: it must not touch it again. All use of it must have ended before.
   * @throws PoolError failed: nobody listens there; the pool is still this process's
   */
  async handOver(_socketName: string): Promise<void> {
    throw new Error("not there yet");
  }

  /** Ends the use of the pool. With `wipe`, all of it is overwritten and deleted. Nothing to do after a hand-over. */
  async close({ wipe, onProgress }: CloseOptions): Promise<WipeReport | null> {
    if (this.#state !== "open") return null;
    this.#state = "closing";
    this.space.close();
    try {
      if (!wipe) return null;
      return await wipePool(this.#folder, this.path, this.#lockFd, this.#record, { bytesTotal: this.space.usedBytes, onProgress });
    } finally {
      closeSync(this.#lockFd);
      this.#state = "closed";
    }
  }
}

/**
 * The descriptor of a pool's lock, if nobody else has it.
 * @throws PoolError not_found: the pool is gone
 */
export function lockIfFree(poolPath: string): number | null {
  const path = lockPath(poolPath);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } catch (error) {
    throw new PoolError("not_found", `${path}: ${(error as NodeJS.ErrnoException).code}`, { cause: error });
  }
  if (tryLock(fd) && isStill(fd, path)) return fd;
  const gone = !isStill(fd, path);
  closeSync(fd);
  if (gone) throw new PoolError("not_found", `${path}: was deleted`);
  return null;
}

function byWhom(poolPath: string): string {
  const record = readPoolRecord(lockPath(poolPath));
  if (record === null) return "";
  return record.kind === "stage" ? ` by the staging daemon ${record.pid}` : ` by process ${record.pid}, mounted on ${record.mountpoint}`;
}
