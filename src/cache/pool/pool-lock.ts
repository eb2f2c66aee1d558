/** The lock of a pool: to take it where nobody has it, and to pass it from one living process to another. */
import { closeSync, constants, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LibcError } from "../../../ffi/libc/errors.ts";
import { DescriptorSocket, sendDescriptor } from "../../../ffi/libc/fd-passing.ts";
import { tryLock } from "../../../ffi/libc/flock.ts";
import { withSocketPath } from "../control/socket-path.ts";
import { PoolError } from "./cache-error.ts";
import { isStill } from "./cache-folder.ts";
import { lockPath } from "./pool-record.ts";

/** A daemon ends what it is doing before it sends its lock. */
const HAND_OVER_TIMEOUT_MS = 30_000;
/** How often is looked whether the lock has come. */
const HAND_OVER_POLL_MS = 2;
/** What the daemon has sent is there when its answer comes; so long is waited where it died before it could answer. */
const HAND_OVER_REST_MS = 200;
const SOCKET_NAME_PATTERN = /^adopt-\d{1,10}\.sock$/;

/**
 * The descriptor of a pool's lock, if nobody else has it.
 * @throws PoolError not_found: the pool is gone, or has no lock
 */
export function lockIfFree(poolPath: string): number | null {
  const path = lockPath(poolPath);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } catch (error) {
    throw new PoolError("not_found", `cache pool ${poolPath}: ${(error as Error).message}`, { cause: error });
  }
  const locked = tryLock(fd);
  // A lock on a file that was unlinked meanwhile protects nothing.
  if (isStill(fd, path)) {
    if (locked) return fd;
    closeSync(fd);
    return null;
  }
  closeSync(fd);
  throw new PoolError("not_found", `cache pool ${poolPath}: was deleted`);
}

/** Sends the lock to who listens on this socket in the pool's folder. @throws PoolError failed: nobody does */
export function sendLock(poolPath: string, socketName: string, lockFd: number): void {
  if (!SOCKET_NAME_PATTERN.test(socketName)) throw new PoolError("failed", `not the name of an adopter's socket: ${socketName}`);
  try {
    withSocketPath(join(poolPath, socketName), (path) => sendDescriptor(path, lockFd));
  } catch (error) {
    throw new PoolError("failed", `nobody takes the cache pool at ${socketName}: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Asks the holder of a pool's lock for it, and takes it, or the lock itself where the holder dies meanwhile.
 * @param ask has the holder call sendLock with this name
 * @param takeFreed the lock of a pool whose holder has died; null: somebody has it
 * @throws PoolError failed: the holder did not send it (the message says what it answered); not_found
 */
export async function receiveLock(
  poolPath: string,
  ask: (socketName: string) => Promise<void>,
  takeFreed: () => number | null,
): Promise<number> {
  const socketName = `adopt-${process.pid}.sock`;
  const socketPath = join(poolPath, socketName);
  // Left by a process of this number that has died.
  rmSync(socketPath, { force: true });
  let socket: DescriptorSocket;
  try {
    socket = withSocketPath(socketPath, (path) => new DescriptorSocket(path));
  } catch (error) {
    if (!(error instanceof LibcError)) throw error;
    throw new PoolError("failed", `${socketPath}: ${error.message}`, { cause: error });
  }
  try {
    let deadline = performance.now() + HAND_OVER_TIMEOUT_MS;
    let refusal: unknown = null;
    const answered = (error: unknown): void => {
      refusal = error;
      deadline = Math.min(deadline, performance.now() + HAND_OVER_REST_MS);
    };
    ask(socketName).then(() => answered(null), answered);
    for (;;) {
      const late = performance.now() > deadline;
      const fd = socket.receive();
      if (fd !== null) return checkReceived(fd, poolPath);
      if (late) break;
      await Bun.sleep(HAND_OVER_POLL_MS);
    }
    const freed = takeFreed();
    if (freed !== null) return freed;
    const why = refusal === null ? "" : `: ${(refusal as Error).message}`;
    throw new PoolError("failed", `the staging daemon did not hand over its cache pool${why}`, { cause: refusal });
  } finally {
    socket.close();
    rmSync(socketPath, { force: true });
  }
}

/** What arrived must be the pool's lock file, and locked: then this process holds it as well. */
function checkReceived(fd: number, poolPath: string): number {
  if (isStill(fd, lockPath(poolPath)) && tryLock(fd)) return fd;
  closeSync(fd);
  throw new PoolError("failed", `the staging daemon sent something else than the lock of ${poolPath}`);
}
