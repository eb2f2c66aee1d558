/** What kiseki stage does; loaded only for it. */

import { existsSync } from "node:fs";
import { posix } from "node:path";
import type { StagedDataset } from "../../cache/control/stats.ts";
import type { PoolPlace } from "../../cache/pool/cache-folder.ts";
import { lockPath, readPoolRecord } from "../../cache/pool/pool-record.ts";
import { GivenOptions } from "../../config/mount-config.ts";
import { mountOptionsOfEnvironment } from "../../config/mount-options.ts";
import { parseSeconds } from "../../config/units.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { printable } from "../../process/printable.ts";
import { untilStopped } from "../../process/stop-signal.ts";
import { humanBytes, humanCount } from "../shared/quantities.ts";
import type { StageOrder } from "./options.ts";
import { chosenPool, livingPools, poolPlaces, userOf } from "./pools.ts";
import { stageInto } from "./stage-into.ts";

/** A week: longer is a typing error. */
const TIMEOUT_MAX_MS = 7 * 86_400_000;
/** How often the end of a pool is looked for. */
const DELETE_POLL_MS = 20;
const POOL_ID_PATTERN = /^[0-9a-f]{32}$/i;

function usage(message: string): CommandError {
  return new CommandError(ExitStatus.usage, message);
}

/** Absolute, in the tree of the mount, without a slash at the end. @throws CommandError */
function treePath(option: string, text: string): string {
  if (!text.startsWith("/") || text.includes("\0")) {
    throw usage(`${option} ${text}: expected an absolute path, as in the mount's tree: /data for MOUNTPOINT/data`);
  }
  const path = posix.normalize(text);
  return path === "/" ? path : path.replace(/\/$/, "");
}

/** @throws CommandError */
export async function runStage(order: StageOrder): Promise<void> {
  const actions = [order.dataset !== undefined, order.status, order.release !== undefined, order.releaseAll];
  if (actions.filter(Boolean).length !== 1) throw usage("give one of --dataset PATH, --status, --release PATH, --release-all");
  if (order.dataset === undefined && (order.daemon || order.timeout !== undefined)) throw usage("--daemon and --timeout go with --dataset");
  if (order.json && !order.status) throw usage("--json goes with --status");
  if (order.pool !== undefined && !POOL_ID_PATTERN.test(order.pool)) throw usage(`--pool ${order.pool}: expected 32 hexadecimal digits`);
  const given = new GivenOptions([order.given, mountOptionsOfEnvironment(process.env)]);
  const cacheDir = given.require("cache_dir");
  // A job's environment names the pool that was staged for it. A daemon that is started in it is for another one.
  const id = order.pool?.toLowerCase() ?? (order.daemon ? undefined : (given.read("cache_pool_id") ?? undefined));
  const filter = { tenant: given.read("tenant"), id };
  if (order.dataset !== undefined) {
    const path = treePath("--dataset", order.dataset);
    const timeoutMs = order.timeout === undefined ? null : parseTimeout(order.timeout);
    if (order.daemon) {
      const { stageByDaemon } = await import("./background.ts");
      await stageByDaemon({ given, path, timeoutMs, pool: id });
    } else {
      const pool = await chosenPool(cacheDir, filter);
      const dataset = await stageInto(pool, path, { timeoutMs, stop: untilStopped() });
      process.stdout.write(`kiseki: staged ${described(dataset)}, in pool ${pool.place.id}\n`);
    }
  } else if (order.status) {
    await showStatus(poolPlaces(cacheDir, filter), order.json);
  } else if (order.release !== undefined) {
    await releaseOne(cacheDir, filter, treePath("--release", order.release));
  } else {
    await releaseAll(cacheDir, filter);
  }
}

function parseTimeout(text: string): number {
  const ms = parseSeconds(text);
  if (ms === null || ms <= 0 || ms > TIMEOUT_MAX_MS) throw usage(`--timeout ${text}: expected a time up to a week, such as 600 or 10m`);
  return ms;
}

function described({ path, files, bytes }: Pick<StagedDataset, "path" | "files" | "bytes">): string {
  return `${printable(path)}: ${humanCount(files)} file${files === 1 ? "" : "s"}, ${humanBytes(bytes)}`;
}

async function showStatus(places: readonly PoolPlace[], json: boolean): Promise<void> {
  const pools = await livingPools(places);
  for (const { place, status } of pools) {
    if (json) {
      process.stdout.write(`${JSON.stringify({ ...status, path: place.path })}\n`);
      continue;
    }
    process.stdout.write(`pool ${place.id}  tenant ${place.tenant}, ${userOf(place)}\n`);
    for (const dataset of status.datasets) process.stdout.write(`  ${dataset.state.padEnd(10)}  ${described(dataset)}\n`);
    if (status.datasets.length === 0) process.stdout.write("  nothing is staged\n");
  }
  const living = new Set(pools.map(({ place }) => place.id));
  for (const { id, tenant } of json ? [] : places.filter((place) => !living.has(place.id))) {
    process.stdout.write(`pool ${id}  tenant ${tenant}, does not answer; if its process has died, kiseki scrub deletes it\n`);
  }
  if (places.length === 0 && !json) process.stdout.write("no mount or staging daemon has a pool here\n");
}

async function releaseOne(cacheDir: string, filter: Parameters<typeof poolPlaces>[1], path: string): Promise<void> {
  const living = await livingPools(poolPlaces(cacheDir, filter));
  const holding = living.filter(({ status }) => status.datasets.some((dataset) => dataset.path === path));
  if (holding.length === 0)
    throw new CommandError(ExitStatus.failure, `${path} is not staged in any pool here; see: kiseki stage --status`);
  if (holding.length > 1) {
    throw new CommandError(
      ExitStatus.failure,
      `${path} is staged in several pools: choose one with --pool: ${holding.map(({ place }) => place.id).join(", ")}`,
    );
  }
  for (const { client, place } of holding) {
    const { bytes } = await client.release({ path });
    process.stdout.write(`kiseki: released ${printable(path)}, ${humanBytes(bytes)} of pool ${place.id}\n`);
  }
}

/** Resolves when the pool is gone, or the process that deletes it. */
async function deleted(pool: string, pid: number): Promise<void> {
  while (existsSync(pool) && existsSync(`/proc/${pid}`)) await Bun.sleep(DELETE_POLL_MS);
}

async function releaseAll(cacheDir: string, filter: Parameters<typeof poolPlaces>[1]): Promise<void> {
  const living = await livingPools(poolPlaces(cacheDir, filter));
  for (const { client, place } of living) {
    const record = readPoolRecord(lockPath(place.path));
    const { released, bytes, ends } = await client.release({ all: true });
    if (ends && record !== null) await deleted(place.path, record.pid);
    const pool = ends ? `; pool ${place.id} is deleted` : ` of pool ${place.id}`;
    process.stdout.write(`kiseki: released ${released.length} dataset${released.length === 1 ? "" : "s"}, ${humanBytes(bytes)}${pool}\n`);
  }
  if (living.length === 0) process.stdout.write("kiseki: nothing is staged here\n");
}
