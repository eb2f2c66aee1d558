/** Room on the disk for a manifest: had before it grows. */
import { statSync } from "node:fs";
import type { Space } from "../cache/pool/space.ts";
import { MIB } from "../protocol/limits.ts";

/** What one page of a listing may add, in the database and in its journal. */
const HEADROOM_BYTES = 4 * MIB;
const STAT_BLOCK_BYTES = 512;

/** What a manifest takes up, with its journal. */
export function manifestBytes(path: string): number {
  let bytes = 0;
  for (const file of [path, `${path}-wal`]) bytes += (statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * STAT_BLOCK_BYTES;
  return bytes;
}

export class ManifestRoom {
  readonly #path: string;
  readonly #space: Space;
  readonly #makeRoom: (bytes: number) => Promise<boolean>;
  /** In the pool's account for this manifest. */
  #bytes: number;
  #growing: Promise<void> | null = null;

  /** @param path of a manifest that is in the account as far as it has been written */
  constructor(path: string, space: Space, makeRoom: (bytes: number) => Promise<boolean>) {
    this.#path = path;
    this.#space = space;
    this.#makeRoom = makeRoom;
    this.#bytes = manifestBytes(path);
  }

  /** Resolves when a page may be written. @throws Error: there is no room */
  async ensure(full: () => Error): Promise<void> {
    if (this.#growing !== null) await this.#growing;
    if (manifestBytes(this.#path) + HEADROOM_BYTES <= this.#bytes) return;
    this.#growing = this.#grow(full).finally(() => {
      this.#growing = null;
    });
    await this.#growing;
  }

  async #grow(full: () => Error): Promise<void> {
    const bytes = 2 * HEADROOM_BYTES;
    const had = (await this.#space.reserveSoon(bytes)) || ((await this.#makeRoom(bytes)) && (await this.#space.reserveSoon(bytes)));
    if (!had) throw full();
    this.#space.settle(bytes);
    this.#bytes += bytes;
  }

  /** Gives back what the manifest, as it is now, does not need. */
  settle(): void {
    const bytes = manifestBytes(this.#path);
    if (bytes < this.#bytes) this.#space.release(this.#bytes - bytes);
    this.#bytes = Math.min(this.#bytes, bytes);
  }
}
