/**
 * The chunks that were missed last. A reader comes through a chunk in several requests, all of them misses as long as the chunk is
 * not put into L2: as many as bring all of its bytes are one use of it, and get one answer.
 */

/** Chunks that readers come through at the same time, about. */
const SLOTS = 256;
/** Part of a round after which a chunk that was not missed as a whole is used anew. */
const PATIENCE = 1 / 4;

export interface RecentMiss {
  /** Id bits; 0: none. */
  tag: number;
  /** Bytes of the chunk that can still be missed in this use of it. */
  leftBytes: number;
  /** In rounds. */
  since: number;
  /** Rounds that the chunk had before it when this use of it began. */
  rounds: number;
  /** It was used so shortly before that a plain LRU of this size would have it. */
  near: boolean;
  /** What `admits` said; null: wasn't asked. */
  verdict: "main" | "window" | "refused" | null;
}

export class RecentMisses {
  readonly #slots: RecentMiss[] = Array.from({ length: SLOTS }, () => ({
    tag: 0,
    leftBytes: 0,
    since: 0,
    rounds: 0,
    near: false,
    verdict: null,
  }));

  /** The use of a chunk that goes on. @param now in rounds */
  find(id: Uint8Array, now: number): RecentMiss | null {
    const slot = this.#slot(id);
    return slot.tag === tagOf(id) && now - slot.since < PATIENCE ? slot : null;
  }

  set(id: Uint8Array, use: Omit<RecentMiss, "tag" | "verdict">): RecentMiss {
    return Object.assign(this.#slot(id), use, { tag: tagOf(id), verdict: null });
  }

  #slot(id: Uint8Array): RecentMiss {
    return this.#slots[id[28] as number] as RecentMiss;
  }
}

function tagOf(id: Uint8Array): number {
  return ((id[24] as number) | ((id[25] as number) << 8) | ((id[26] as number) << 16) | ((id[27] as number) << 24)) >>> 0 || 1;
}
