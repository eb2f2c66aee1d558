/**
 * The options of a mount: one table, from which come the long options (--cache-l1-max), the -o words (cache_l1_max=256M), the
 * environment variables and the help. What a value may be is in mount-config.ts, which is loaded only when a mount is made.
 */
import { defaultCacheDir } from "./cache-dir.ts";
import { ConfigError } from "./config-error.ts";

export interface MountOption {
  /** As written after -o. The long option has dashes for underscores. */
  readonly name: string;
  /** What stands for the value in the help; absent for a flag. */
  readonly value?: string;
  readonly env?: string;
  /** As text, the way a user would write it. Absent: none, or see the description. */
  readonly fallback?: string;
  readonly description: string;
}

export const MOUNT_OPTIONS = [
  {
    name: "data_addr",
    value: "HOST:PORT[,...]",
    env: "KISEKI_DATA_ADDR",
    description: "storage nodes; an IPv6 address stands in brackets",
  },
  { name: "tenant", value: "NAME", env: "KISEKI_TENANT", description: "whose data (default: as the credentials say)" },
  {
    name: "namespace",
    value: "NAME",
    env: "KISEKI_NAMESPACE",
    fallback: "default",
    description: "which tree; several, or all: each becomes a folder at the root of the mount",
  },
  {
    name: "credentials",
    value: "FILE",
    env: "KISEKI_CREDENTIALS",
    description: "made by kiseki tenant create (default: ~/.config/kiseki/TENANT.json, then /etc/kiseki/TENANT.json)",
  },
  {
    name: "passphrase_file",
    value: "FILE",
    env: "KISEKI_PASSPHRASE_FILE",
    description: "first line: the passphrase of the credentials (default: ask on the terminal)",
  },
  {
    name: "cache_mode",
    value: "pinned|organic|bypass",
    env: "KISEKI_CACHE_MODE",
    description: "what is kept in the caches (default: as the policy says, organic)",
  },
  { name: "cache_dir", value: "DIR", env: "KISEKI_CACHE_DIR", fallback: defaultCacheDir(), description: "folder of the disk cache" },
  { name: "cache_l1_max", value: "SIZE", env: "KISEKI_CACHE_L1_MAX", fallback: "256M", description: "memory cache at most" },
  {
    name: "cache_l2_max",
    value: "SIZE",
    env: "KISEKI_CACHE_L2_MAX",
    description: "disk cache at most (default: what the policy allows, 50G)",
  },
  {
    name: "cache_pool_id",
    value: "ID",
    env: "KISEKI_CACHE_POOL_ID",
    description: "take over this disk cache pool (32 hexadecimal digits); also -o pool_id",
  },
  {
    name: "transport",
    value: "NAME",
    env: "KISEKI_TRANSPORT",
    fallback: "auto",
    description: "how content is moved: auto, tcp, cxi, verbs or libfabric:PROVIDER",
  },
  {
    name: "fabric_interface",
    value: "ADDRESS",
    env: "KISEKI_FABRIC_INTERFACE",
    description: "our IP address on the fabric, or the device (mlx5_0) (default: that of the connection to the node)",
  },
  {
    name: "workload",
    value: "NAME",
    env: "KISEKI_WORKLOAD",
    description: "what this job is called in the cache policy",
  },
  {
    name: "metrics",
    value: "HOST:PORT",
    env: "KISEKI_METRICS",
    description: "serve the caches' statistics for Prometheus at http://HOST:PORT/metrics",
  },
  {
    name: "meta_ttl_ms",
    value: "MS",
    env: "KISEKI_CACHE_META_TTL_MS",
    description: "a name or attribute may be this old, in milliseconds (default: what the policy allows, 5000)",
  },
  { name: "attr_timeout", value: "SECONDS", description: "how long the kernel keeps attributes (default: meta_ttl_ms)" },
  { name: "entry_timeout", value: "SECONDS", description: "how long the kernel keeps names (default: meta_ttl_ms)" },
  { name: "uid", value: "UID", description: "show every file as owned by this user" },
  { name: "gid", value: "GID", description: "show every file as owned by this group" },
  { name: "ro", description: "read only" },
  { name: "allow_other", description: "let other users in, not only the one who mounts" },
  { name: "default_permissions", fallback: "true", description: "the kernel checks modes and owners; always so" },
  { name: "nonempty", description: "mount over a folder that is not empty, and hide what is in it" },
  { name: "writeback_cache", description: "the kernel gathers small writes before the client sees them" },
  { name: "log_level", value: "LEVEL", fallback: "info", description: "trace, debug, info, warn, error or fatal" },
  { name: "log_file", value: "FILE", description: "default in the background: see README; in the foreground: standard error" },
] as const satisfies readonly MountOption[];

export type MountOptionName = (typeof MOUNT_OPTIONS)[number]["name"];

/** One option as somebody wrote it. `source` is how the message names it: "--cache-mode", "-o cache_mode", "KISEKI_CACHE_MODE". */
export interface GivenOption {
  readonly name: MountOptionName;
  readonly text: string;
  readonly source: string;
}

/** --cache-l1-max for cache_l1_max. */
export function longOption(name: string): string {
  return `--${name.replaceAll("_", "-")}`;
}

/** Other words after -o for the same option. */
const ALIASES = new Map<string, MountOptionName>([["pool_id", "cache_pool_id"]]);

function findOption(name: string): (MountOption & { name: MountOptionName }) | undefined {
  return MOUNT_OPTIONS.find((option) => option.name === (ALIASES.get(name) ?? name));
}

