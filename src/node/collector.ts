/**
 * Deletes chunks that nothing refers to: put longer than the grace period ago, and referred to by no record of any namespace of the
 * tenant for that long. One folder of chunks at a time, with pauses: clients come first.
 */
import type { Shard } from "./engines/engine.ts";
import type { Tenant } from "./tenant.ts";

export const GC_GRACE_DEFAULT_MS = 3_600_000;
/** A pass begins this often at most and at least. */
const INTERVAL_MIN_MS = 1_000;
const INTERVAL_MAX_MS = 1_800_000;
/** Between two folders of chunks. */
const PAUSE_MS = 20;

export interface CollectorLogger {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export class Collector {
  readonly #tenants: ReadonlyMap<string, Tenant>;
  readonly #graceMs: number;
  readonly #logger: CollectorLogger;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(tenants: ReadonlyMap<string, Tenant>, graceMs: number, logger: CollectorLogger) {
    this.#tenants = tenants;
    this.#graceMs = graceMs;
    this.#logger = logger;
  }

  start(): void {
    const intervalMs = Math.min(INTERVAL_MAX_MS, Math.max(INTERVAL_MIN_MS, this.#graceMs / 2));
    this.#timer = setTimeout(() => {
      this.#running = this.collect(PAUSE_MS).then(
        () => {
          if (!this.#stopped) this.start();
        },
        (error: unknown) => {
          this.#logger.error({ err: error }, "collecting chunks failed");
          if (!this.#stopped) this.start();
        },
      );
    }, intervalMs);
    this.#timer.unref();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  /** One pass over all tenants. @returns how many chunks were deleted */
  async collect(pauseMs: number): Promise<number> {
    let deleted = 0;
    for (const tenant of this.#tenants.values()) {
      deleted += await this.#collectTenant(tenant, pauseMs);
      for (const { shard } of tenant.namespaces()) await shard.pruneChunks(this.#graceMs);
    }
    if (deleted > 0) this.#logger.info({ deleted }, "unreferenced chunks deleted");
    return deleted;
  }

  async #collectTenant(tenant: Tenant, pauseMs: number): Promise<number> {
    let deleted = 0;
    for await (const chunks of tenant.chunks.list()) {
      for (const { id, touchedMs } of chunks) {
        if (this.#stopped) return deleted;
        if (touchedMs > Date.now() - this.#graceMs || (await this.#isHeld(tenant, id))) continue;
        if (await tenant.chunks.delete(id, (touched) => this.#mustStay(tenant, id, touched))) deleted++;
      }
      if (pauseMs > 0) await Bun.sleep(pauseMs);
    }
    return deleted;
  }

  /** Asked when no put of the chunk can come between. */
  async #mustStay(tenant: Tenant, id: Uint8Array, touchedMs: number): Promise<boolean> {
    return touchedMs > Date.now() - this.#graceMs || (await this.#isHeld(tenant, id)) || tenant.isPinned(id);
  }

  async #isHeld(tenant: Tenant, id: Uint8Array): Promise<boolean> {
    if (tenant.isPinned(id)) return true;
    for (const { shard } of tenant.namespaces()) if (await holds(shard, id, this.#graceMs)) return true;
    return false;
  }
}

function holds(shard: Shard, id: Uint8Array, graceMs: number): boolean | Promise<boolean> {
  return shard.holdsChunk(id, graceMs);
}
