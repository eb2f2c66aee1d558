/**
 * The cache policy: what the levels cluster -> organization (a tenant) -> project (a namespace) -> workload may say, and how they
 * narrow each other. Pure; the node works out with it what applies to a session, and the client what applies to its mount.
 */
import { KIB, MIB } from "./limits.ts";

const GIB = KIB * MIB;

/** pinned: what was staged or first read stays. organic: least used goes first. bypass: nothing is kept. */
export const CACHE_MODES = ["pinned", "organic", "bypass"] as const;
export type CacheMode = (typeof CACHE_MODES)[number];

/** Where the policy in force allows not the mode that was to be, the first of these that it allows is taken. */
const MODE_PREFERENCE: readonly CacheMode[] = ["organic", "pinned", "bypass"];

/** What a number may be. */
export interface PolicyRange {
  readonly min: number;
  readonly max: number;
}
export const POLICY_RANGES = {
  /** 1 PiB: more than any machine has. */
  max_cache_bytes: { min: 0, max: KIB * KIB * GIB },
  max_node_cache_bytes: { min: 0, max: KIB * KIB * GIB },
  /** An hour: longer would look like a mount that never sees changes. */
  metadata_ttl_ms: { min: 0, max: 3_600_000 },
  /** At least a second, for a network that hiccups; 30 days are for ever. */
  max_disconnect_seconds: { min: 1, max: 30 * 86_400 },
  /** Ten questions a second at most; an hour at most until data that was shredded is gone. */
  key_health_interval_ms: { min: 100, max: 3_600_000 },
} as const satisfies Record<string, PolicyRange>;
export type PolicyNumber = keyof typeof POLICY_RANGES;
export const POLICY_NUMBERS = Object.keys(POLICY_RANGES) as PolicyNumber[];

/** What one level says. What it does not name it leaves to the levels above. */
export interface PolicyLevel {
  /** false: neither memory nor disk keeps anything, whatever the mode. */
  cache_enabled?: boolean | undefined;
  allowed_modes?: CacheMode[] | undefined;
  /** Disk cache of one process. */
  max_cache_bytes?: number | undefined;
  /** Disk caches of all processes of one machine in one cache_dir. */
  max_node_cache_bytes?: number | undefined;
  /** Names, attributes and lists of chunks may be this old. */
  metadata_ttl_ms?: number | undefined;
  /** A client that no node has answered for so long wipes its caches. */
  max_disconnect_seconds?: number | undefined;
  /** How often a client asks whether its keys still exist. */
  key_health_interval_ms?: number | undefined;
  staging_enabled?: boolean | undefined;
  /** For sessions that choose none. */
  mode?: CacheMode | undefined;
}
export type PolicyKey = keyof PolicyLevel;
export const POLICY_KEYS = [
  "cache_enabled",
  "allowed_modes",
  "max_cache_bytes",
  "max_node_cache_bytes",
  "metadata_ttl_ms",
  "max_disconnect_seconds",
  "key_health_interval_ms",
  "staging_enabled",
  "mode",
] as const satisfies readonly PolicyKey[];

/** What all levels together come to. `mode` is always one that a session may take. */
export interface EffectivePolicy {
  readonly cache_enabled: boolean;
  /** In the order of CACHE_MODES. Empty where the levels have no mode in common: then nothing is cached. */
  readonly allowed_modes: readonly CacheMode[];
  readonly max_cache_bytes: number;
  /** null: only max_node_cache_percent counts. See nodeCacheLimitBytes. */
  readonly max_node_cache_bytes: number | null;
  /** Of the filesystem that holds cache_dir; null where the cluster gives a number of bytes instead. */
  readonly max_node_cache_percent: number | null;
  readonly metadata_ttl_ms: number;
  readonly max_disconnect_seconds: number;
  readonly key_health_interval_ms: number;
  readonly staging_enabled: boolean;
  readonly mode: CacheMode;
}

/** Where nobody has said anything. */
export const DEFAULT_POLICY: EffectivePolicy = {
  cache_enabled: true,
  allowed_modes: CACHE_MODES,
  max_cache_bytes: 50 * GIB,
  max_node_cache_bytes: null,
  max_node_cache_percent: 80,
  metadata_ttl_ms: 5_000,
  max_disconnect_seconds: 300,
  key_health_interval_ms: 30_000,
  staging_enabled: true,
  mode: "organic",
};

/** A client that can learn of no policy at all is careful. */
export const FALLBACK_POLICY: EffectivePolicy = { ...DEFAULT_POLICY, max_cache_bytes: 10 * GIB };

