/** Seals chunks anew: each is fetched, opened, sealed under the newest key, which gives it another id, and put. Plaintext stays in this process's memory. */
import type { BlockArena } from "../../cache/memory/block-arena.ts";
import { blockCount } from "../../crypto/chunk-seal.ts";
import { type ChunkSource, chunkSource } from "../records/composition.ts";
import type { ChunkTransfer } from "../shard/chunk-transfer.ts";
import type { Pace } from "./pace.ts";

/**
 * Chunks whose new ids are remembered, some 300 bytes each. A chunk that several files share is fetched once while it is among these; later it is
 * fetched again, and has the same new id.
 */
const REMEMBERED_MAX = 65_536;

export class ChunkMover {
  readonly #arena: BlockArena;
  readonly #transfer: ChunkTransfer;
  readonly #pace: Pace;
  readonly #onMoved: (bytes: number) => void;
  readonly #moved = new Map<string, Promise<ChunkSource>>();

  /** `onMoved` is told the plaintext bytes of each chunk that was put. */
  constructor(arena: BlockArena, transfer: ChunkTransfer, pace: Pace, onMoved: (bytes: number) => void) {
    this.#arena = arena;
    this.#transfer = transfer;
    this.#pace = pace;
    this.#onMoved = onMoved;
  }

  /** What holds the same bytes under the newest key. @throws IntegrityError, NodeError, TransportError */
  async move(source: ChunkSource): Promise<ChunkSource> {
    const known = this.#moved.get(source.key);
    if (known !== undefined) return await known;
    const moving = this.#move(source);
    for (const oldest of this.#moved.keys()) {
      if (this.#moved.size < REMEMBERED_MAX) break;
      this.#moved.delete(oldest);
    }
    this.#moved.set(source.key, moving);
    try {
      return await moving;
    } catch (error) {
      this.#moved.delete(source.key);
      throw error;
    }
  }

  /** What was put may be gone from the node: it is put again when it is needed again. */
  forget(): void {
    this.#moved.clear();
  }

  async #move({ ref }: ChunkSource): Promise<ChunkSource> {
    await this.#pace.spend(ref.bytes);
    const cells = await this.#arena.take(blockCount(ref.bytes));
    try {
      await this.#transfer.get(ref, 0, cells);
      const moved = chunkSource(await this.#transfer.put(cells, ref.bytes));
      this.#onMoved(ref.bytes);
      return moved;
    } finally {
      this.#arena.unpinAll(cells);
    }
  }
}
