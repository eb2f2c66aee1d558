/**
 * A folder by its descriptor, as for openat(2): what is done through it is done in this folder, wherever its path leads by then. Node's calls know
 * no descriptors of folders, but the kernel's /proc/self/fd/N leads to the folder itself (proc_pid_fd(5)), without the names above it.
 */
import { closeSync, constants, fstatSync, openSync, type Stats } from "node:fs";
import { CacheFolderError } from "./cache-error.ts";

export class FolderHandle implements Disposable {
  /** For messages. */
  readonly path: string;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /** @throws a system error: ENOENT, ENOTDIR (also for a symbolic link), ELOOP, ... */
  static open(path: string, shown = path): FolderHandle {
    return new FolderHandle(shown, openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW));
  }

  /**
   * A folder in this one, of the same user and on the same filesystem.
   * @throws CacheFolderError: it is not; a system error as `open`
   */
  child(name: string): FolderHandle {
    const child = FolderHandle.open(this.at(name), `${this.path}/${name}`);
    const [mine, its] = [this.stat(), child.stat()];
    if (its.uid === mine.uid && its.dev === mine.dev) return child;
    child.close();
    const what = its.uid === mine.uid ? "is on another filesystem" : `belongs to user ${its.uid}`;
    throw new CacheFolderError(`${child.path}: ${what}: it is left alone`);
  }

  /** The folder itself, as a path that does not walk its names. Holds until close(). */
  get self(): string {
    return `/proc/self/fd/${this.#fd}`;
  }

  /** The path of something in it. */
  at(name: string): string {
    return `${this.self}/${name}`;
  }

  stat(): Stats {
    return fstatSync(this.#fd);
  }

  /** It was removed. */
  get isGone(): boolean {
    return this.stat().nlink === 0;
  }

  close(): void {
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
