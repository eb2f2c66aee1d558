/** The common way to a mount, from the command line or from mount(8): settings, credentials, then the process that keeps it. */

import { certificateEnd, expiryWarning } from "../../client/certificate-end.ts";
import type { MountJob } from "../../client/mount-job.ts";
import { openCredentials } from "../../client/open-credentials.ts";
import { resolveMountConfig } from "../../config/mount-config.ts";
import { type GivenOption, mountOptionsOfEnvironment, parseMountWords } from "../../config/mount-options.ts";
import { createLogger, reopenLog } from "../../log.ts";
import { enterServingEnvironment } from "../../process/own-command.ts";
import { whileServing } from "../../process/stop-signal.ts";
import { checkIsFolder, resolveMountpoint } from "../shared/mountpoint.ts";
import { startInBackground } from "./background.ts";
import { remountCommand } from "./remount.ts";

/** What was asked for. */
export interface MountStart {
  readonly mountpoint: string;
  /** Long options, or what the SPEC of mount(8) says. */
  readonly given: readonly GivenOption[];
  /** The argument of each -o. */
  readonly words: readonly string[];
  /** Ignore unknown -o words. */
  readonly sloppy?: boolean;
  readonly foreground: boolean;
}

/** Checked settings and opened credentials: everything that a mount process needs. */
export type PreparedMount = Pick<MountJob, "config" | "credentials"> & { readonly foreground: boolean };

/**
 * null: it was a remount, which is done.
 * @throws ConfigError, CommandError, CredentialsError: before anything is mounted.
 */
export async function prepareMount(start: MountStart): Promise<PreparedMount | null> {
  const { given, kernelFlags, remount } = parseMountWords(start.words, start.sloppy);
  if (remount !== null) {
    remountCommand(resolveMountpoint(start.mountpoint), remount);
    return null;
  }
  const mountpoint = resolveMountpoint(start.mountpoint);
  const config = resolveMountConfig(mountpoint, [start.given, given, mountOptionsOfEnvironment(process.env)], kernelFlags);
  checkIsFolder(mountpoint);
  const credentials = await openCredentials(config);
  const warning = expiryWarning(credentials);
  // Once they have expired, the failure says so.
  if (warning !== null && certificateEnd(credentials.cert) > new Date()) process.stderr.write(`kiseki: warning: ${warning}\n`);
  return { config: { ...config, tenant: credentials.tenant }, credentials, foreground: start.foreground };
}

/** Returns when the mount has ended (foreground) or answers (background). */
export async function startPreparedMount(prepared: PreparedMount): Promise<void> {
  const { config, credentials } = prepared;
  if (!prepared.foreground) {
    await startInBackground(config, credentials);
    return;
  }
  // Not before it is needed: it loads libfuse, and the parent of a background mount must not.
  const { mountMain } = await import("../../client/mount-process.ts");
  const log = createLogger(config.logLevel, config.logFile);
  await mountMain({
    config,
    credentials,
    log,
    stop: whileServing(() => reopenLog(log)),
    onReady: () => {},
  });
}

export async function startMount(start: MountStart): Promise<void> {
  if (start.foreground) enterServingEnvironment();
  const prepared = await prepareMount(start);
  if (prepared !== null) await startPreparedMount(prepared);
}
