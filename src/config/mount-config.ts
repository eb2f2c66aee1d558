/** A mount's settings: every option checked by zod, and precedence applied: option > environment > default. */
import { isAbsolute, resolve } from "node:path";
import { z } from "zod";
import {
  INTERFACE_EXPECTED,
  isFabricInterface,
  parseTransports,
  TRANSPORT_EXPECTED,
  type TransportChoice,
} from "../protocol/fabric-providers.ts";
import { KIB, MIB, NAMESPACE_NAME_PATTERN, TENANT_NAME_PATTERN, WORKLOAD_NAME_PATTERN } from "../protocol/limits.ts";
import { CACHE_MODES, type CacheMode } from "../protocol/policy.ts";
import { type Address, parseAddresses } from "./address.ts";
import { ConfigError } from "./config-error.ts";
import { type GivenOption, MOUNT_OPTIONS, type MountOptionName, type MountWords } from "./mount-options.ts";
import { formatSize, parseSeconds, parseSize } from "./units.ts";

/** Below this the memory cache holds not even one chunk for each reader. */
const L1_MIN_BYTES = 16 * MIB;
/** More than any machine has: a typing error. */
const L1_MAX_BYTES = 1024 * KIB * MIB;
const L2_MAX_BYTES = 1024 * 1024 * KIB * MIB;
/** An hour: longer would look like a mount that never sees changes. */
const TTL_MAX_MS = 3_600_000;
/** uid_t and gid_t less (id_t)-1, which means "no change" to chown(2). */
const ID_MAX = 2 ** 32 - 2;
/** The word that stands for every namespace of the tenant. */
export const ALL_NAMESPACES = "all";

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** What every client needs to know: a mount, or a staging daemon. Plain data: it is handed to the background process as JSON. */
export interface ClientConfig {
  readonly dataAddresses: readonly Address[];
  /** null: as the credentials say. */
  readonly tenant: string | null;
  /** One: its tree is the mount. Several, or "all": each is a folder at the root. */
  readonly namespaces: readonly string[] | "all";
  /** null: the usual places. */
  readonly credentialsPath: string | null;
  readonly passphrasePath: string | null;
  /** Of the settings that the policy knows too, null: as the policy says (cache/policy.ts). */
  readonly cacheMode: CacheMode | null;
  readonly cacheDir: string;
  readonly cacheL1MaxBytes: number;
  readonly cacheL2MaxBytes: number | null;
  /** The pool to adopt. */
  readonly cachePoolId: string | null;
  readonly transport: TransportChoice;
  /** An IP address; null: that of the connection. */
  readonly fabricInterface: string | null;
  /** What the cache policy calls this job; null: nothing. */
  readonly workload: string | null;
  readonly metaTtlMs: number | null;
  /** null: as metaTtlMs. */
  readonly attrTimeoutMs: number | null;
  readonly entryTimeoutMs: number | null;
  readonly logLevel: LogLevel;
  /** null: the usual place. */
  readonly logFile: string | null;
}

/** Everything that a mount needs to know. */
export interface MountConfig extends ClientConfig {
  /** Absolute, without symbolic links. */
  readonly mountpoint: string;
  /** Where to serve statistics over TCP; null: nowhere. */
  readonly metricsAddress: Address | null;
  /** Shown as owner of every file; null: the real one. */
  readonly uid: number | null;
  readonly gid: number | null;
  readonly readOnly: boolean;
  readonly allowOther: boolean;
  readonly nonEmpty: boolean;
  readonly writebackCache: boolean;
  /** nodev, nosuid, noexec, noatime, nodiratime. */
  readonly kernelFlags: readonly string[];
}

/** A text that `parse` understands; null from it means that it does not. */
function text<T>(expected: string, parse: (value: string) => T | null) {
  return z.string().transform((value, context) => {
    const parsed = parse(value);
    if (parsed !== null) return parsed;
    context.issues.push({ code: "custom", message: `expected ${expected}`, input: value });
    return z.NEVER;
  });
}

function inRange(value: number | null, min: number, max: number): number | null {
  return value !== null && value >= min && value <= max ? value : null;
}

