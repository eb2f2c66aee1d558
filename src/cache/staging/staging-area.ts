/**
 * What others see of staging. One for a mount or a staging daemon that has a pool: the datasets in the pool, the snapshot in front of the
 * node (snapshot-calls.ts), and the stager.
 */

import type { StagedImages } from "../backing-file.ts";
import type { StageProgress, StagingControl } from "../control/control.ts";
import type { StagedDataset } from "../control/stats.ts";

export interface StageOptions {
  readonly signal?: AbortSignal;
  /** Fails with StagingError "timeout" when it is not complete by then. */
  readonly timeoutMs?: number;
  /** Called some ten times a second, and once at the end. */
  readonly onProgress?: (progress: StageProgress) => void;
}

export interface Staging extends StagingControl, StagedImages {
  /** Resolves when everything is there and the snapshot holds. @throws StagingError */
  stage(path: string, options?: StageOptions): Promise<void>;
  /** Unpins and zeroizes. Resolves to the bytes that were freed. @throws ControlError not_found, conflict */
  release(path: string): Promise<number>;
  releaseAll(): Promise<number>;
  datasets(): readonly StagedDataset[];
}
