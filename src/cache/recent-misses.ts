/**
 * The chunks that were missed last. A reader comes through a chunk in several requests, all of them misses as long as the chunk is
 * not put into L2: they are one use of it, and get one answer.
 */

/** Chunks that readers come through at the same time, about. */
const SLOTS_MAX = 256;

export interface RecentMiss {
  /** Id bits; 0: none. */
  tag: number;
  /** Rounds that the chunk had before it when this use of it began. */
  rounds: number;
  /** It was used so shortly before that a plain LRU of this size would have it. */
  near: boolean;
  /** What `admits` said; null: wasn't asked. */
  verdict: "main" | "window" | "refused" | null;
}

export class RecentMisses {
  readonly #slots: RecentMiss[] = Array.from({ length: SLOTS_MAX }, () => ({ tag: 0, rounds: 0, near: false, verdict: null }));

  /** @param chunks how many chunks the cache holds: a small one sees the same chunk again after few others, and that is another use. */
  find(id: Uint8Array, chunks: number): RecentMiss | null {
    const slot = this.#slot(id, chunks);
    return slot.tag === tagOf(id) ? slot : null;
  }

  set(id: Uint8Array, chunks: number, rounds: number, near: boolean): RecentMiss {
    const slot = this.#slot(id, chunks);
    slot.tag = tagOf(id);
    slot.rounds = rounds;
    slot.near = near;
    slot.verdict = null;
    return slot;
  }

  #slot(id: Uint8Array, chunks: number): RecentMiss {
    const slots = Math.min(SLOTS_MAX, Math.max(1, chunks >>> 4));
    return this.#slots[(((id[28] as number) << 8) | (id[29] as number)) % slots] as RecentMiss;
  }
}

function tagOf(id: Uint8Array): number {
  return ((id[24] as number) | ((id[25] as number) << 8) | ((id[26] as number) << 16) | ((id[27] as number) << 24)) >>> 0 || 1;
}
