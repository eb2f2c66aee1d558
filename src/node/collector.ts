/**
 * Deletes chunks that nothing refers to. Two ways lead to them: each shard knows those that its records referred to, and each tenant those that
 * sessions have let go (chunk-holds.ts): these are looked at every few seconds. What neither knows any more, after a crash or the deletion of a
 * namespace, a sweep over all chunks finds. Clients come first: in slices, with pauses.
 *
 * A chunk goes when no record has referred to it, and nobody has put it, for the grace period, and no session holds it. The grace period is for
 * readers that were told of the chunk before its record was changed; on a disk that is nearly full it is short.
 */

import { CHUNK_PARTS } from "../protocol/limits.ts";
import type { GcReport } from "../protocol/messages.ts";
import type { ChunkInfo } from "./chunks/chunk-store.ts";
import { chunkName } from "./engines/chunk-list.ts";
import type { Tenant } from "./tenant.ts";

export const GC_GRACE_DEFAULT_MS = 30_000;
/** On a disk that is fuller than this, what can go goes at once: in the grace period below, which answers under way need. */
const FULL_PART = 0.9;
export const GC_GRACE_SHORT_MS = 1_000;
/** How full the disk is, is looked at this often. */
const TICK_MS = 1_000;
/** Otherwise, chunks are collected this often at least. */
const INTERVAL_MAX_MS = 10_000;
/** Sweeps over all chunks: this often, and this soon after each other where much was forgotten. */
const SWEEP_INTERVAL_MS = 6 * 3_600_000;
const SWEEP_PAUSE_MS = 60_000;
/**
 * Sessions come back to a node that was restarted, and commit what they have put, but which chunks these are is forgotten: what was put in the hour
 * before the start is not deleted for this long after it.
 */
const RETURN_MS = 600_000;
export const RETURN_PUT_MS = 3_600_000;
/** Chunks looked at between two pauses. */
const SLICE = 256;
const PAUSE_MS = 5;
/** Chunks of a sweep for which every namespace is asked at once: there may be thousands, most of them closed. */
const SWEEP_SLICE = 16_384;

/** What became of a chunk that may have nothing that refers to it. */
type Outcome = "gone" | "missing" | "referenced" | "held" | "recent";

export interface CollectorLogger {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Chunks put between these times (ms since the epoch) may be of sessions that come back: kept until `untilMs`. */
export interface Returning {
  readonly putFromMs: number;
  readonly putToMs: number;
  readonly untilMs: number;
}

/** What a node that starts now has to expect. */
export function returningAtStart(): Returning {
  const now = Date.now();
  return { putFromMs: now - RETURN_PUT_MS, putToMs: now, untilMs: now + RETURN_MS };
}

export class Collector {
  readonly #tenants: ReadonlyMap<string, Tenant>;
  readonly #graceMs: number;
  readonly #logger: CollectorLogger;
  readonly #returning: Returning | null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running: Promise<unknown> = Promise.resolve();
  readonly #stopping = new AbortController();
  #collectedMs = 0;
  #sweptMs = Number.NEGATIVE_INFINITY;
  #sweepDueMs = performance.now() + RETURN_MS;

  constructor(tenants: ReadonlyMap<string, Tenant>, graceMs: number, returning: Returning | null, logger: CollectorLogger) {
    this.#tenants = tenants;
    this.#graceMs = graceMs;
    this.#returning = returning;
    this.#logger = logger;
  }

