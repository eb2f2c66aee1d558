/**
 * How many reads and writes of chunks are under way on the disk, in all and of one tenant: they share a pool of threads and a disk with everybody's
 * fsyncs, in the order in which they come. Who waits is served in turns, one tenant after the other.
 */

/** In all: enough for any disk to be busy. */
const SLOTS = 16;
/** Of one tenant: 4 MiB each. Others' fsyncs wait behind at most these. */
const SLOTS_PER_TENANT = 4;

export class DiskSlots {
  readonly #max: number;
  readonly #perTenant: number;
  #used = 0;
  /** Tenants that wait, in the order of their turns. */
  readonly #waiting = new Set<TenantSlots>();

  constructor(max = SLOTS, perTenant = SLOTS_PER_TENANT) {
    this.#max = max;
    this.#perTenant = perTenant;
  }

  tenant(): TenantSlots {
    return new TenantSlots(this);
  }

  /** For TenantSlots. */
  mayBegin(tenant: TenantSlots): boolean {
    return this.#used < this.#max && tenant.used < this.#perTenant;
  }

  began(tenant: TenantSlots): void {
    this.#used++;
    tenant.used++;
  }

  waits(tenant: TenantSlots): void {
    this.#waiting.add(tenant);
  }

  ended(tenant: TenantSlots): void {
    this.#used--;
    tenant.used--;
    for (const next of this.#waiting) {
      if (!this.mayBegin(next)) continue;
      // To the end of the line, where it has more to do.
      this.#waiting.delete(next);
      if (next.beginNext()) this.#waiting.add(next);
      return;
    }
  }
}

/** One tenant's share. */
export class TenantSlots {
  readonly #slots: DiskSlots;
  readonly #queue: (() => void)[] = [];
  used = 0;

  constructor(slots: DiskSlots) {
    this.#slots = slots;
  }

  /** Does `work` when there is a slot for it. */
  async use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#queue.length > 0 || !this.#slots.mayBegin(this)) {
      await new Promise<void>((resolve) => {
        this.#queue.push(resolve);
        this.#slots.waits(this);
      });
    } else this.#slots.began(this);
    try {
      return await work();
    } finally {
      this.#slots.ended(this);
    }
  }

  /** Begins the first that waits. Returns whether more wait. */
  beginNext(): boolean {
    const next = this.#queue.shift();
    if (next === undefined) return false;
    this.#slots.began(this);
    next();
    return this.#queue.length > 0;
  }
}
