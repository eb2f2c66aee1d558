/** The arguments with which mount(8) calls a helper: mount.kiseki SPEC DIR [-sfnv] [-N namespace] [-o options] [-t type]. */
import { ConfigError } from "./config-error.ts";
import type { GivenOption } from "./mount-options.ts";

export interface MountHelperArguments {
  readonly spec: string;
  readonly mountpoint: string;
  /** The argument of each -o. */
  readonly options: readonly string[];
  /** -s: ignore unknown options. */
  readonly sloppy: boolean;
  /** -f: check everything, mount nothing. */
  readonly fake: boolean;
}

const USAGE = "usage: mount -t kiseki HOST:PORT[,HOST:PORT]/TENANT[/NAMESPACE] MOUNTPOINT [-o OPTIONS]";

/** @throws ConfigError for arguments that mount(8) does not give. */
export function parseMountHelperArguments(args: readonly string[]): MountHelperArguments {
  const positional: string[] = [];
  const options: string[] = [];
  let flags = "";
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    if (!arg.startsWith("-") || arg === "-") {
      positional.push(arg);
      continue;
    }
    const match = /^-([sfnv]*)([oNt]?)(.*)$/.exec(arg);
    if (match === null || (match[2] === "" && match[3] !== "")) throw new ConfigError(`mount.kiseki: unknown argument ${arg}; ${USAGE}`);
    flags += match[1];
    if (match[2] === "") continue;
    const value = match[3] !== "" ? match[3] : args[++i];
    if (value === undefined) throw new ConfigError(`mount.kiseki: -${match[2]} needs a value; ${USAGE}`);
    if (match[2] === "o") options.push(value);
    if (match[2] === "N") throw new ConfigError("mount.kiseki: -N (another mount namespace) is not supported: run it there with nsenter");
  }
  const [spec, mountpoint] = positional;
  if (spec === undefined || mountpoint === undefined || positional.length > 2) throw new ConfigError(USAGE);
  return { spec, mountpoint, options, sloppy: flags.includes("s"), fake: flags.includes("f") };
}

/** "node:9100/tenant/namespace" as options. Without a namespace the option or the default counts. */
export function parseMountSpec(spec: string): GivenOption[] {
  const [addresses, tenant, namespace, ...rest] = spec.split("/");
  if (!addresses || !tenant || rest.length > 0 || namespace === "") {
    throw new ConfigError(`expected HOST:PORT[,HOST:PORT]/TENANT[/NAMESPACE], got ${JSON.stringify(spec)}`);
  }
  const given: GivenOption[] = [
    { name: "data_addr", text: addresses, source: spec },
    { name: "tenant", text: tenant, source: spec },
  ];
  if (namespace !== undefined) given.push({ name: "namespace", text: namespace, source: spec });
  return given;
}
