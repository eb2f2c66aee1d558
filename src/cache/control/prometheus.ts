/**
 * The statistics in Prometheus's text format. Names follow https://prometheus.io/docs/practices/naming/: base units in the name,
 * _total behind counters. Made anew from the numbers at each scrape, so that counting costs nothing between scrapes.
 */
import { Counter, Gauge, type Metric, Registry } from "prom-client";
import { LATENCY_BOUNDS_SECONDS, type LatencySnapshot } from "./latency-histogram.ts";
import type { CacheStats } from "./stats.ts";

export const METRICS_CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];

class Page {
  readonly registry = new Registry();

  gauge(name: string, help: string, samples: readonly Sample[]): void {
    const gauge = new Gauge({ name, help, labelNames: labelNames(samples), registers: [this.registry] });
    for (const [labels, value] of samples) gauge.set(labels, value);
  }

  counter(name: string, help: string, samples: readonly Sample[]): void {
    const counter = new Counter({ name, help, labelNames: labelNames(samples), registers: [this.registry] });
    for (const [labels, value] of samples) counter.inc(labels, value);
  }

  histogram(name: string, help: string, samples: readonly (readonly [labels: Labels, value: LatencySnapshot])[]): void {
    const values = samples.flatMap(([labels, { counts, count, sumSeconds }]) => {
      let below = 0;
      const buckets = LATENCY_BOUNDS_SECONDS.map((le, bucket) => {
        below += counts[bucket] ?? 0;
        return { metricName: `${name}_bucket`, labels: { ...labels, le }, value: below };
      });
      return [
        ...buckets,
        { metricName: `${name}_bucket`, labels: { ...labels, le: "+Inf" }, value: count },
        { metricName: `${name}_sum`, labels, value: sumSeconds },
        { metricName: `${name}_count`, labels, value: count },
      ];
    });
    // The library's own Histogram counts by itself; its registry asks a metric for nothing but this.
    const metric = { name, get: async () => ({ name, help, type: "histogram", values, aggregator: "sum" }) };
    this.registry.registerMetric(metric as unknown as Metric);
  }
}

function labelNames(samples: readonly Sample[]): string[] {
  return [...new Set(samples.flatMap(([labels]) => Object.keys(labels)))];
}

function by(label: string, values: Readonly<Record<string, number>>): Sample[] {
  return Object.entries(values).map(([key, value]) => [{ [label]: key }, value]);
}

