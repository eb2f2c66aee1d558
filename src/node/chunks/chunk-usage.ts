/** How many bytes the files of a chunk store have: counted once, part by part, while puts and deletes go on, and kept from then on. */
import { CHUNK_PARTS } from "../../protocol/limits.ts";

/** A part in which something is being changed is looked at again after this. */
const BUSY_RETRY_MS = 5;

export class ChunkUsage {
  bytes = 0;
  readonly #isCounted = new Uint8Array(CHUNK_PARTS);
  /** Changes under way in each part. */
  readonly #changing = new Uint32Array(CHUNK_PARTS);
  #counting: Promise<number> | null = null;
  #left = CHUNK_PARTS;

  get isCounted(): boolean {
    return this.#left === 0;
  }

  /** `sum` gives the bytes of one part, in one turn. Resolves when all are counted, with their sum. */
  count(sum: (part: number) => number): Promise<number> {
    this.#counting ??= this.#count(sum).finally(() => {
      this.#counting = null;
    });
    return this.#counting;
  }

  async #count(sum: (part: number) => number): Promise<number> {
    for (let part = 0; part < CHUNK_PARTS; part++) {
      // What is half done may be seen or not, and is noted when it is done.
      while (this.#isCounted[part] === 0 && this.#changing[part] !== 0) await Bun.sleep(BUSY_RETRY_MS);
      if (this.#isCounted[part] !== 0) continue;
      this.bytes += sum(part);
      this.#isCounted[part] = 1;
      this.#left--;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return this.bytes;
  }

  /** Does `work`, which changes the size of a file of the part, and notes by how much. */
  async change(part: number, size: () => number, work: () => Promise<unknown>): Promise<void> {
    const before = size();
    this.#changing[part] = (this.#changing[part] ?? 0) + 1;
    try {
      await work();
    } finally {
      this.#changing[part] = (this.#changing[part] ?? 1) - 1;
      if (this.#isCounted[part] !== 0) this.bytes += size() - before;
    }
  }
}