/** Nothing is cached: what holds while nobody can tell what the policy is (its file is damaged). */
export const STRICTEST_POLICY: EffectivePolicy = settled({ ...DEFAULT_POLICY, cache_enabled: false }, "bypass");

/** The same policy with a mode that it allows, and without staging where there is no cache. */
function settled(policy: EffectivePolicy, wanted: CacheMode, otherwise: CacheMode = wanted): EffectivePolicy {
  const { cache_enabled, allowed_modes } = policy;
  const mode = cache_enabled ? [wanted, otherwise, ...MODE_PREFERENCE].find((choice) => allowed_modes.includes(choice)) : undefined;
  return { ...policy, staging_enabled: policy.staging_enabled && cache_enabled, mode: mode ?? "bypass" };
}

/** The highest level: what it says holds, narrower or wider than the defaults. */
export function clusterPolicy(level: PolicyLevel): EffectivePolicy {
  const said = Object.fromEntries(Object.entries(level).filter(([, value]) => value !== undefined)) as Partial<EffectivePolicy>;
  const policy = { ...DEFAULT_POLICY, ...said };
  const allowed_modes = CACHE_MODES.filter((mode) => policy.allowed_modes.includes(mode));
  const max_node_cache_percent = level.max_node_cache_bytes === undefined ? DEFAULT_POLICY.max_node_cache_percent : null;
  return settled({ ...policy, allowed_modes, max_node_cache_percent }, policy.mode);
}

function least(upper: number, said: number | undefined): number {
  return said === undefined ? upper : Math.min(upper, said);
}

/**
 * What is left of `upper` under a level below it. Never wider than `upper`, whatever the level says: a level that was written when
 * the ones above were wider is cut down to them.
 */
export function narrow(upper: EffectivePolicy, level: PolicyLevel): EffectivePolicy {
  const { allowed_modes, max_node_cache_bytes: nodeBytes } = level;
  const narrowed: EffectivePolicy = {
    cache_enabled: upper.cache_enabled && level.cache_enabled !== false,
    allowed_modes: upper.allowed_modes.filter((mode) => allowed_modes === undefined || allowed_modes.includes(mode)),
    max_cache_bytes: least(upper.max_cache_bytes, level.max_cache_bytes),
    max_node_cache_bytes: nodeBytes === undefined ? upper.max_node_cache_bytes : least(nodeBytes, upper.max_node_cache_bytes ?? undefined),
    max_node_cache_percent: upper.max_node_cache_percent,
    metadata_ttl_ms: least(upper.metadata_ttl_ms, level.metadata_ttl_ms),
    max_disconnect_seconds: least(upper.max_disconnect_seconds, level.max_disconnect_seconds),
    key_health_interval_ms: least(upper.key_health_interval_ms, level.key_health_interval_ms),
    staging_enabled: upper.staging_enabled && level.staging_enabled !== false,
    mode: upper.mode,
  };
  return settled(narrowed, level.mode ?? upper.mode, upper.mode);
}

/** What holds for a session that several policies apply to: a mount of several namespaces. */
export function intersect(a: EffectivePolicy, b: EffectivePolicy): EffectivePolicy {
  const { max_node_cache_percent: percent, ...rest } = b;
  const level = { ...rest, allowed_modes: [...rest.allowed_modes], max_node_cache_bytes: rest.max_node_cache_bytes ?? undefined };
  const both = narrow(a, level);
  const percents = [a.max_node_cache_percent, percent].filter((value) => value !== null);
  return { ...both, max_node_cache_percent: percents.length === 0 ? null : Math.min(...percents) };
}

/** Bytes that all pools of a cache_dir may have together, on a filesystem of this size. */
export function nodeCacheLimitBytes(policy: EffectivePolicy, filesystemBytes: number): number {
  const { max_node_cache_bytes: bytes, max_node_cache_percent: percent } = policy;
  const share = percent === null ? Number.POSITIVE_INFINITY : Math.floor((filesystemBytes / 100) * percent);
  return Math.min(bytes ?? Number.POSITIVE_INFINITY, share);
}

/** The keys by which `level` asks for more than `upper` gives. Empty: it only narrows. */
export function widenings(upper: EffectivePolicy, level: PolicyLevel): PolicyKey[] {
  return POLICY_KEYS.filter((key) => {
    switch (key) {
      case "cache_enabled":
      case "staging_enabled":
        return level[key] === true && !upper[key];
      case "allowed_modes":
        return level.allowed_modes?.some((mode) => !upper.allowed_modes.includes(mode)) === true;
      case "mode":
        return level.mode !== undefined && !upper.allowed_modes.includes(level.mode);
      default:
        return (level[key] ?? 0) > (upper[key] ?? Number.POSITIVE_INFINITY);
    }
  });
}
