/** Counts where the blocks of a mount come from. Plain fields, so that counting is an addition; somebody reads them now and then. */
import { LatencyHistogram } from "./latency-histogram.ts";
import type { ReadCounters, ReadLatencies } from "./stats.ts";

export class ReadStats implements ReadCounters {
  l1Hits = 0;
  l2Hits = 0;
  misses = 0;
  bypasses = 0;
  readonly latency: ReadLatencies = { l1: new LatencyHistogram(), l2: new LatencyHistogram(), canonical: new LatencyHistogram() };
}
