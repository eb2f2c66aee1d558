/** kiseki stage --daemon: finds the daemon that has the dataset, or starts one, and has it stage. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { packCredentials } from "../../client/credential-handover.ts";
import { failureOf } from "../../client/failure-of.ts";
import { openCredentials } from "../../client/open-credentials.ts";
import type { StageDaemonReady } from "../../client/stage-daemon.ts";
import type { ClientConfig, GivenOptions } from "../../config/mount-config.ts";
import { resolveClientConfig } from "../../config/mount-config.ts";
import type { Credentials } from "../../crypto/credentials.ts";
import { defaultLogFile, runBackground, startBackground } from "../../process/background-process.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { printable } from "../../process/printable.ts";
import { untilStopped } from "../../process/stop-signal.ts";
import { datasetId, datasetName } from "../../staging/datasets.ts";
import { humanBytes, humanCount } from "../shared/quantities.ts";
import { controlOf, type LivingPool, livingPools, poolPlaces, userOf } from "./pools.ts";
import { stageInto } from "./stage-into.ts";

export interface DaemonOrder {
  readonly given: GivenOptions;
  readonly path: string;
  readonly timeoutMs: number | null;
  /** undefined: the one that has the dataset, or a new one. */
  readonly pool: string | undefined;
}

/** Prints the pool's id on standard output when all is there. @throws CommandError */
export async function stageByDaemon({ given, path, timeoutMs, pool: id }: DaemonOrder): Promise<void> {
  const stop = untilStopped();
  const begin = performance.now();
  const config = { ...resolveClientConfig(given), cachePoolId: null };
  const credentials = await openCredentials(config);
  const pool =
    (await findDaemon({ config, tenant: credentials.tenant, path, id })) ?? (await startDaemon(config, credentials, { path, id }, stop));
  const leftMs = timeoutMs === null ? null : Math.max(timeoutMs - (performance.now() - begin), 1);
  const { files, bytes } = await stageInto(pool, path, { timeoutMs: leftMs, stop });
  process.stderr.write(`kiseki: staged ${printable(path)}: ${humanCount(files)} file${files === 1 ? "" : "s"}, ${humanBytes(bytes)}\n`);
  process.stdout.write(`${pool.place.id}\n`);
}

interface Wanted {
  readonly config: ClientConfig;
  readonly tenant: string;
  readonly path: string;
  readonly id: string | undefined;
}

/** The running daemon that is named, or that has the dataset, or a part of it; null: there is none. @throws CommandError: not a daemon's pool */
async function findDaemon({ config, tenant, path, id }: Wanted): Promise<LivingPool | null> {
  const living = await livingPools(poolPlaces(config.cacheDir, { tenant, id }));
  if (id === undefined) {
    const has = ({ status }: LivingPool): boolean => status.kind === "stage" && status.datasets.some((dataset) => dataset.path === path);
    return living.find(has) ?? null;
  }
  const [pool] = living;
  if (pool !== undefined && pool.status.kind !== "stage") {
    throw new CommandError(ExitStatus.failure, `pool ${id} is in use (${userOf(pool.place)}): to stage into it, leave --daemon out`);
  }
  return pool ?? null;
}

/** The pool of a daemon that has died, which has the dataset or a part of it. */
async function findDeadPool(config: ClientConfig, tenant: string, path: string): Promise<string | null> {
  const places = poolPlaces(config.cacheDir, { tenant, id: undefined });
  const dataset = datasetId(datasetName(config.namespaces, path));
  const having = places.filter(({ path: pool }) =>
    [".manifest", ".next"].some((suffix) => existsSync(join(pool, "staging", dataset + suffix))),
  );
  const living = new Set((await livingPools(having)).map(({ place }) => place.id));
  return having.find((place) => !living.has(place.id))?.id ?? null;
}

async function startDaemon(
  config: ClientConfig,
  credentials: Credentials,
  { path, id }: Pick<Wanted, "path" | "id">,
  stop: AbortSignal,
): Promise<Pick<LivingPool, "place" | "client">> {
  const start = async (cachePoolId: string | null): Promise<Pick<LivingPool, "place" | "client">> => {
    const logFile = config.logFile ?? defaultLogFile("stage");
    const { pool } = await startBackground<ClientConfig, StageDaemonReady>(
      {
        command: ["stage-process", path],
        name: "the staging daemon",
        config: { ...config, tenant: credentials.tenant, cachePoolId, logFile },
        logFile,
        secrets: packCredentials(credentials),
        interrupted: "interrupted; nothing is staged",
      },
      stop,
    );
    const [place] = poolPlaces(config.cacheDir, { tenant: credentials.tenant, id: pool });
    if (place === undefined) throw new CommandError(ExitStatus.failure, `the staging daemon ended at once; see ${logFile}`);
    return { place, client: controlOf(place) };
  };
  if (id !== undefined) return await start(id);
  const dead = await findDeadPool(config, credentials.tenant, path);
  if (dead === null) return await start(null);
  try {
    return await start(dead);
  } catch (error) {
    // A scrubber, or another daemon, was faster.
    if (!(error instanceof CommandError) || error.exitStatus !== ExitStatus.failure || stop.aborted) throw error;
    return await start(null);
  }
}

/** The other end: the body of `kiseki stage-process`. */
export async function runStageProcess(): Promise<void> {
  await runBackground<ClientConfig, StageDaemonReady>(async (job) => {
    const { stageDaemonMain } = await import("../../client/stage-daemon.ts");
    await stageDaemonMain(job);
  }, failureOf);
}
