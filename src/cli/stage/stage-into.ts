/** Staging into a pool whose process runs, with a report of how far it is. */
import { ControlUnreachable } from "../../cache/control/client.ts";
import type { StageProgress } from "../../cache/control/control.ts";
import type { StagedDataset } from "../../cache/control/stats.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { humanBytes } from "../shared/quantities.ts";
import type { LivingPool } from "./pools.ts";
import { stageReporter } from "./progress.ts";

export interface StageIntoOptions {
  readonly timeoutMs: number | null;
  readonly stop: AbortSignal;
}

/**
 * Has a running mount or daemon stage, and shows how far it is.
 * @throws CommandError: not complete; what was fetched stays there
 */
export async function stageInto(
  pool: Pick<LivingPool, "place" | "client">,
  path: string,
  options: StageIntoOptions,
): Promise<StagedDataset> {
  const { timeoutMs, stop } = options;
  const reporter = stageReporter(path);
  const request = timeoutMs === null ? { path } : { path, timeoutSeconds: timeoutMs / 1_000 };
  let reached: StageProgress | null = null;
  const interrupted = (cause: unknown): CommandError => {
    const kept =
      reached === null || reached.bytesDone === 0
        ? ""
        : `; ${humanBytes(reached.bytesDone)} are in pool ${pool.place.id}: the same command goes on from there`;
    return new CommandError(ExitStatus.failure, `${path}: interrupted${kept}`, { cause });
  };
  try {
    for await (const event of pool.client.stage(request, stop)) {
      if (event.type === "progress") {
        reached = event.progress;
        reporter.show(event.progress);
      } else if (event.type === "done") {
        return event.dataset;
      } else {
        throw new CommandError(event.error.exitStatus as ExitStatus, event.error.message);
      }
    }
  } catch (error) {
    if (stop.aborted) throw interrupted(error);
    if (error instanceof ControlUnreachable)
      throw new CommandError(ExitStatus.failure, `${path}: the process of pool ${pool.place.id} has ended`, { cause: error });
    throw error;
  } finally {
    reporter.end();
  }
  throw new CommandError(ExitStatus.failure, `${path}: the process of pool ${pool.place.id} has ended before all was staged`);
}