function oneOf<const T extends readonly string[]>(words: T) {
  const all = `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
  return text(all, (value): T[number] | null => words.find((word) => word === value) ?? null);
}

const flag = text("true or false", (value) => (value === "true" ? true : value === "false" ? false : null));
const size = (min: number, max: number) =>
  text(`a size from ${formatSize(min)} to ${formatSize(max)}, such as 256M or 50G`, (value) => inRange(parseSize(value), min, max));
const integer = (what: string, max: number) =>
  text(`${what} from 0 to ${max}`, (value) => (/^\d{1,10}$/.test(value) ? inRange(Number(value), 0, max) : null));
const seconds = text(`a time from 0 to ${TTL_MAX_MS / 1000} seconds, such as 5, 0.5 or 250ms`, (value) =>
  inRange(parseSeconds(value), 0, TTL_MAX_MS),
);
const path = text("a path", (value) => (value === "" || value.includes("\0") ? null : value));

/** One address, with its port. */
function parseListenAddress(value: string): Address | null {
  const [address, ...more] = parseAddresses(value) ?? [];
  return address !== undefined && more.length === 0 && /:\d+$/.test(value.trim()) ? address : null;
}

function parseNamespaces(value: string): string[] | "all" | null {
  const names = value.split(",").map((name) => name.trim());
  if (names.length === 1 && names[0] === ALL_NAMESPACES) return ALL_NAMESPACES;
  const good = names.every((name) => NAMESPACE_NAME_PATTERN.test(name) && name !== ALL_NAMESPACES);
  return good && new Set(names).size === names.length ? names : null;
}

const SCHEMAS = {
  data_addr: text("HOST:PORT[,HOST:PORT...], an IPv6 address in brackets, such as node1:9100 or [fd00::1]:9100", parseAddresses),
  tenant: text("a tenant's name: a to z, 0 to 9, and . _ - inside", (value) => (TENANT_NAME_PATTERN.test(value) ? value : null)),
  namespace: text("different names of namespaces (a to z, 0 to 9, and . _ - inside), or only the word all", parseNamespaces),
  credentials: path,
  passphrase_file: path,
  cache_mode: oneOf(CACHE_MODES),
  cache_dir: text("an absolute path", (value) => (isAbsolute(value) && !value.includes("\0") ? resolve(value) : null)),
  cache_l1_max: size(L1_MIN_BYTES, L1_MAX_BYTES),
  cache_l2_max: size(0, L2_MAX_BYTES),
  cache_pool_id: text("32 hexadecimal digits", (value) => (/^[0-9a-f]{32}$/i.test(value) ? value.toLowerCase() : null)),
  transport: text(TRANSPORT_EXPECTED, parseTransports),
  fabric_interface: text(INTERFACE_EXPECTED, (value) => (isFabricInterface(value) ? value : null)),
  workload: text("a name: letters, digits, and . _ - inside", (value) => (WORKLOAD_NAME_PATTERN.test(value) ? value : null)),
  metrics: text("HOST:PORT, such as 127.0.0.1:9400", parseListenAddress),
  meta_ttl_ms: integer("milliseconds", TTL_MAX_MS),
  attr_timeout: seconds,
  entry_timeout: seconds,
  uid: integer("a user number", ID_MAX),
  gid: integer("a group number", ID_MAX),
  ro: flag,
  allow_other: flag,
  // The filesystem itself checks no modes, so there is nothing to switch off.
  default_permissions: text("true: the kernel always checks permissions", (value) => (value === "true" ? true : null)),
  nonempty: flag,
  writeback_cache: flag,
  log_level: oneOf(LOG_LEVELS),
  log_file: path,
} satisfies Record<MountOptionName, z.ZodType<unknown, string>>;

/** What one option gives: its schema's output, or null where it was not set. */
type Setting<N extends MountOptionName> = z.output<(typeof SCHEMAS)[N]>;

/** These may be given several times and add up; of the others the last one counts. */
const LISTS: readonly MountOptionName[] = ["data_addr", "namespace"];

/** The given texts by option: those of the first layer that gives an option count. */
function merge(layers: readonly (readonly GivenOption[])[]): Map<MountOptionName, GivenOption> {
  const merged = new Map<MountOptionName, GivenOption>();
  for (const layer of layers) {
    const own = new Map<MountOptionName, GivenOption>();
    for (const option of layer) {
      const before = own.get(option.name);
      const adds = before !== undefined && LISTS.includes(option.name);
      own.set(option.name, adds ? { ...option, text: `${before.text},${option.text}` } : option);
    }
    for (const [name, option] of own) if (!merged.has(name)) merged.set(name, option);
  }
  return merged;
}

function fallbacks(): GivenOption[] {
  return MOUNT_OPTIONS.flatMap((option) => ("fallback" in option ? [{ name: option.name, text: option.fallback, source: "default" }] : []));
}

/** Whether `path` is `folder` or lies in it. Both absolute and normalized. */
function isInside(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === "/" ? "/" : `${folder}/`);
}

/** Options as they were given in layers, the strongest first (long options, -o words, environment); below them the defaults. */
export class GivenOptions {
  readonly #given: Map<MountOptionName, GivenOption>;

  constructor(layers: readonly (readonly GivenOption[])[]) {
    this.#given = merge([...layers, fallbacks()]);
  }

  /** null: not given, and no default. @throws ConfigError when it is wrong */
  read<N extends MountOptionName>(name: N): Setting<N> | null {
    const option = this.#given.get(name);
    if (option === undefined) return null;
    const result = SCHEMAS[name].safeParse(option.text);
    if (result.success) return result.data as Setting<N>;
    const expected = result.error.issues.map((issue) => issue.message).join("; ");
    throw new ConfigError(`${option.source}: ${expected}, got ${JSON.stringify(option.text)}`);
  }

  /** For options that have a default, or without which nothing can be done. */
  require<N extends MountOptionName>(name: N, missing = `${name}: missing`): Setting<N> {
    const value = this.read(name);
    if (value === null) throw new ConfigError(missing);
    return value;
  }

  /** A relative path is taken from the current folder. */
  path(name: "credentials" | "passphrase_file" | "log_file"): string | null {
    const value = this.read(name);
    return value === null ? null : resolve(value);
  }

  /** How messages name it. */
  source(name: MountOptionName): string {
    return this.#given.get(name)?.source ?? name;
  }
}

/**
 * Makes a mount's settings from layers of options, the strongest first. Relative paths are taken from the current folder.
 * @throws ConfigError for the first option that is wrong or missing.
 */
export function resolveMountConfig(
  mountpoint: string,
  layers: readonly (readonly GivenOption[])[],
  kernelFlags: MountWords["kernelFlags"],
): MountConfig {
  const given = new GivenOptions(layers);
  const client = resolveClientConfig(given);
  // The client must never wait for its own mount.
  if (isInside(client.cacheDir, mountpoint)) {
    throw new ConfigError(
      `${given.source("cache_dir")}: ${client.cacheDir} lies inside the mountpoint ${mountpoint}; choose a folder outside of it`,
    );
  }
  const config: MountConfig = {
    ...client,
    mountpoint,
    metricsAddress: given.read("metrics"),
    uid: given.read("uid"),
    gid: given.read("gid"),
    readOnly: given.read("ro") ?? false,
    allowOther: given.read("allow_other") ?? false,
    nonEmpty: given.read("nonempty") ?? false,
    writebackCache: given.read("writeback_cache") ?? false,
    kernelFlags: [...kernelFlags],
  };
  given.require("default_permissions");
  return config;
}

/** The settings of any client: a mount's, or a staging daemon's. @throws ConfigError */
export function resolveClientConfig(given: GivenOptions): ClientConfig {
  const config: ClientConfig = {
    dataAddresses: given.require("data_addr", "no storage node given: use --data-addr HOST:PORT or KISEKI_DATA_ADDR"),
    tenant: given.read("tenant"),
    namespaces: given.require("namespace"),
    credentialsPath: given.path("credentials"),
    passphrasePath: given.path("passphrase_file"),
    cacheMode: given.read("cache_mode"),
    cacheDir: given.require("cache_dir"),
    cacheL1MaxBytes: given.require("cache_l1_max"),
    cacheL2MaxBytes: given.read("cache_l2_max"),
    cachePoolId: given.read("cache_pool_id"),
    transport: given.require("transport"),
    fabricInterface: given.read("fabric_interface"),
    workload: given.read("workload"),
    metaTtlMs: given.read("meta_ttl_ms"),
    attrTimeoutMs: given.read("attr_timeout"),
    entryTimeoutMs: given.read("entry_timeout"),
    logLevel: given.require("log_level"),
    logFile: given.path("log_file"),
  };
  if (config.tenant === null && config.credentialsPath === null) {
    throw new ConfigError("no tenant given: use --tenant NAME or KISEKI_TENANT, or --credentials FILE, which names one");
  }
  return config;
}
