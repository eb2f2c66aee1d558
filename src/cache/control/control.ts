/**
 * What can be asked of a running mount or staging daemon, over HTTP on its control socket. Declared here, implemented by the parts of the
 * cache: the server knows only these interfaces.
 *
 *     GET  /stats     CacheStats
 *     GET  /metrics   the same for Prometheus
 *     GET  /status    PoolStatus
 *     POST /wipe      {}                        -> WipeReport
 *     POST /stage     {path, timeoutSeconds?}   -> lines of JSON: StageEvent, the last one "done" or "failed"
 *     POST /release   {path} or {all: true}     -> ReleaseReport
 *     POST /handover  {socket}                  -> {} when the lock has been sent
 *
 * A failure is {error: {code, message}} with a status of 400 (bad request), 404, 409 (not in this state) or 500.
 */
import { z } from "zod";
import { type CacheStats, type StagedDataset, type StatsSource, stagedDatasetSchema } from "./stats.ts";

/** Of the socket, in the folder of a pool. */
export const CONTROL_SOCKET = "control.sock";

/** A path in the tree of a mount: absolute, normalized. */
const treePath = z
  .string()
  .min(1)
  .max(4_096)
  .refine((path) => path.startsWith("/") && !path.includes("\0"), "expected an absolute path");

export const stageRequestSchema = z.object({ path: treePath, timeoutSeconds: z.number().positive().optional() });
export const releaseRequestSchema = z.union([z.object({ path: treePath }), z.object({ all: z.literal(true) })]);
export const handOverRequestSchema = z.object({ socket: z.string().regex(/^adopt-\d{1,10}\.sock$/) });

export const stageProgressSchema = z.object({
  /** What is known so far: they grow while the folders are walked. */
  files: z.number(),
  bytes: z.number(),
  filesDone: z.number(),
  bytesDone: z.number(),
  /** The walk is over: files and bytes are final. */
  walked: z.boolean(),
});
export type StageProgress = z.infer<typeof stageProgressSchema>;

export const stageEventSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("progress"), progress: stageProgressSchema }),
  z.object({ type: z.literal("done"), dataset: stagedDatasetSchema }),
  z.object({ type: z.literal("failed"), error: z.object({ code: z.string(), message: z.string(), exitStatus: z.number() }) }),
]);
export type StageEvent = z.infer<typeof stageEventSchema>;

export const poolStatusSchema = z.object({
  pool: z.string().nullable(),
  kind: z.enum(["mount", "stage"]),
  tenant: z.string(),
  mountpoint: z.string().nullable(),
  datasets: z.array(stagedDatasetSchema),
});
export type PoolStatus = z.infer<typeof poolStatusSchema>;

export const wipeReportSchema = z.object({ l1Bytes: z.number(), l2Bytes: z.number(), datasets: z.number() });
export type WipeReport = z.infer<typeof wipeReportSchema>;

export const releaseReportSchema = z.object({
  released: z.array(z.string()),
  bytes: z.number(),
  /** A staging daemon that keeps nothing any more ends, and deletes its pool. */
  ends: z.boolean(),
});
export type ReleaseReport = z.infer<typeof releaseReportSchema>;

/** A request that can't be done in this state, or of which the object does not exist: its message is complete. */
export class ControlError extends Error {
  override readonly name = "ControlError";
  readonly code: "not_found" | "conflict" | "bad_request";

  constructor(code: ControlError["code"], message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

export interface StageControlOptions {
  readonly signal: AbortSignal;
  /** Fails when it is not complete by then. */
  readonly timeoutMs?: number;
  readonly onProgress: (progress: StageProgress) => void;
}

/** Staging, as the stager does it. */
export interface StagingControl {
  /**
   * Stages a file, or a folder with all below. Resolves when it is complete; goes on where an earlier try stopped. Rejects soon after
   * `signal` is aborted, and what was fetched stays for the next try.
   */
  stage(path: string, options: StageControlOptions): Promise<void>;
  datasets(): readonly StagedDataset[];
  /** Unpins and zeroizes. Resolves to the bytes that were freed. @throws ControlError not_found */
  release(path: string): Promise<number>;
}

/** The caches of this process, however they are put together. */
export interface ControlledCaches {
  readonly mode: CacheStats["mode"];
  readonly pool: CacheStats["pool"];
  readonly stats: StatsSource;
  wipe(): Promise<WipeReport>;
  /** @throws ControlError conflict: this process stages nothing (no pool, or the policy forbids it) */
  staging(): StagingControl;
}

/** A mount or a staging daemon. */
export interface ControlTarget {
  readonly kind: "mount" | "stage";
  /** Takes microseconds. */
  stats(): CacheStats;
  /** Empties both tiers, staged data too, and zeroizes what was in them. */
  wipe(): Promise<WipeReport>;
  /** @throws ControlError conflict: this process stages nothing (no pool, or the policy forbids it) */
  staging(): StagingControl;
  /** Gives the pool's lock to who listens on this socket in the pool's folder, and ends. Absent: this pool is in use by a mount. */
  readonly handOver?: (socketName: string) => Promise<void>;
  /** The last dataset of a staging daemon was released: end, and delete the pool. */
  readonly end?: () => void;
}
