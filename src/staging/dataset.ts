/** A dataset that is in the pool, whole or in part. */
import type { DatasetName, Manifest } from "./manifest.ts";

export interface Dataset {
  readonly id: string;
  readonly name: DatasetName;
  /** What is served; null: it was never complete. */
  manifest: Manifest | null;
  /** Bytes that its parts were found damaged or missing: they come from the node. */
  isDamaged: boolean;
  totals: { files: number; bytes: number };
}