/** The body of GET /metrics. */
export function prometheusText(stats: CacheStats): Promise<string> {
  const page = new Page();
  const { l1, l2, reads, latency, datasets } = stats;
  const identity = { version: stats.version, tenant: stats.tenant, kind: stats.kind, mode: stats.mode };
  const where = { mountpoint: stats.mountpoint ?? "", pool: stats.pool?.id ?? "" };
  page.gauge("kiseki_cache_info", "Who is asked. Always 1.", [[{ ...identity, ...where }, 1]]);
  page.gauge("kiseki_start_time_seconds", "When this process started, since 1970.", [[{}, Date.parse(stats.startedAt) / 1_000]]);

  page.counter("kiseki_cache_hits_total", "Blocks of 64 KiB that were read from a tier of the cache.", [
    [{ tier: "l1" }, reads.l1Hits],
    [{ tier: "l2" }, reads.l2Hits],
  ]);
  page.counter("kiseki_cache_misses_total", "Blocks of 64 KiB that were in no tier and came from a storage node.", [[{}, reads.misses]]);
  page.counter("kiseki_cache_bypasses_total", "Blocks of 64 KiB that were read past the cache.", [[{}, reads.bypasses]]);
  page.histogram("kiseki_cache_read_duration_seconds", "Time to bring a run of blocks from where it was.", [
    [{ tier: "l1" }, latency.l1],
    [{ tier: "l2" }, latency.l2],
    [{ tier: "canonical" }, latency.canonical],
  ]);

  const tiers = (l1Value: number, l2Value: number | undefined): Sample[] => [
    [{ tier: "l1" }, l1Value],
    ...(l2Value === undefined ? [] : [[{ tier: "l2" }, l2Value] as const]),
  ];
  page.gauge("kiseki_cache_size_bytes", "Bytes in a tier.", tiers(l1.bytes, l2?.bytes));
  page.gauge("kiseki_cache_capacity_bytes", "Bytes that a tier may hold.", tiers(l1.maxBytes, l2?.maxBytes));
  page.gauge("kiseki_cache_entries", "Blocks in l1, chunks in l2.", tiers(l1.entries, l2?.entries));
  page.counter("kiseki_cache_evictions_total", "Entries that made room for others.", tiers(l1.evictions, l2?.evictions));
  if (l2 !== null) {
    page.gauge("kiseki_cache_pinned_bytes", "Bytes on the disk that are never evicted.", [[{}, l2.pinnedBytes]]);
    page.counter("kiseki_cache_insertions_total", "Blocks of 64 KiB written to the disk.", [[{}, l2.insertions]]);
    page.counter("kiseki_cache_insertions_dropped_total", "Blocks of 64 KiB not written, for want of time.", [[{}, l2.dropped]]);
    page.counter(
      "kiseki_cache_insertions_refused_total",
      "Blocks of 64 KiB not written, for want of room: what is there stays, or is worth more.",
      [[{}, l2.refused]],
    );
    page.counter("kiseki_cache_faults_total", "Faults of the disk cache; what was asked for came from a node.", by("kind", l2.faults));
    page.gauge("kiseki_cache_disk_in_use", "0: given up for this session after faults.", [[{}, l2.outOfUse === null ? 1 : 0]]);
  }
  page.counter("kiseki_node_lies_total", "Answers of a storage node that could not be true; nothing of them was used.", [
    [{}, stats.node.lies],
  ]);
  const { transport } = stats;
  const byPath = (fabric: number, tls: number): Sample[] => [
    [{ transport: "fabric", provider: transport.fabric ?? "" }, fabric],
    [{ transport: "tls", provider: "" }, tls],
  ];
  page.counter("kiseki_transfers_total", "Bodies of chunks that were moved.", byPath(transport.fabricTransfers, transport.tlsTransfers));
  page.counter("kiseki_transfer_bytes_total", "Their bytes, sealed.", byPath(transport.fabricBytes, transport.tlsBytes));
  page.counter("kiseki_transfer_fallbacks_total", "Bodies that the fabric did not carry, and TLS did.", [[{}, transport.fallbacks]]);
  page.gauge("kiseki_fabric_paths", "Threads that use the fabric now.", [[{}, transport.openPaths]]);
  const lostSince = stats.node.lostSince === null ? 0 : Date.parse(stats.node.lostSince) / 1_000;
  page.gauge("kiseki_node_connected", "1: a storage node is connected.", [[{}, stats.node.connected ? 1 : 0]]);
  page.gauge("kiseki_node_lost_since_seconds", "When the connection was lost, since 1970; 0: it is there.", [[{}, lostSince]]);
  const expire = Date.parse(stats.node.credentialsExpire) / 1_000;
  page.gauge("kiseki_credentials_expire_timestamp_seconds", "When the client's certificate ends, since 1970.", [[{}, expire]]);
  page.counter("kiseki_cache_wipes_total", "Times that everything was wiped.", by("reason", stats.wipes));

  const sum = (state: string, of: (dataset: CacheStats["datasets"][number]) => number): Sample => [
    { state },
    datasets.filter((dataset) => dataset.state === state).reduce((total, dataset) => total + of(dataset), 0),
  ];
  const states = ["complete", "staging", "incomplete"];
  page.gauge(
    "kiseki_staged_datasets",
    "Datasets in the pool.",
    states.map((state) => sum(state, () => 1)),
  );
  page.gauge(
    "kiseki_staged_files",
    "Their files.",
    states.map((state) => sum(state, ({ files }) => files)),
  );
  page.gauge(
    "kiseki_staged_bytes",
    "Their bytes.",
    states.map((state) => sum(state, ({ bytes }) => bytes)),
  );
  return page.registry.metrics();
}
