/**
 * What a mount, or a staging daemon, tells about its caches: the body of GET /stats, the output of `kiseki cache stats --json`, and
 * what the Prometheus text is made of. The parts of the cache count in plain number fields (the interfaces below), which are read when somebody asks.
 */
import { z } from "zod";
import type { LatencyHistogram } from "./latency-histogram.ts";

const count = z.number().nonnegative();

const latencySchema = z.object({ counts: z.array(count), count, sumSeconds: count });

export const stagedDatasetSchema = z.object({
  /** Absolute, in the tree that a mount shows. */
  path: z.string(),
  state: z.enum(["staging", "complete", "incomplete"]),
  files: count,
  bytes: count,
  /** ISO 8601; null until complete. */
  stagedAt: z.string().nullable(),
});
export type StagedDataset = z.infer<typeof stagedDatasetSchema>;

export const cacheStatsSchema = z.object({
  version: z.string(),
  pid: z.int().positive(),
  kind: z.enum(["mount", "stage"]),
  mountpoint: z.string().nullable(),
  tenant: z.string(),
  startedAt: z.string(),
  /** null: nothing is kept on disk (bypass). */
  pool: z.object({ id: z.string(), path: z.string() }).nullable(),
  mode: z.enum(["pinned", "organic", "bypass"]),
  /** The effective policy, by the names that `kiseki policy` uses. */
  policy: z.record(z.string(), z.unknown()),
  /**
   * In blocks of 64 KiB. l1Hits: a read found its block in memory. l2Hits, misses, bypasses: blocks that were brought from the disk or from a
   * node, for a reader or ahead of it; one that two readers wait for is brought once.
   */
  reads: z.object({ l1Hits: count, l2Hits: count, misses: count, bypasses: count }),
  latency: z.object({ l1: latencySchema, l2: latencySchema, canonical: latencySchema }),
  l1: z.object({ maxBytes: count, bytes: count, entries: count, evictions: count }),
  l2: z
    .object({
      maxBytes: count,
      /** Of chunks and images, on the disk. */
      bytes: count,
      pinnedBytes: count,
      /** Chunks. */
      entries: count,
      /** Blocks of 64 KiB. */
      insertions: count,
      /** Blocks that were not inserted, as the queue was full. */
      dropped: count,
      /** Blocks that were not inserted, as there was no room, and what is there stays or is worth more. */
      refused: count,
      evictions: count,
      /** By kind: "crc", "short", "io", "no_space", ... */
      faults: z.record(z.string(), count),
      /** Why the disk is not used any more in this session; null: it is. */
      outOfUse: z.string().nullable(),
    })
    .nullable(),
  datasets: z.array(stagedDatasetSchema),
  /** By reason: "request", "disconnect", "key_revoked". */
  wipes: z.record(z.string(), count),
  node: z.object({
    /** Answers that could not be true: something else than was asked, or records that don't belong together. */
    lies: count,
    connected: z.boolean(),
    /** ISO 8601: since when no node is connected; null: one is. */
    lostSince: z.string().nullable(),
    /** When the client's certificate ends. */
    credentialsExpire: z.string(),
    /** Why the node that answers is not used; null: it is, or none answers. */
    refusal: z.string().nullable(),
  }),
  /** How the content of chunks is moved. */
  transport: z.object({
    /** libfabric's name of the fabric; null: TLS alone. */
    fabric: z.string().nullable(),
    /** Threads that use it now; while it rests after failures they use TLS. */
    openPaths: count,
    fabricTransfers: count,
    fabricBytes: count,
    tlsTransfers: count,
    tlsBytes: count,
    /** Of those by TLS: the fabric was tried first, and failed. */
    fallbacks: count,
  }),
});
export type CacheStats = z.infer<typeof cacheStatsSchema>;

/** Bumped by whoever reads on behalf of the filesystem. Blocks of 64 KiB. */
export type ReadCounters = Readonly<CacheStats["reads"]>;
export type MemoryTierStats = Readonly<CacheStats["l1"]>;
export type DiskTierStats = Readonly<NonNullable<CacheStats["l2"]>>;

/** One observation for each read of a run of blocks. */
export interface ReadLatencies {
  readonly l1: LatencyHistogram;
  readonly l2: LatencyHistogram;
  readonly canonical: LatencyHistogram;
}

/** Where the numbers come from. Everything here is called on the request loop and must take microseconds. */
export interface StatsSource {
  readonly reads: ReadCounters;
  readonly latency: ReadLatencies;
  l1(): MemoryTierStats;
  l2(): DiskTierStats | null;
  policy(): Readonly<Record<string, unknown>>;
  datasets(): readonly StagedDataset[];
  readonly wipes: Readonly<Record<string, number>>;
  node(): Readonly<CacheStats["node"]>;
  transport(): Readonly<CacheStats["transport"]>;
}

/** Who is asked. */
export type StatsIdentity = Pick<CacheStats, "version" | "pid" | "kind" | "mountpoint" | "tenant" | "startedAt" | "pool" | "mode">;

export function collectStats(identity: StatsIdentity, source: StatsSource): CacheStats {
  const { l1, l2, canonical } = source.latency;
  const { l1Hits, l2Hits, misses, bypasses } = source.reads;
  return {
    ...identity,
    policy: { ...source.policy() },
    reads: { l1Hits, l2Hits, misses, bypasses },
    latency: { l1: l1.snapshot(), l2: l2.snapshot(), canonical: canonical.snapshot() },
    l1: source.l1(),
    l2: source.l2(),
    datasets: [...source.datasets()],
    wipes: { ...source.wipes },
    node: source.node(),
    transport: source.transport(),
  };
}
