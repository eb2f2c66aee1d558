/**
 * Files of a pool kept open for reading, by a number that their owner gives them: chunks are read again and again, a few blocks at a
 * time. Reads run in the runtime's thread pool, straight into cells of the arena: 10 us on the request loop for 1 MiB.
 */
import { closeSync, constants, openSync, readv } from "node:fs";

/** Descriptors kept: far below the usual soft limit of 1,024 for a process. */
const OPEN_MAX = 256;

interface OpenFile {
  readonly fd: number;
  readers: number;
  /** No longer in the map: whoever reads last closes it. */
  dropped: boolean;
}

export class ChunkFiles {
  /** Least recently used first. */
  readonly #files = new Map<number, OpenFile>();
  /** Past the page cache: what is read here is kept in L1, and the kernel keeps pages of the mount's files too. */
  #direct = true;

  /**
   * Fills the views, one after the other, from `offset` of the file.
   * @param number of the file; once it is open, `path` is not looked at
   * @param aligned offset and views are whole blocks of the device but for the file's end
   * @returns bytes read, fewer at the file's end @throws the system's error
   */
  async read(number: number, path: string, views: readonly Uint8Array[], offset: number, aligned: boolean): Promise<number> {
    const file = this.#open(number, path, aligned);
    file.readers++;
    try {
      return await readAll(file.fd, views, offset);
    } catch (error) {
      if (!(aligned && this.#direct && codeOf(error) === "EINVAL")) throw error;
      this.#direct = false;
    } finally {
      file.readers--;
      if (file.dropped && file.readers === 0) closeSync(file.fd);
    }
    this.drop(number);
    return await this.read(number, path, views, offset, false);
  }

  #open(number: number, path: string, aligned: boolean): OpenFile {
    const known = this.#files.get(number);
    if (known !== undefined) {
      this.#files.delete(number);
      this.#files.set(number, known);
      return known;
    }
    const file = { fd: this.#openFile(path, aligned), readers: 0, dropped: false };
    this.#files.set(number, file);
    if (this.#files.size > OPEN_MAX) for (const oldest of this.#files.keys()) if (this.drop(oldest)) break;
    return file;
  }

  #openFile(path: string, aligned: boolean): number {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW;
    if (aligned && this.#direct) {
      try {
        return openSync(path, flags | constants.O_DIRECT);
      } catch (error) {
        if (codeOf(error) !== "EINVAL") throw error;
        this.#direct = false;
      }
    }
    return openSync(path, flags);
  }

  /** The file is to be opened anew, or is no more. Reads that run go on. */
  drop(number: number): boolean {
    const file = this.#files.get(number);
    if (file === undefined) return false;
    this.#files.delete(number);
    file.dropped = true;
    if (file.readers === 0) closeSync(file.fd);
    return true;
  }

  close(): void {
    for (const number of [...this.#files.keys()]) this.drop(number);
  }
}

async function readAll(fd: number, views: readonly Uint8Array[], offset: number): Promise<number> {
  let wanted = 0;
  for (const view of views) wanted += view.length;
  let done = await readOnce(fd, views, offset);
  // A short read is the file's end as a rule; only the next one can tell.
  while (done > 0 && done < wanted) {
    const count = await readOnce(fd, rest(views, done), offset + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

function rest(views: readonly Uint8Array[], done: number): Uint8Array[] {
  const left: Uint8Array[] = [];
  let at = 0;
  for (const view of views) {
    if (at + view.length > done) left.push(at >= done ? view : view.subarray(done - at));
    at += view.length;
  }
  return left;
}

function readOnce(fd: number, views: readonly Uint8Array[], offset: number): Promise<number> {
  return new Promise((resolve, reject) => {
    readv(fd, views, offset, (error, count) => {
      if (error) reject(error);
      else resolve(count);
    });
  });
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}
