/** What kiseki cache does; loaded only for it. */

import { ControlClient, ControlUnreachable } from "../../cache/control/client.ts";
import { ControlError, type WipeReport } from "../../cache/control/control.ts";
import type { CacheStats } from "../../cache/control/stats.ts";
import { failureOf } from "../../client/failure-of.ts";
import { parseSeconds } from "../../config/units.ts";
import { CommandError, ExitStatus, reportFailure } from "../../process/failure.ts";
import { printable } from "../../process/printable.ts";
import { findRuntimeEntry, isRunning, type RuntimeEntry, runtimeEntries } from "../../process/runtime-file.ts";
import { untilStopped } from "../../process/stop-signal.ts";
import { isKisekiMount, resolveMountpoint } from "../shared/mountpoint.ts";
import { humanBytes } from "../shared/quantities.ts";
import type { CacheStatsOptions, CacheWipeOptions } from "./options.ts";
import { statsTable } from "./table.ts";

const WATCH_DEFAULT_MS = 2_000;
/** Faster would be the watching that is seen. */
const WATCH_MIN_MS = 100;
const WATCH_MAX_MS = 86_400_000;

/** @throws CommandError */
function watchIntervalMs(text: string | true): number {
  const ms = text === true ? WATCH_DEFAULT_MS : parseSeconds(text);
  if (ms === null || ms < WATCH_MIN_MS || ms > WATCH_MAX_MS) {
    throw new CommandError(ExitStatus.usage, `--watch ${text}: expected a time from 0.1 seconds to a day, such as 2 or 500ms`);
  }
  return ms;
}

/** The mounts that are asked about. @throws CommandError when there is none */
function chosenMounts(text: string | undefined): RuntimeEntry[] {
  if (text === undefined) {
    const entries = runtimeEntries().toSorted((a, b) => a.mountpoint.localeCompare(b.mountpoint));
    if (entries.length === 0) throw new CommandError(ExitStatus.failure, "no kiseki mount of this user is running");
    return entries;
  }
  const mountpoint = resolveMountpoint(text);
  const entry = findRuntimeEntry(mountpoint);
  if (entry !== null) return [entry];
  const why = isKisekiMount(mountpoint)
    ? "its process has ended, or belongs to another user"
    : "no kiseki mount; see: findmnt -t fuse.kiseki";
  throw new CommandError(ExitStatus.failure, `${mountpoint}: ${why}`);
}

async function ask<T>(entry: RuntimeEntry, question: (client: ControlClient) => Promise<T>): Promise<T> {
  const { mountpoint, control, pid } = entry;
  if (control === null) throw new CommandError(ExitStatus.failure, `${mountpoint}: this mount has no control socket; its log says why`);
  try {
    return await question(new ControlClient(control));
  } catch (error) {
    if (error instanceof ControlUnreachable) {
      throw new CommandError(ExitStatus.failure, `${mountpoint}: process ${pid} does not answer`, { cause: error });
    }
    if (error instanceof ControlError) throw new CommandError(ExitStatus.failure, `${mountpoint}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** Of several mounts, one that does not answer keeps nobody from seeing the others. @throws CommandError when no mount answers */
async function statsOf(entries: readonly RuntimeEntry[]): Promise<CacheStats[]> {
  const asked = await Promise.allSettled(entries.map((entry) => ask(entry, (client) => client.stats())));
  const answers = asked.filter((result) => result.status === "fulfilled").map(({ value }) => value);
  for (const [i, result] of asked.entries()) {
    const entry = entries[i];
    if (result.status === "fulfilled" || entry === undefined) continue;
    if (answers.length === 0) throw result.reason;
    // It may have ended since it was listed.
    if (isRunning(entry)) process.exitCode = reportFailure(failureOf(result.reason));
  }
  return answers;
}

/** @throws CommandError */
export async function cacheStats(mountpoint: string | undefined, options: CacheStatsOptions): Promise<void> {
  const intervalMs = options.watch === undefined ? null : watchIntervalMs(options.watch);
  const show = (all: readonly CacheStats[]): void => {
    const text = options.json === true ? all.map((stats) => JSON.stringify(stats)).join("\n") : all.map(statsTable).join("\n\n");
    process.stdout.write(`${text}\n`);
  };
  const stop = intervalMs === null ? null : untilStopped();
  do {
    const all = await statsOf(chosenMounts(mountpoint));
    // Home, and clear what is below (ECMA-48 CUP, ED): the screen is redrawn without flicker.
    if (intervalMs !== null && options.json !== true && process.stdout.isTTY) process.stdout.write("\x1b[H\x1b[J");
    show(all);
    if (intervalMs !== null) await pause(intervalMs, stop);
  } while (stop?.aborted === false);
}

function pause(ms: number, stop: AbortSignal | null): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  stop?.addEventListener("abort", () => {
    clearTimeout(timer);
    resolve();
  });
  return promise;
}

/** @throws CommandError */
export async function cacheWipe(mountpoint: string | undefined, options: CacheWipeOptions): Promise<void> {
  for (const entry of chosenMounts(mountpoint)) {
    const report = await ask(entry, (client) => client.wipe());
    process.stdout.write(
      `${options.json === true ? JSON.stringify({ mountpoint: entry.mountpoint, ...report }) : wiped(printable(entry.mountpoint), report)}\n`,
    );
  }
}

function wiped(mountpoint: string, { l1Bytes, l2Bytes, datasets }: WipeReport): string {
  const staged = datasets === 0 ? "" : `, ${datasets} staged dataset${datasets === 1 ? "" : "s"} among it`;
  return `${mountpoint}: wiped ${humanBytes(l1Bytes)} in memory and ${humanBytes(l2Bytes)} on disk${staged}`;
}
