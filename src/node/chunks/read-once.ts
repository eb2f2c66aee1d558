/**
 * Which reads of chunks are worth a place in the page cache. Whoever reads a file of gigabytes through once would fill it with what nobody
 * asks for again, and pay for it: filling fresh pages took two thirds of the time of a read (0.4 s of CPU for a GiB, past the cache 0.1).
 * What is read a second time goes through the cache, so that many clients that read the same data find it there.
 */

/** Chunks of which we know how far they were read: 32 GiB of content, some 2 MiB of memory. */
const REMEMBERED_MAX = 8_192;

export class ReadOnce {
  /** How far each chunk has been read; least recently read first. */
  readonly #ends = new Map<string, number>();

  /** Notes that bytes [offset, end) of a chunk are read. Returns whether that is for the first time, as far as is remembered. */
  isFirst(name: string, offset: number, end: number): boolean {
    const before = this.#ends.get(name) ?? 0;
    this.#ends.delete(name);
    this.#ends.set(name, Math.max(before, end));
    if (this.#ends.size > REMEMBERED_MAX) for (const oldest of this.#ends.keys()) if (this.#ends.delete(oldest)) break;
    return offset >= before;
  }
}
