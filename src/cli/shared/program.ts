/** Starts the command that the arguments name and turns its failure into a line and an exit status. */
import { basename } from "node:path";
import { Command, CommanderError } from "commander";
import { failureOf } from "../../client/failure-of.ts";
import { ExitStatus, reportFailure } from "../../process/failure.ts";
import { VERSION } from "../../version.ts";

/** mount(8) runs the files of these names: for `mount -t kiseki`, and for what it finds mounted (`mount -o remount`). */
const MOUNT_HELPER_NAMES = ["mount.kiseki", "mount.fuse.kiseki"];

/** The program without its commands. They must be added after this, to inherit its settings. */
export function createProgram(): Command {
  return new Command("kiseki")
    .description("An encrypted distributed filesystem in one binary.")
    .version(VERSION)
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(`kiseki: ${text.replace(/^error: /, "")}`) })
    .helpCommand(false);
}

/**
 * Runs to the end of the command, then ends the process with its exit status. A command's promise is its life: nothing that it
 * leaves open keeps the process.
 */
export async function run(program: Command): Promise<never> {
  try {
    // process.argv0 is the name as typed or given by mount(8), also in the compiled binary, where argv[0] is "bun".
    if (MOUNT_HELPER_NAMES.includes(basename(process.argv0))) {
      const { mountHelper } = await import("../mount/helper.ts");
      await mountHelper(process.argv.slice(2));
    } else {
      await program.parseAsync();
    }
  } catch (error) {
    // commander has said what was wrong, or printed its help, already.
    if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? ExitStatus.ok : ExitStatus.usage);
    process.exit(reportFailure(failureOf(error)));
  }
  process.exit();
}
