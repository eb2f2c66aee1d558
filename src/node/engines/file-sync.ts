/**
 * Makes what was written to a file so far survive power loss, without blocking the event loop: fdatasync on the thread pool. Requests
 * that come while one runs share the next one.
 *
 * SQLite holds no locks on a WAL file (they are on the database file), so a descriptor of our own on it breaks none of them when it
 * is closed (fcntl(2), "advisory record locking": closing any descriptor of a file drops the process's locks on it).
 */
import { closeSync, fdatasync, fsync, fsyncSync, openSync } from "node:fs";

/** Owns the descriptor that it is given. */
export class FileSync {
  readonly fd: number;
  readonly #system: typeof fdatasync;
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;
  #closed = false;

  /** `whole`: fsync, which folders need. */
  constructor(fd: number, whole = false) {
    this.fd = fd;
    this.#system = whole ? fsync : fdatasync;
  }

  /** Resolves when everything written before this call is on disk. @throws the system's error */
  sync(): Promise<void> {
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
    const running = new Promise<void>((resolve, reject) => {
      this.#system(this.fd, (error) => {
        if (this.#running === running) this.#running = null;
        if (error) reject(error);
        else resolve();
        if (this.#closed && this.#running === null && this.#next === null) closeSync(this.fd);
      });
    });
    this.#running = running;
    return running;
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
