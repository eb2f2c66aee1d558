/**
 * Which sessions hold which chunks: put, or found there by a put, and not yet named by a commit of theirs. What is held is not collected, though no
 * record refers to it. A hold ends when its session commits a record that names the chunk, when the session gives the chunk up, and with the
 * session; of one that was lost without a word (its host died, or the network between is down) some minutes later: it may still come back and commit.
 */
import { chunkIdOf, chunkName } from "../engines/chunk-list.ts";

/** What a lost session has put is kept for this long: a client that comes back after an outage commits first of all. */
const LOST_SESSION_HOLD_MS = 600_000;
/**
 * A put that was repeated because its answer was lost counts twice, and is committed once. So a hold of which a commit has settled some puts ends
 * this long after the last.
 */
const PARTLY_SETTLED_MS = 3_600_000;
/** Chunks held by one session: 256 GiB that are put and not committed. Beyond it the oldest are let go. */
const HOLDS_PER_SESSION_MAX = 65_536;
/** Chunks let go that nobody has looked at yet. When there are more, only a sweep over all chunks finds the rest. */
const LOOSE_MAX = 262_144;

interface Hold {
  puts: number;
  /** performance.now() of the last. */
  lastMs: number;
  isPartlySettled: boolean;
}

interface SessionHolds {
  /** By chunk name, the oldest first. */
  readonly holds: Map<string, Hold>;
  /** performance.now() of when a lost session's holds end. */
  endMs: number;
}

export class ChunkHolds {
  readonly #sessions = new Map<string, SessionHolds>();
  /** Sessions that hold a chunk, by its name. */
  readonly #holders = new Map<string, number>();
  #loose = new Set<string>();
  /** More was let go than is remembered; or much, of which nobody said what. */
  hasForgotten = false;

  hold(session: Uint8Array, id: Uint8Array): void {
    const key = session.toHex();
    let own = this.#sessions.get(key);
    if (own === undefined) {
      own = { holds: new Map(), endMs: Number.POSITIVE_INFINITY };
      this.#sessions.set(key, own);
    }
    const name = chunkName(id);
    const known = own.holds.get(name);
    if (known !== undefined) {
      known.puts++;
      known.lastMs = performance.now();
      return;
    }
    const [oldest] = own.holds.keys();
    if (oldest !== undefined && own.holds.size >= HOLDS_PER_SESSION_MAX) this.#drop(own, oldest);
    own.holds.set(name, { puts: 1, lastMs: performance.now(), isPartlySettled: false });
    this.#holders.set(name, (this.#holders.get(name) ?? 0) + 1);
  }

  /** One put of each of these is settled: a record names it now, or its session gives it up. */
  settle(session: Uint8Array, ids: readonly Uint8Array[]): void {
    const own = this.#sessions.get(session.toHex());
    if (own === undefined) return;
    for (const id of ids) {
      const name = chunkName(id);
      const hold = own.holds.get(name);
      if (hold === undefined) continue;
      hold.puts--;
      hold.isPartlySettled = true;
      if (hold.puts === 0) this.#drop(own, name);
    }
  }

  #drop(own: SessionHolds, name: string): void {
    own.holds.delete(name);
    const holders = (this.#holders.get(name) ?? 1) - 1;
    if (holders > 0) {
      this.#holders.set(name, holders);
      return;
    }
    this.#holders.delete(name);
    this.#letGo(name);
  }

  #letGo(name: string): void {
    if (this.#loose.size < LOOSE_MAX) this.#loose.add(name);
    else this.hasForgotten = true;
  }

  /** To be taken again: it could not go yet. */
  putBack(id: Uint8Array): void {
    this.#letGo(chunkName(id));
  }

  /** The session has ended: by its own word, or (`lost`) without one. */
  end(session: Uint8Array, lost: boolean): void {
    const key = session.toHex();
    const own = this.#sessions.get(key);
    if (own === undefined) return;
    if (lost) own.endMs = performance.now() + LOST_SESSION_HOLD_MS;
    else this.#end(key, own);
  }

  /** A session that was lost is there again. */
  returned(session: Uint8Array): void {
    const own = this.#sessions.get(session.toHex());
    if (own !== undefined) own.endMs = Number.POSITIVE_INFINITY;
  }

  #end(key: string, own: SessionHolds): void {
    for (const name of [...own.holds.keys()]) this.#drop(own, name);
    this.#sessions.delete(key);
  }

  /** Ends what it is time for. `full`: the disk is, so what lost sessions hold goes at once. */
  endOld(full: boolean): void {
    const now = performance.now();
    for (const [key, own] of this.#sessions) {
      const isLost = own.endMs !== Number.POSITIVE_INFINITY;
      if (isLost && (full || now >= own.endMs)) this.#end(key, own);
      for (const [name, hold] of own.holds) if (hold.isPartlySettled && now - hold.lastMs > PARTLY_SETTLED_MS) this.#drop(own, name);
    }
  }

  isHeld(id: Uint8Array): boolean {
    return this.#holders.has(chunkName(id));
  }

  /** Chunks that were let go since the last call. */
  takeLoose(): Uint8Array[] {
    const loose = [...this.#loose].map(chunkIdOf);
    this.#loose = new Set();
    return loose;
  }
}
