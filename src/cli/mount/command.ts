/** kiseki mount: reads the options and starts the mount, in the foreground or in a process of its own. */
import type { Command } from "commander";
import { MOUNT_OPTIONS } from "../../config/mount-options.ts";
import { collect, givenLongOptions, type LongOptions, toLongOption } from "../shared/long-options.ts";
import type { MountStart } from "./run.ts";

export function registerMount(program: Command): void {
  const command = program
    .command("mount")
    .description("mount a tenant's namespaces as a folder; goes to the background once it answers")
    .argument("<mountpoint>", "an empty folder")
    .option("-o <options>", "mount options, comma-separated: the long options below with _ for -, and the words of mount(8)", collect)
    .option("-f, --foreground", "stay; Ctrl-C unmounts");
  for (const option of MOUNT_OPTIONS) command.addOption(toLongOption(option));
  command.action(async (mountpoint: string, options: LongOptions & { o?: string[]; foreground?: boolean }) => {
    const { startMount } = await import("./run.ts");
    const start: MountStart = {
      mountpoint,
      given: givenLongOptions(options),
      words: options.o ?? [],
      foreground: options.foreground === true,
    };
    await startMount(start);
  });

  // What runs in the background: its settings come through standard input, so that no secret is in its arguments.
  program
    .command("mount-process", { hidden: true })
    .argument("<mountpoint>")
    .action(async () => {
      const { runMountProcess } = await import("./background.ts");
      await runMountProcess();
    });
}
