/** kiseki mount: reads the options and starts the mount, in the foreground or in a process of its own. */
import { type Command, Option } from "commander";
import { type GivenOption, longOption, MOUNT_OPTIONS, type MountOption } from "../config/mount-options.ts";
import type { MountStart } from "./mount-start.ts";

/** What commander hands over: the long options by their names in camel case. */
type LongOptions = Record<string, string | string[] | boolean | undefined>;

function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}

function describe(option: MountOption): string {
  const notes = [option.fallback === undefined ? "" : `default: ${option.fallback}`, option.env ?? ""].filter((note) => note !== "");
  return notes.length === 0 ? option.description : `${option.description} (${notes.join("; ")})`;
}

function toLongOption(option: MountOption): Option {
  const spelled = longOption(option.name);
  const result = new Option(option.value === undefined ? spelled : `${spelled} <${option.value}>`, describe(option));
  return option.value === undefined ? result : result.argParser(collect);
}

/** "cacheL1Max", as commander calls --cache-l1-max. */
function camelCase(name: string): string {
  return name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function givenLongOptions(options: LongOptions): GivenOption[] {
  return MOUNT_OPTIONS.flatMap((option) => {
    const value = options[camelCase(option.name)];
    const texts = value === true ? ["true"] : Array.isArray(value) ? value : [];
    return texts.map((text) => ({ name: option.name, text, source: longOption(option.name) }));
  });
}

export function registerMount(program: Command): void {
  const command = program
    .command("mount")
    .description("mount a tenant's namespaces as a folder; goes to the background once it answers")
    .argument("<mountpoint>", "an empty folder")
    .option("-o <options>", "mount options, comma-separated: the long options below with _ for -, and the words of mount(8)", collect)
    .option("-f, --foreground", "stay; Ctrl-C unmounts");
  for (const option of MOUNT_OPTIONS) command.addOption(toLongOption(option));
  command.action(async (mountpoint: string, options: LongOptions & { o?: string[]; foreground?: boolean }) => {
    const { startMount } = await import("./mount-start.ts");
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
