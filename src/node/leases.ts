/**
 * Which sessions cache which inodes of one namespace, so that a change by one is not answered before the others have let go.
 *
 *   grant            (ino, session) is remembered
 *   touch            another session's delta has changed the inode: each holder is recalled, once, and the lease is gone; who changed it
 *                    waits for the acknowledgement, or until the holder's lease is over (sessions.ts decides when that is)
 *   touch meanwhile  a second change of the same inode waits for the same acknowledgement: until then the holder may serve old data
 */

/** Leases of one session at most, in all namespaces: some 30 MiB of node memory. */
const SESSION_LEASES_MAX = 262_144;

/** Leases of all sessions of a tenant at most: some 250 MiB. Who gets none asks the node instead of its cache. */
const TENANT_LEASES_MAX = 2_097_152;

/** How many leases a tenant has, in all namespaces. */
export class LeaseBudget {
  readonly #max: number;
  used = 0;

  constructor(max = TENANT_LEASES_MAX) {
    this.#max = max;
  }

  get isSpent(): boolean {
    return this.used >= this.#max;
  }
}

export interface LeaseHolder {
  /** Leases held, in all namespaces. */
  leaseCount: number;
  /** Resolves when the holder has let go, or its leases are over; never rejects. */
  recall(namespace: string, inos: number[]): Promise<void>;
}

interface Pending {
  holder: LeaseHolder;
  done: Promise<void>;
}

export class NamespaceLeases<Holder extends LeaseHolder> {
  readonly #namespace: string;
  readonly #budget: LeaseBudget;
  readonly #holders = new Map<number, Set<Holder>>();
  readonly #held = new Map<Holder, Set<number>>();
  readonly #pending = new Map<number, Set<Pending>>();

  constructor(namespace: string, budget = new LeaseBudget()) {
    this.#namespace = namespace;
    this.#budget = budget;
  }

  /** False when the session, or its tenant, holds as many as it may. */
  grant(holder: Holder, ino: number): boolean {
    let held = this.#held.get(holder);
    if (held?.has(ino)) return true;
    if (holder.leaseCount >= SESSION_LEASES_MAX || this.#budget.isSpent) return false;
    if (held === undefined) {
      held = new Set();
      this.#held.set(holder, held);
    }
    held.add(ino);
    holder.leaseCount++;
    this.#budget.used++;
    const holders = this.#holders.get(ino);
    if (holders === undefined) this.#holders.set(ino, new Set([holder]));
    else holders.add(holder);
    return true;
  }

  holds(holder: Holder, ino: number): boolean {
    return this.#held.get(holder)?.has(ino) ?? false;
  }

  release(holder: Holder, ino: number): void {
    const held = this.#held.get(holder);
    if (held === undefined || !held.delete(ino)) return;
    holder.leaseCount--;
    this.#budget.used--;
    if (held.size === 0) this.#held.delete(holder);
    const holders = this.#holders.get(ino);
    holders?.delete(holder);
    if (holders?.size === 0) this.#holders.delete(ino);
  }

  releaseAll(holder: Holder): void {
    const held = this.#held.get(holder);
    if (held !== undefined) for (const ino of [...held]) this.release(holder, ino);
  }

  /** All inodes that anyone holds. */
  inos(): number[] {
    return [...this.#holders.keys()];
  }

  /**
   * Ends every lease on `inos` but those of `except`. Call it in the turn in which the change became visible.
   * @returns what the change's answer must wait for; null: nothing
   */
  touch(except: Holder | null, inos: readonly number[]): Promise<unknown> | null {
    if (this.#pending.size === 0 && this.#noneHeld(except, inos)) return null;
    const waits = new Set<Promise<void>>();
    const recalls = new Map<Holder, number[]>();
    for (const ino of inos) {
      for (const pending of this.#pending.get(ino) ?? []) if (pending.holder !== except) waits.add(pending.done);
      for (const holder of [...(this.#holders.get(ino) ?? [])]) {
        if (holder === except) continue;
        this.release(holder, ino);
        const list = recalls.get(holder);
        if (list === undefined) recalls.set(holder, [ino]);
        else list.push(ino);
      }
    }
    for (const [holder, list] of recalls) waits.add(this.#recall(holder, list));
    return waits.size === 0 ? null : Promise.all(waits);
  }

  #noneHeld(except: Holder | null, inos: readonly number[]): boolean {
    for (const ino of inos) {
      const holders = this.#holders.get(ino);
      if (holders !== undefined && !(holders.size === 1 && except !== null && holders.has(except))) return false;
    }
    return true;
  }

  #recall(holder: Holder, inos: number[]): Promise<void> {
    const done = holder.recall(this.#namespace, inos).then(() => {
      for (const ino of inos) {
        const pendings = this.#pending.get(ino);
        pendings?.delete(pending);
        if (pendings?.size === 0) this.#pending.delete(ino);
      }
    });
    const pending: Pending = { holder, done };
    for (const ino of inos) {
      const pendings = this.#pending.get(ino);
      if (pendings === undefined) this.#pending.set(ino, new Set([pending]));
      else pendings.add(pending);
    }
    return done;
  }
}