/** What a list of -o words asks for. */
export interface MountWords {
  readonly given: readonly GivenOption[];
  /** nodev, nosuid, noexec, noatime: what libfuse passes on to mount(2). */
  readonly kernelFlags: readonly string[];
  /** `remount`: the words of mount(8) change what is mounted there. In order, those for the kernel and ro, rw. */
  readonly remount: readonly string[] | null;
}

/** Words of mount(8) for the kernel: of those about the same thing the last one counts. */
const KERNEL_WORDS = new Map<string, { readonly about: string; readonly flag: string | null }>([
  // libfuse starts from nosuid,nodev, and takes these words from root only: see generic in mount-process.ts.
  ["dev", { about: "dev", flag: "dev" }],
  ["nodev", { about: "dev", flag: "nodev" }],
  ["suid", { about: "suid", flag: "suid" }],
  ["nosuid", { about: "suid", flag: "nosuid" }],
  ["exec", { about: "exec", flag: null }],
  ["noexec", { about: "exec", flag: "noexec" }],
  // The client never moves atime by itself, so that these only differ in what mount shows.
  ["atime", { about: "atime", flag: null }],
  ["noatime", { about: "atime", flag: "noatime" }],
  ["relatime", { about: "atime", flag: null }],
  ["norelatime", { about: "atime", flag: null }],
  ["strictatime", { about: "atime", flag: null }],
  ["nostrictatime", { about: "atime", flag: null }],
  // The kernel then calls fsync after each write.
  ["sync", { about: "sync", flag: "sync" }],
  ["async", { about: "sync", flag: null }],
  ["diratime", { about: "diratime", flag: null }],
  // libfuse does not know it. Nothing moves a folder's atime anyway.
  ["nodiratime", { about: "diratime", flag: null }],
]);
/** mount(8): words that imply others. */
const IMPLIED_WORDS = new Map<string, readonly string[]>([
  ["user", ["noexec", "nosuid", "nodev"]],
  ["users", ["noexec", "nosuid", "nodev"]],
  ["owner", ["nosuid", "nodev"]],
  ["group", ["nosuid", "nodev"]],
  ["defaults", ["rw", "suid", "dev", "exec"]],
]);
/** mount(8): words for fstab and for mount itself, with no meaning for a filesystem. */
const IGNORED_WORDS = new Set([
  "auto",
  "noauto",
  "nouser",
  "nousers",
  "noowner",
  "nogroup",
  "_netdev",
  "nofail",
  "lazytime",
  "nolazytime",
  "silent",
  "loud",
  "nomand",
  "noiversion",
]);

/** Splits "a,b=c\,d" at commas that have no backslash before them, as mount.fuse does. */
function splitWords(text: string): string[] {
  return (text.match(/(?:\\.|[^,\\])+/g) ?? []).map((word) => word.replace(/\\(.)/g, "$1").trim()).filter((word) => word !== "");
}

/**
 * Reads the arguments of all -o options, in order; a later word beats an earlier one, except that data_addr and namespace add up.
 * @throws ConfigError for a word that nobody knows (unless `sloppy`, as mount -s), or a missing value.
 */
export function parseMountWords(texts: readonly string[], sloppy = false): MountWords {
  const given: GivenOption[] = [];
  const kernel = new Map<string, string | null>();
  const plain: string[] = [];
  const words = texts.flatMap(splitWords);
  // mount(8) then brings all that fstab or the kernel says of the mount: what can't be changed is left alone.
  const isRemount = words.includes("remount");
  const take = (word: string): void => {
    for (const implied of IMPLIED_WORDS.get(word) ?? []) take(implied);
    if (IMPLIED_WORDS.has(word) || IGNORED_WORDS.has(word) || /^(?:x-|X-|comment=)/.test(word)) return;
    if (word === "remount") return;
    if (word === "ro" || word === "rw" || KERNEL_WORDS.has(word)) plain.push(word);
    if (word === "rw") {
      given.push({ name: "ro", text: "false", source: "-o rw" });
      return;
    }
    const kernelWord = KERNEL_WORDS.get(word);
    if (kernelWord !== undefined) {
      kernel.set(kernelWord.about, kernelWord.flag);
      return;
    }
    const equals = word.indexOf("=");
    const option = findOption(equals < 0 ? word : word.slice(0, equals));
    if (option === undefined) {
      if (sloppy || isRemount) return;
      throw new ConfigError(`-o ${word}: unknown mount option; see: kiseki mount --help`);
    }
    if (equals < 0 && option.value !== undefined) throw new ConfigError(`-o ${word}: expected ${word}=${option.value}`);
    given.push({
      name: option.name,
      text: equals < 0 ? "true" : word.slice(equals + 1),
      source: `-o ${equals < 0 ? word : word.slice(0, equals)}`,
    });
  };
  for (const word of words) take(word);
  return { given, kernelFlags: [...kernel.values()].filter((flag) => flag !== null), remount: isRemount ? plain : null };
}

/** The options that environment variables give. An empty variable counts as not set. */
export function mountOptionsOfEnvironment(env: Record<string, string | undefined>): GivenOption[] {
  return MOUNT_OPTIONS.flatMap((option: MountOption & { name: MountOptionName }) => {
    const text = option.env === undefined ? undefined : env[option.env];
    return option.env === undefined || text === undefined || text === "" ? [] : [{ name: option.name, text, source: option.env }];
  });
}
