/**
 * Makes what was written to a file so far survive power loss. Where the last sync was short, the next is done at once: the event loop
 * stands still for less than handing it to the thread pool and back would take from the one who waits (two wake-ups). Longer ones go
 * to the pool, and requests that come while one runs share the next one.
 *
 * A failure stays: the kernel tells once that it could not write something, calls it clean then, and the next fdatasync is a success
 * (Linux, Documentation/filesystems/vfs.rst, "Handling errors during writeback"). Until forget() nothing is called safe any more.
 *
 * SQLite holds no locks on a WAL file (they are on the database file), so a descriptor of our own on it breaks none of them when it
 * is closed (fcntl(2), "advisory record locking": closing any descriptor of a file drops the process's locks on it).
 */
import { closeSync, fdatasync, fdatasyncSync, fsync, fsyncSync, openSync } from "node:fs";

/** A sync that takes no longer than this, the thread pool's part included, is one that the event loop can do itself. */
const AT_ONCE_MAX_MS = 0.5;

/** Owns the descriptor that it is given. */
export class FileSync {
  readonly fd: number;
  readonly #system: typeof fdatasync;
  readonly #systemSync: typeof fdatasyncSync;
  #lastMs = Number.POSITIVE_INFINITY;
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;
  #failure: Error | null = null;
  #closed = false;

  /** `whole`: fsync, which folders need. */
  constructor(fd: number, whole = false) {
    this.fd = fd;
    this.#system = whole ? fsync : fdatasync;
    this.#systemSync = whole ? fsyncSync : fdatasyncSync;
  }

  /**
   * Resolves when everything written before this call is on disk.
   * @throws the system's error, of this call or of one since forget(), or Error when it is closed
   */
  sync(): Promise<void> {
    if (this.#closed) return Promise.reject(new Error("the file is closed"));
    if (this.#running === null) return this.#start();
    // One that runs already may have begun before our bytes were written.
    this.#next ??= this.#running.then(
      () => this.#start(),
      () => this.#start(),
    );
    return this.#next;
  }

  #start(): Promise<void> {
    this.#next = null;
    if (this.#failure !== null) {
      if (this.#closed) closeSync(this.fd);
      return Promise.reject(this.#failure);
    }
    const startedMs = performance.now();
    if (this.#lastMs <= AT_ONCE_MAX_MS) return this.#atOnce(startedMs);
    const running = new Promise<void>((resolve, reject) => {
      this.#system(this.fd, (error) => {
        this.#lastMs = performance.now() - startedMs;
        if (this.#running === running) this.#running = null;
        if (error) this.#failure ??= error;
        if (this.#failure === null) resolve();
        else reject(this.#failure);
        if (this.#closed && this.#running === null && this.#next === null) closeSync(this.fd);
      });
    });
    this.#running = running;
    return running;
  }

  #atOnce(startedMs: number): Promise<void> {
    this.#running = null;
    try {
      this.#systemSync(this.fd);
      return Promise.resolve();
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error));
      return Promise.reject(this.#failure);
    } finally {
      this.#lastMs = performance.now() - startedMs;
      if (this.#closed) closeSync(this.fd);
    }
  }

  /** Whether a sync has failed since forget(). */
  get failed(): boolean {
    return this.#failure !== null;
  }

  /** What was written so far has been written anew, or is not needed any more. */
  forget(): void {
    this.#failure = null;
  }

  /** Closes the descriptor once nothing runs on it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#running === null) closeSync(this.fd);
  }
}

/** Makes the entries of a folder survive power loss. @throws the system's error */
export function syncFolder(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
