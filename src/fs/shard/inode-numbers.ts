/** Numbers for new inodes: the node grants them in ranges, so that making a file costs no round trip for its number. */
import type { MaybePromise } from "../posix/vfs.ts";

/** Asked for at once; asked again when half are used. */
const GRANT_COUNT = 8_192;

export class InodeNumbers {
  readonly #grantRange: (count: number) => Promise<{ first: number; count: number }>;
  readonly #mistrust: (first: number) => Error;
  #next = 0;
  #end = 0;
  #granting: Promise<void> | null = null;

  /** `mistrust`: a range below one that was granted before; the error that it returns is thrown. */
  constructor(grantRange: (count: number) => Promise<{ first: number; count: number }>, mistrust: (first: number) => Error) {
    this.#grantRange = grantRange;
    this.#mistrust = mistrust;
  }

  /** A number that no inode has ever had. */
  next(): MaybePromise<number> {
    if (this.#end - this.#next < GRANT_COUNT / 2) {
      this.#granting ??= this.#grant();
      // Who needs it waits below, and learns that it failed.
      this.#granting.catch(() => undefined);
    }
    if (this.#next < this.#end) return this.#next++;
    return (this.#granting ?? Promise.resolve()).then(() => this.next());
  }

  /** What was granted is not used any more. */
  forget(): void {
    this.#next = this.#end;
  }

  async #grant(): Promise<void> {
    try {
      const { first, count } = await this.#grantRange(GRANT_COUNT);
      if (first < this.#end) throw this.#mistrust(first);
      // What is left of the old range is lost when the new one doesn't follow it: numbers are not scarce.
      if (first !== this.#end) this.#next = first;
      this.#end = first + count;
    } finally {
      this.#granting = null;
    }
  }
}
