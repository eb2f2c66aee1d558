/** What kiseki scrub does; loaded only for it. */

import { lstatSync, readdirSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { CacheFolder } from "../../cache/pool/cache-folder.ts";
import type { PoolRecord } from "../../cache/pool/pool-record.ts";
import { type ScrubbedPool, scrub } from "../../cache/pool/scrub.ts";
import { defaultCacheDir } from "../../config/cache-dir.ts";
import { parseSeconds } from "../../config/units.ts";
import { clearDeadMount } from "../../mount/mountpoint.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { ownCommand } from "../../process/own-command.ts";
import { printable } from "../../process/printable.ts";
import { findRuntimeEntry } from "../../process/runtime-file.ts";
import { untilStopped } from "../../process/stop-signal.ts";
import { humanBytes, humanCount } from "../shared/quantities.ts";
import type { ScrubCommandOptions } from "./options.ts";

/** More often would be work for nothing: a dead process is looked for, not an event waited for. */
const WATCH_MIN_MS = 100;
const WATCH_MAX_MS = 86_400_000;
/** A wipe that takes longer tells on a terminal how far it is. */
const PROGRESS_INTERVAL_MS = 500;

/** @throws CommandError: a pool could not be wiped; a folder is refused; wrong usage */
export async function scrubCommand(options: ScrubCommandOptions): Promise<void> {
  const intervalMs = options.watch === undefined ? null : watchIntervalMs(options.watch);
  const stop = intervalMs === null ? null : untilStopped();
  let failure: unknown = null;
  do {
    failure = await scrubFolders(chosenFolders(options), options);
    if (intervalMs === null) break;
    // A folder that can't be scrubbed now may be the next time.
    if (failure !== null) process.stderr.write(`kiseki: ${printable((failure as Error).message)}\n`);
    await pause(intervalMs, stop);
  } while (stop?.aborted !== true);
  if (failure !== null && intervalMs === null) throw failure;
}

function watchIntervalMs(text: string): number {
  const ms = parseSeconds(text);
  if (ms === null || ms < WATCH_MIN_MS || ms > WATCH_MAX_MS) {
    throw new CommandError(ExitStatus.usage, `--watch ${text}: expected a time from 0.1 seconds to a day, such as 60 or 500ms`);
  }
  return ms;
}

function chosenFolders(options: ScrubCommandOptions): string[] {
  const given = options.cacheDir ?? process.env.KISEKI_CACHE_DIR;
  if (given !== undefined && given !== "") {
    if (given.includes("\0") || (options.cacheDir === undefined && !isAbsolute(given))) {
      throw new CommandError(ExitStatus.usage, `KISEKI_CACHE_DIR=${given}: expected an absolute path`);
    }
    return [resolve(given)];
  }
  const own = defaultCacheDir();
  return process.geteuid?.() === 0 ? [own, ...usersFolders()] : [own];
}

/** The default folders of other users, whose processes may never come back to this machine. */
function usersFolders(): string[] {
  return readdirSync("/tmp")
    .filter((name) => {
      const uid = /^kiseki-cache-(\d{1,10})$/.exec(name)?.[1];
      const stat = uid === undefined ? undefined : lstatSync(join("/tmp", name), { throwIfNoEntry: false });
      return stat?.isDirectory() === true && stat.uid === Number(uid);
    })
    .map((name) => join("/tmp", name));
}

/** Returns the first failure, after all folders have had their turn. */
async function scrubFolders(paths: readonly string[], options: ScrubCommandOptions): Promise<unknown> {
  let failure: unknown = null;
  for (const path of paths) {
    try {
      if (paths.length > 1 && isForeign(path)) await scrubInChild(path, options);
      else await scrubFolder(path, options);
    } catch (error) {
      failure ??= error;
    }
  }
  return failure;
}

function isForeign(path: string): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return process.geteuid?.() === 0 && stat?.isDirectory() === true && stat.uid !== 0;
}

