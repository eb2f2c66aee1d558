/** A mount in the background: background-process.ts, and that the mount answers. */
import { stat } from "node:fs/promises";
import { packCredentials, unpackCredentials } from "../../client/credential-handover.ts";
import { failureOf } from "../../client/failure-of.ts";
import type { MountConfig } from "../../config/mount-config.ts";
import type { Credentials } from "../../crypto/credentials.ts";
import { defaultLogFile, runBackground, startBackground } from "../../process/background-process.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";
import { untilStopped } from "../../process/stop-signal.ts";
import { isKisekiMount } from "../shared/mountpoint.ts";

/** The kernel has answered the mount process already: its answer to us takes milliseconds. */
const READY_STAT_TIMEOUT_MS = 10_000;

/**
 * Starts the mount process and returns when the mount answers.
 * @throws CommandError with the mount process's own message and exit status.
 */
export async function startInBackground(config: MountConfig, credentials: Credentials): Promise<void> {
  // A log of its own for each mountpoint: /mnt/data logs to mnt-data.log.
  const logFile = config.logFile ?? defaultLogFile(config.mountpoint.replace(/^\//, "").replaceAll("/", "-") || "root");
  const start = {
    command: ["mount-process", config.mountpoint],
    name: "the mount process",
    config: { ...config, logFile },
    logFile,
    secrets: packCredentials(credentials),
    interrupted: "interrupted; nothing is mounted",
  };
  await startBackground<MountConfig, true>(start, untilStopped());
  await confirm(config.mountpoint, logFile);
}

/** Asks the mount for its root folder, as its users will. */
async function confirm(mountpoint: string, logFile: string): Promise<void> {
  const late = Bun.sleep(READY_STAT_TIMEOUT_MS).then(() => {
    throw new CommandError(
      ExitStatus.failure,
      `${mountpoint} is mounted but does not answer; see ${logFile}, or unmount it with: kiseki umount --lazy ${mountpoint}`,
    );
  });
  await Promise.race([stat(mountpoint), late]);
  if (!isKisekiMount(mountpoint)) throw new CommandError(ExitStatus.failure, `${mountpoint} was unmounted at once; see ${logFile}`);
}

/** The other end: the body of `kiseki mount-process`. */
export async function runMountProcess(): Promise<void> {
  await runBackground<MountConfig, true>(async ({ onReady, secrets, ...job }) => {
    const { mountMain } = await import("../../client/mount-process.ts");
    await mountMain({ ...job, credentials: unpackCredentials(secrets), onReady: () => onReady(true) });
  }, failureOf);
}