  start(): void {
    const tick = (): Promise<void> =>
      this.#tick()
        .catch((error: unknown) => this.#logger.error({ err: error }, "collecting chunks failed"))
        .then(() => {
          if (!this.#isStopped) this.start();
        });
    this.#timer = setTimeout(
      () => {
        this.#running = tick();
      },
      Math.min(TICK_MS, Math.max(1, this.#graceMs / 2)),
    );
    this.#timer.unref();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearTimeout(this.#timer);
    await this.#running;
  }

  get #isStopped(): boolean {
    return this.#stopping.signal.aborted;
  }

  async #tick(): Promise<void> {
    const isFull = this.#isFull();
    const now = performance.now();
    if (isFull || now - this.#collectedMs >= Math.min(INTERVAL_MAX_MS, this.#graceMs / 2)) {
      for (const tenant of this.#tenants.values()) tenant.holds.endOld(isFull);
      await this.collect(isFull ? Math.min(GC_GRACE_SHORT_MS, this.#graceMs) : this.#graceMs);
      this.#collectedMs = performance.now();
    }
    const forgotten = [...this.#tenants.values()].filter(({ holds }) => holds.hasForgotten);
    if (now < this.#sweepDueMs && (forgotten.length === 0 || now - this.#sweptMs < SWEEP_PAUSE_MS)) return;
    const isWhole = now >= this.#sweepDueMs;
    if (isWhole) this.#sweepDueMs = now + SWEEP_INTERVAL_MS;
    for (const tenant of isWhole ? [...this.#tenants.values()] : forgotten) await this.#sweep(tenant);
    this.#sweptMs = performance.now();
  }

  /** All tenants' chunks are on one disk. */
  #isFull(): boolean {
    for (const { chunks } of this.#tenants.values()) {
      const { totalBytes, freeBytes } = chunks.space();
      return freeBytes < (1 - FULL_PART) * totalBytes;
    }
    return false;
  }

  /** Deletes what is known to be without reference, of all tenants. @returns how many chunks were deleted */
  async collect(graceMs: number): Promise<number> {
    let deleted = 0;
    for (const tenant of [...this.#tenants.values()]) {
      deleted += await this.#deleteAll(tenant, tenant.holds.takeLoose(), graceMs);
      for (const { shard } of tenant.namespaces()) {
        for (let isMore = true; isMore && !this.#isStopped; ) {
          const ids = await shard.looseChunks(graceMs, SLICE);
          deleted += await this.#deleteAll(tenant, ids, graceMs);
          // What could not go now is looked at again because a session lets go of it, or because it was put back.
          await shard.forgetChunks(ids);
          isMore = ids.length === SLICE;
        }
      }
    }
    if (deleted > 0) this.#logger.info({ deleted }, "unreferenced chunks deleted");
    return deleted;
  }

  async #deleteAll(tenant: Tenant, ids: readonly Uint8Array[], graceMs: number): Promise<number> {
    let deleted = 0;
    for (let at = 0; at < ids.length; at += SLICE) {
      const slice = ids.slice(at, at + SLICE);
      if (at > 0) await Bun.sleep(PAUSE_MS);
      const outcomes = await this.#dispose(tenant, slice, graceMs, false);
      slice.forEach((id, i) => {
        if (outcomes[i] === "gone") deleted++;
        else if (outcomes[i] === "recent") tenant.holds.putBack(id);
      });
    }
    return deleted;
  }

  async #sweep(tenant: Tenant): Promise<void> {
    tenant.holds.hasForgotten = false;
    let deleted = 0;
    let found: ChunkInfo[] = [];
    for (let part = 0; part < CHUNK_PARTS && !this.#isStopped; part++) {
      found.push(...(await tenant.chunks.listPart(part)));
      await Bun.sleep(PAUSE_MS);
      if (found.length < SWEEP_SLICE && part + 1 < CHUNK_PARTS) continue;
      deleted += (await this.#sweepChunks(tenant, found, { graceMs: this.#graceMs, dryRun: false })).freedChunks;
      found = [];
    }
    if (deleted > 0) this.#logger.info({ deleted, tenant: tenant.name }, "forgotten chunks deleted");
  }

  /** Looks at all chunks of a tenant whose ids begin with the byte `part`. */
  async sweepPart(tenant: Tenant, part: number, how: { graceMs: number; dryRun: boolean }): Promise<GcReport> {
    return await this.#sweepChunks(tenant, await tenant.chunks.listPart(part), how);
  }

  async #sweepChunks(tenant: Tenant, chunks: readonly ChunkInfo[], how: { graceMs: number; dryRun: boolean }): Promise<GcReport> {
    const { graceMs, dryRun } = how;
    const report: GcReport = { chunks: 0, bytes: 0, freedChunks: 0, freedBytes: 0, keptChunks: 0, keptBytes: 0 };
    const ids = chunks.map(({ id }) => id);
    const outcomes = await this.#dispose(tenant, ids, graceMs, dryRun);
    chunks.forEach(({ id, bytes }, i) => {
      const outcome = outcomes[i];
      report.chunks++;
      report.bytes += bytes;
      if (outcome === "referenced" || outcome === "missing") return;
      report[outcome === "gone" ? "freedChunks" : "keptChunks"]++;
      report[outcome === "gone" ? "freedBytes" : "keptBytes"] += bytes;
      if (outcome === "recent" && !dryRun) tenant.holds.putBack(id);
    });
    return report;
  }

  /** Deletes those of the chunks that nothing speaks for (not in a dry run). Each namespace is asked once for all of them. */
  async #dispose(tenant: Tenant, ids: readonly Uint8Array[], graceMs: number, dryRun: boolean): Promise<Outcome[]> {
    using added = tenant.watchAdded();
    const { referenced, recent } = await tenant.references(ids, graceMs);
    const outcomes: Outcome[] = [];
    for (const [i, id] of ids.entries()) {
      if (i > 0 && i % SLICE === 0) await Bun.sleep(PAUSE_MS);
      const name = chunkName(id);
      let outcome: Outcome = referenced.has(name) ? "referenced" : recent.has(name) ? "recent" : "gone";
      if (outcome === "gone" && this.#isStopped) outcome = "recent";
      if (outcome === "gone") {
        outcome = "missing";
        // Asked when no put of the chunk can come between, nor a commit that finds it.
        await tenant.chunks.delete(id, (touchedMs) => {
          outcome = added.has(name) ? "referenced" : this.#judge(tenant, id, touchedMs, graceMs);
          return outcome !== "gone" || dryRun;
        });
      }
      outcomes.push(outcome);
    }
    return outcomes;
  }

  #judge(tenant: Tenant, id: Uint8Array, touchedMs: number, graceMs: number): Outcome {
    if (tenant.holds.isHeld(id)) return "held";
    if (tenant.isPinned(id)) return "recent";
    const now = Date.now();
    const back = this.#returning;
    if (back !== null && now < back.untilMs && touchedMs >= back.putFromMs && touchedMs <= back.putToMs) return "recent";
    return touchedMs > now - graceMs ? "recent" : "gone";
  }
}