/** A process becomes another user for good: so there is one for each. It prints for itself. */
async function scrubInChild(path: string, { dryRun, json }: ScrubCommandOptions): Promise<void> {
  const flags = [...(dryRun === true ? ["--dry-run"] : []), ...(json === true ? ["--json"] : [])];
  const child = Bun.spawn([...ownCommand(), "scrub", "--cache-dir", path, ...flags], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  if ((await child.exited) !== 0) throw new CommandError(ExitStatus.failure, `${path}: could not be scrubbed`);
}

/** Root does not follow where another user may lead it: in that user's folder it acts as that user. */
function becomeOwner(path: string): void {
  if (!isForeign(path)) return;
  const { uid, gid } = lstatSync(path);
  process.setgroups?.([]);
  process.setgid?.(gid);
  process.setuid?.(uid);
}

async function scrubFolder(path: string, options: ScrubCommandOptions): Promise<void> {
  becomeOwner(path);
  const folder = CacheFolder.openExisting(path);
  const print = (pool: ScrubbedPool): void => {
    if (options.json !== true && pool.state !== "live") process.stdout.write(`${printable(poolLine(path, pool))}\n`);
  };
  const pools =
    folder === null ? [] : await scrub(folder, { dryRun: options.dryRun, beforeWipe: letGoOf, onPool: print, onProgress: progressLine() });
  const count = (state: ScrubbedPool["state"]): number => pools.filter((pool) => pool.state === state).length;
  if (options.json === true) {
    const counts = { wiped: count("wiped"), dead: count("dead"), live: count("live"), failed: count("failed") };
    process.stdout.write(`${JSON.stringify({ cacheDir: path, dryRun: options.dryRun === true, ...counts, pools })}\n`);
  } else if (options.watch === undefined && pools.every((pool) => pool.state === "live")) {
    process.stdout.write(`${printable(path)}: nothing to scrub${pools.length === 0 ? "" : `, ${pools.length} in use`}\n`);
  }
  const failed = pools.find((pool) => pool.state === "failed");
  if (failed === undefined) return;
  const [fault] = failed.faults;
  throw new CommandError(
    ExitStatus.failure,
    `${count("failed")} of ${pools.length} pools in ${path} could not be wiped; the first: ${fault?.path}: ${fault?.reason}`,
  );
}

/** A dead mount keeps images of staged files open in the kernel, and these can't be wiped. */
async function letGoOf({ mountpoint }: PoolRecord): Promise<void> {
  if (mountpoint !== null) await clearDeadMount(mountpoint, (place) => findRuntimeEntry(place) !== null);
}

function poolLine(folder: string, { tenant, id, state, pid, files, bytes, faults }: ScrubbedPool): string {
  const whose = pid === null ? "" : ` of process ${pid}, which has died`;
  const what = `${folder}/${tenant}/${id}`;
  switch (state) {
    case "wiped":
      return `${what}: wiped ${humanCount(files)} files (${humanBytes(bytes)})${whose}`;
    case "dead":
      return `${what}: at most ${humanBytes(bytes)}${whose}`;
    case "failed":
      return `${what}: not wiped${faults[0] === undefined ? "" : ` (${faults[0].reason})`}`;
    case "live":
      return `${what}: in use`;
  }
}

/** How far the wipe of a pool is, on one line of a terminal. */
function progressLine(): (place: { id: string }, progress: { bytesDone: number; bytesTotal: number }) => void {
  let toldAt = performance.now();
  return ({ id }, { bytesDone, bytesTotal }) => {
    const now = performance.now();
    if (!process.stderr.isTTY || now - toldAt < PROGRESS_INTERVAL_MS) return;
    toldAt = now;
    // ECMA-48 EL: what a longer line has left goes.
    process.stderr.write(
      `\r${id}: ${humanBytes(bytesDone)} of ${humanBytes(bytesTotal)} overwritten\x1b[K${bytesDone >= bytesTotal ? "\n" : ""}`,
    );
  };
}

function pause(ms: number, stop: AbortSignal | null): Promise<void> {
  const { promise, resolve: done } = Promise.withResolvers<void>();
  const timer = setTimeout(done, ms);
  stop?.addEventListener("abort", () => {
    clearTimeout(timer);
    done();
  });
  return promise;
}
