/** The caches of a client, as the control socket shows them. */
import { ControlError, type ControlledCaches } from "../cache/control/control.ts";
import type { StatsSource } from "../cache/control/stats.ts";
import { BLOCK_BYTES } from "../protocol/limits.ts";
import type { Client } from "./open-client.ts";

export function controlledCaches(client: Client): ControlledCaches {
  const { arena, disk, node, policy, pool, settings, staging, store, lifecycle, transfer } = client;
  const stats: StatsSource = {
    reads: store.reads,
    latency: store.reads.latency,
    l1: () => {
      const entries = arena.cachedCount;
      return { maxBytes: arena.cellCount * BLOCK_BYTES, bytes: entries * BLOCK_BYTES, entries, evictions: arena.evictions };
    },
    l2: () => disk?.stats() ?? null,
    policy: () => ({ ...policy }),
    datasets: () => staging?.datasets() ?? [],
    wipes: lifecycle.wipes,
    node: () => ({
      lies: node.lies,
      connected: node.connected,
      lostSince: node.lostSince?.toISOString() ?? null,
      refusal: node.refusal,
      credentialsExpire: client.credentialsExpire.toISOString(),
    }),
    transport: () => ({ fabric: transfer.fabric, ...transfer.totals }),
  };
  return {
    mode: settings.cacheMode,
    pool: pool === null ? null : { id: pool.id, path: pool.path },
    stats,
    wipe: async () => {
      const before = { l1Bytes: stats.l1().bytes, l2Bytes: stats.l2()?.bytes ?? 0, datasets: stats.datasets().length };
      await lifecycle.wipe();
      return before;
    },
    staging: () => {
      if (staging !== null) return staging;
      const why = policy.staging_enabled ? "there is no disk cache to stage into" : "the cache policy does not allow staging";
      throw new ControlError("conflict", why);
    },
  };
}
