/**
 * The folder that holds the disk caches (pools) of one user's processes on one machine:
 *
 *     <cache_dir>/                 0700
 *         node.lock                held for milliseconds: while pools are made, and while space is shared out
 *         <tenant>/.new-<id>/      a pool that is being made; only ever seen by who holds node.lock
 *         <tenant>/<id>/           a pool: see pool.ts
 *
 * Everything in it is plaintext, so it is refused unless it is this user's alone.
 */
import { closeSync, constants, fstatSync, lstatSync, mkdirSync, openSync, readdirSync, realpathSync, type Stats, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { tryLock } from "../../../ffi/libc/flock.ts";
import { mountOf } from "../../process/mountinfo.ts";
import { TENANT_NAME_PATTERN } from "../../protocol/limits.ts";
import { CacheFolderError } from "./cache-error.ts";
import { FolderHandle } from "./folder-handle.ts";

const NODE_LOCK = "node.lock";
/** A pool that is being made. */
export const NEW_PREFIX = ".new-";
const POOL_ID_PATTERN = /^[0-9a-f]{32}$/;

const GROUP_OR_OTHERS_WRITE = 0o022;
const STICKY = 0o1000;
/** What a user can do about a folder that is refused. */
const WAY_OUT = "use a folder of your own with mode 0700 (-o cache_dir=DIR)";
/** Type of kiseki's mounts in mountinfo. */
const KISEKI_MOUNT = "fuse.kiseki";

/** node.lock is looked at again after this long, twice as long each time up to the second one. */
const LOCK_RETRY_MS = 1;
const LOCK_RETRY_MAX_MS = 16;
/** Its holders need milliseconds: one that is stopped (SIGSTOP) must not hang all others for ever. */
const LOCK_TIMEOUT_MS = 10_000;

/** The folder of a pool, whether anybody holds it or not. */
export interface PoolPlace {
  readonly tenant: string;
  readonly id: string;
  readonly path: string;
}

export class CacheFolder {
  /** Absolute, without symbolic links. */
  readonly path: string;
  /** Kept until the process ends: what is wiped is wiped in this folder, and in none that has come to have its name. */
  readonly handle: FolderHandle;

  private constructor(path: string, handle: FolderHandle) {
    this.path = path;
    this.handle = handle;
  }

  /**
   * Makes the folder if need be (0700, with its parents), and checks that nobody else can change what is in it.
   * @throws CacheFolderError: why not
   */
  static open(path: string): CacheFolder {
    requireOutsideMounts(resolve(path));
    try {
      mkdirSync(resolve(path), { recursive: true, mode: 0o700 });
    } catch (error) {
      // EEXIST: what is there instead of a folder is said below.
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw unusable(path, error);
    }
    const folder = CacheFolder.openExisting(path);
    if (folder === null) throw new CacheFolderError(`cache_dir ${path}: was removed at this moment`);
    return folder;
  }

  /**
   * The folder if there is one, else null. Makes nothing.
   * @throws CacheFolderError: it is not this user's alone
   */
  static openExisting(path: string): CacheFolder | null {
    const absolute = resolve(path);
    const refused = (reason: string) => new CacheFolderError(`cache_dir ${absolute}: ${reason}; ${WAY_OUT}`);
    requireOutsideMounts(absolute);
    try {
      if (lstatSync(absolute).isSymbolicLink()) throw refused("is a symbolic link");
      const real = join(realpathSync(dirname(absolute)), basename(absolute));
      requireOutsideMounts(real);
      const handle = FolderHandle.open(real);
      try {
        const stat = handle.stat();
        if (stat.uid !== process.geteuid?.()) throw refused(`belongs to user ${stat.uid}, not to user ${process.geteuid?.()}`);
        if ((stat.mode & GROUP_OR_OTHERS_WRITE) !== 0) throw refused(`others can write into it (${modeText(stat)})`);
        const swapped = swappableParent(real);
        if (swapped !== null) throw refused(`others can replace it: ${swapped}`);
        return new CacheFolder(real, handle);
      } catch (error) {
        handle.close();
        throw error;
      }
    } catch (error) {
      if (error instanceof CacheFolderError) throw error;
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return null;
      if (code === "ENOTDIR") throw refused("is not a folder");
      throw unusable(absolute, error);
    }
  }

  /**
   * The folder of a pool, for who is to clear it.
   * @throws CacheFolderError: it, or its tenant's, is not this user's, or on another filesystem; a system error: ENOENT, ENOTDIR, ...
   */
  openPool(tenant: string, id: string): FolderHandle {
    using folder = this.openTenant(tenant);
    return folder.child(id);
  }

  /** @throws as openPool */
  openTenant(tenant: string): FolderHandle {
    return this.handle.child(tenant);
  }

  /** @throws RangeError: not a tenant's name */
  tenantPath(tenant: string): string {
    if (!TENANT_NAME_PATTERN.test(tenant)) throw new RangeError(`not a tenant's name: ${tenant}`);
    return join(this.path, tenant);
  }

  /** @throws RangeError: not a pool id (32 hexadecimal digits), or not a tenant's name */
  poolPath(tenant: string, id: string): string {
    if (!POOL_ID_PATTERN.test(id)) throw new RangeError(`not a pool id: ${id}`);
    return join(this.tenantPath(tenant), id);
  }

  /** The names of the tenants' folders. */
  tenants(): string[] {
    return foldersIn(this.handle.self).filter((name) => TENANT_NAME_PATTERN.test(name));
  }

  /** The pools of all tenants, living and dead. */
  pools(): PoolPlace[] {
    return this.#places(POOL_ID_PATTERN);
  }

  /** What is left of pools whose maker died. True only while node.lock is held: else one of them may be on its way. */
  unfinished(): PoolPlace[] {
    return this.#places(/^\.new-[0-9a-f]{32}$/);
  }

  #places(pattern: RegExp): PoolPlace[] {
    return this.tenants().flatMap((tenant) => {
      const folder = join(this.path, tenant);
      return foldersIn(this.handle.at(tenant))
        .filter((name) => pattern.test(name))
        .map((id) => ({ tenant, id, path: join(folder, id) }));
    });
  }

  /**
   * Runs `work` while node.lock is held. `work` takes milliseconds and does not wait.
   * @throws CacheFolderError: somebody has held the lock for 10 s; what `work` throws
   */
  async withNodeLock<T>(work: () => T): Promise<T> {
    const deadline = performance.now() + LOCK_TIMEOUT_MS;
    for (let pauseMs = LOCK_RETRY_MS; ; pauseMs = Math.min(pauseMs * 2, LOCK_RETRY_MAX_MS)) {
      const done = this.tryWithNodeLock(work);
      if (done !== null) return done.result;
      if (performance.now() > deadline) {
        throw new CacheFolderError(`${join(this.path, NODE_LOCK)}: another process holds it for more than 10 s; see: fuser -v on it`);
      }
      await Bun.sleep(pauseMs * (0.5 + Math.random()));
    }
  }

  /** Runs `work` now, or returns null where another process holds node.lock. */
  tryWithNodeLock<T>(work: () => T): { readonly result: T } | null {
    const path = this.handle.at(NODE_LOCK);
    for (;;) {
      const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
      try {
        if (!tryLock(fd)) return null;
        if (!isStill(fd, path)) continue;
        return { result: work() };
      } finally {
        closeSync(fd);
      }
    }
  }
}

