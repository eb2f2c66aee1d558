/**
 * How long something took, in buckets that double from 1 us to 67 s: an observation is a few integer operations (about 10 ns) and
 * allocates nothing. In the shape of a Prometheus histogram.
 */

/** 2^26 us are 67 s, longer than any request may take. */
const BOUNDED_BUCKETS = 27;

/** Upper bounds of the buckets but the last, in seconds. A value equal to a bound belongs to its bucket. */
export const LATENCY_BOUNDS_SECONDS: readonly number[] = Array.from({ length: BOUNDED_BUCKETS }, (_, i) => 2 ** i / 1e6);

/** A histogram at one moment. */
export interface LatencySnapshot {
  /** Observations in each bucket, not cumulative; the last one has no upper bound. */
  readonly counts: number[];
  readonly count: number;
  readonly sumSeconds: number;
}

export class LatencyHistogram {
  readonly #counts = new Float64Array(BOUNDED_BUCKETS + 1);
  #sumMs = 0;

  /** @param ms a difference of two performance.now(); not negative. */
  observe(ms: number): void {
    this.#sumMs += ms;
    const beyond = Math.ceil(ms * 1_000) - 1;
    // `| 0` would wrap from 2^31 us (36 minutes) on.
    const bucket = beyond >= 2 ** (BOUNDED_BUCKETS - 1) ? BOUNDED_BUCKETS : 32 - Math.clz32(Math.max(beyond, 0));
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
  }

  snapshot(): LatencySnapshot {
    const counts = [...this.#counts];
    return { counts, count: counts.reduce((sum, count) => sum + count, 0), sumSeconds: this.#sumMs / 1_000 };
  }
}

/** The bound below which a share `q` (0 to 1) of the observations lies, in seconds; null when there are none, Infinity for the last bucket. */
export function latencyQuantile({ counts, count }: LatencySnapshot, q: number): number | null {
  if (count === 0) return null;
  let seen = 0;
  for (const [bucket, inBucket] of counts.entries()) {
    seen += inBucket;
    if (seen >= q * count) return LATENCY_BOUNDS_SECONDS[bucket] ?? Number.POSITIVE_INFINITY;
  }
  return Number.POSITIVE_INFINITY;
}
