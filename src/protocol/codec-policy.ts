/** The cache policy's tuple. See codec.ts. */
import { bad, flag, integer, items, tuple } from "./codec-fields.ts";
import { CACHE_MODES, type CacheMode, type EffectivePolicy, POLICY_RANGES, type PolicyNumber } from "./policy.ts";

function mode(value: unknown): CacheMode {
  const found = CACHE_MODES.find((known) => known === value);
  if (found === undefined) throw bad("cache mode", value, CACHE_MODES.join(", "));
  return found;
}

/** Each at most once, in the order of CACHE_MODES. */
function modes(value: unknown): CacheMode[] {
  const given = items(value, CACHE_MODES.length, "cache modes").map(mode);
  if (given.some((item, i) => i > 0 && CACHE_MODES.indexOf(item) <= CACHE_MODES.indexOf(given[i - 1] as CacheMode))) {
    throw bad("cache modes", value, "an ordered set");
  }
  return given;
}

function number(key: PolicyNumber, value: unknown): number {
  return integer(value, POLICY_RANGES[key].min, POLICY_RANGES[key].max, key);
}

function percent(value: unknown): number | null {
  return value === null ? null : integer(value, 0, 100, "max_node_cache_percent");
}

export function encodePolicy(p: EffectivePolicy): unknown[] {
  return [
    flag(p.cache_enabled, "cache_enabled"),
    modes([...p.allowed_modes]),
    number("max_cache_bytes", p.max_cache_bytes),
    p.max_node_cache_bytes === null ? null : number("max_node_cache_bytes", p.max_node_cache_bytes),
    percent(p.max_node_cache_percent),
    number("metadata_ttl_ms", p.metadata_ttl_ms),
    number("max_disconnect_seconds", p.max_disconnect_seconds),
    number("key_health_interval_ms", p.key_health_interval_ms),
    flag(p.staging_enabled, "staging_enabled"),
    mode(p.mode),
  ];
}

export function decodePolicy(input: unknown): EffectivePolicy {
  const t = tuple(input, 10, "policy");
  return {
    cache_enabled: flag(t[0], "cache_enabled"),
    allowed_modes: modes(t[1]),
    max_cache_bytes: number("max_cache_bytes", t[2]),
    max_node_cache_bytes: t[3] === null ? null : number("max_node_cache_bytes", t[3]),
    max_node_cache_percent: percent(t[4]),
    metadata_ttl_ms: number("metadata_ttl_ms", t[5]),
    max_disconnect_seconds: number("max_disconnect_seconds", t[6]),
    key_health_interval_ms: number("key_health_interval_ms", t[7]),
    staging_enabled: flag(t[8], "staging_enabled"),
    mode: mode(t[9]),
  };
}
