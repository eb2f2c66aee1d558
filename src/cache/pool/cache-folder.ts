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
import { TENANT_NAME_PATTERN } from "../../protocol/limits.ts";
import { CacheFolderError } from "./cache-error.ts";

const NODE_LOCK = "node.lock";
/** A pool that is being made. */
export const NEW_PREFIX = ".new-";
const POOL_ID_PATTERN = /^[0-9a-f]{32}$/;

const GROUP_OR_OTHERS_WRITE = 0o022;
const OTHERS_WRITE = 0o002;
const STICKY = 0o1000;

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

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Makes the folder if need be (0700, with its parents), and checks that nobody else can change what is in it.
   * @throws CacheFolderError: why not
   */
  static open(path: string): CacheFolder {
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
    try {
      const stat = lstatSync(absolute);
      const refused = (reason: string) => new CacheFolderError(`cache_dir ${absolute}: ${reason}; use a folder of your own with mode 0700`);
      if (stat.isSymbolicLink()) throw refused("is a symbolic link");
      if (!stat.isDirectory()) throw refused("is not a folder");
      if (stat.uid !== process.geteuid?.()) throw refused(`belongs to user ${stat.uid}, not to user ${process.geteuid?.()}`);
      if ((stat.mode & GROUP_OR_OTHERS_WRITE) !== 0) throw refused(`others can write into it (${modeText(stat)})`);
      const real = join(realpathSync(dirname(absolute)), basename(absolute));
      for (let parent = dirname(real); ; parent = dirname(parent)) {
        const { mode } = statSync(parent);
        // Who can write into a folder that is not sticky can put another folder in this one's place.
        if ((mode & OTHERS_WRITE) !== 0 && (mode & STICKY) === 0) {
          throw refused(`everybody can replace it, as ${parent} is writable for all and not sticky`);
        }
        if (parent === dirname(parent)) break;
      }
      return new CacheFolder(real);
    } catch (error) {
      if (error instanceof CacheFolderError) throw error;
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw unusable(absolute, error);
    }
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
    return foldersIn(this.path).filter((name) => TENANT_NAME_PATTERN.test(name));
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
      return foldersIn(folder)
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
    const path = join(this.path, NODE_LOCK);
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
