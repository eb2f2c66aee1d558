/** The options of a mount (config/mount-options.ts) as commander's long options. */
import { Option } from "commander";
import { type GivenOption, longOption, MOUNT_OPTIONS, type MountOption } from "../../config/mount-options.ts";

/** What commander hands over: the long options by their names in camel case. */
export type LongOptions = Record<string, string | string[] | boolean | undefined>;

export function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}

function describe(option: MountOption): string {
  const notes = [option.fallback === undefined ? "" : `default: ${option.fallback}`, option.env ?? ""].filter((note) => note !== "");
  return notes.length === 0 ? option.description : `${option.description} (${notes.join("; ")})`;
}

export function toLongOption(option: MountOption): Option {
  const spelled = longOption(option.name);
  const result = new Option(option.value === undefined ? spelled : `${spelled} <${option.value}>`, describe(option));
  return option.value === undefined ? result : result.argParser(collect);
}

/** "cacheL1Max", as commander calls --cache-l1-max. */
function camelCase(name: string): string {
  return name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
}

export function givenLongOptions(options: LongOptions): GivenOption[] {
  return MOUNT_OPTIONS.flatMap((option) => {
    const value = options[camelCase(option.name)];
    const texts = value === true ? ["true"] : Array.isArray(value) ? value : [];
    return texts.map((text) => ({ name: option.name, text, source: longOption(option.name) }));
  });
}
