/** mount.kiseki, as mount(8) calls it for `mount -t kiseki` and for fstab. */

import { failureOf } from "../../client/failure-of.ts";
import { parseMountHelperArguments, parseMountSpec } from "../../config/mount-spec.ts";
import { reportFailure } from "../../process/failure.ts";
import { prepareMount, startPreparedMount } from "./run.ts";

/** mount(8), "EXIT STATUS": incorrect invocation or permissions; mount failure. */
const MOUNT_EX_USAGE = 1;
const MOUNT_EX_FAIL = 32;
/** mount(8) keeps these words to itself, as they are its defaults, and passes nosuid and nodev on. */
const MOUNT8_DEFAULTS = "suid,dev";

/** Ends the process with a status of mount(8) when it fails. */
export async function mountHelper(args: readonly string[]): Promise<void> {
  try {
    const { spec, mountpoint, options, sloppy, fake } = parseMountHelperArguments(args);
    const prepared = await prepareMount({
      mountpoint,
      given: parseMountSpec(spec),
      // What a remount doesn't name stays.
      words: options.some((text) => text.split(",").includes("remount")) ? options : [MOUNT8_DEFAULTS, ...options],
      sloppy,
      foreground: false,
    });
    if (prepared !== null && !fake) await startPreparedMount(prepared);
  } catch (error) {
    const failure = failureOf(error);
    const status = reportFailure(failure);
    process.exit(status === 2 ? MOUNT_EX_USAGE : MOUNT_EX_FAIL);
  }
}