/** Why others than this user and root can put another folder in the place of one above `path`; null: they can't. */
function swappableParent(path: string): string | null {
  for (let parent = dirname(path); ; parent = dirname(parent)) {
    const { mode, uid } = statSync(parent);
    if (uid !== 0 && uid !== process.geteuid?.()) return `${parent} belongs to user ${uid}`;
    // In a sticky folder only the owner of an entry can.
    if ((mode & GROUP_OR_OTHERS_WRITE) !== 0 && (mode & STICKY) === 0) return `${parent} is writable for others and not sticky`;
    if (parent === dirname(parent)) return null;
  }
}

/** A mount that waited for a mount's cache, be it its own, could wait for itself. @throws CacheFolderError */
function requireOutsideMounts(path: string): void {
  const mount = mountOf(path);
  if (mount?.type !== KISEKI_MOUNT) return;
  throw new CacheFolderError(`cache_dir ${path}: lies inside the kiseki mount ${mount.mountpoint}; use a folder on a local disk`);
}

/** Whether `path` still names the file that `fd` is: a lock on a file that was unlinked protects nothing. */
export function isStill(fd: number, path: string): boolean {
  const held = fstatSync(fd, { bigint: true });
  const named = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return named !== undefined && named.ino === held.ino && named.dev === held.dev;
}

/** Names of the folders in a folder; none where it is gone. */
function foldersIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

function modeText(stat: Stats): string {
  return `mode 0${(stat.mode & 0o7777).toString(8)}`;
}

function unusable(path: string, error: unknown): CacheFolderError {
  return new CacheFolderError(`cache_dir ${path}: ${(error as Error).message.replace(/^E[A-Z0-9]+: /, "")}`, { cause: error });
}
