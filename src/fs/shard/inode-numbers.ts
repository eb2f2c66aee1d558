/** Numbers for new inodes: the node grants them in ranges, so that making a file costs no round trip for its number. */
import type { MaybePromise } from "../posix/vfs.ts";

/** Asked for at once; asked again when half are used. */
const GRANT_COUNT = 8_192;

export class InodeNumbers {
  readonly #grantRange: (count: number) => Promise<{ first: number; count: number }>;
  #next = 0;
  #end = 0;
  #granting: Promise<void> | null = null;

  constructor(grantRange: (count: number) => Promise<{ first: number; count: number }>) {
    this.#grantRange = grantRange;
  }

  /** A number that no inode has ever had. */
  next(): MaybePromise<number> {
    if (this.#end - this.#next < GRANT_COUNT / 2) this.#granting ??= this.#grant();
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
      // What is left of the old range is lost when the new one doesn't follow it: numbers are not scarce.
      if (first !== this.#end) this.#next = first;
      this.#end = first + count;
    } finally {
      this.#granting = null;
    }
  }
}
