/** The cache policy's keys and values as people write them: max_cache_bytes=10G, metadata_ttl_ms=5s, allowed_modes=organic,bypass. */
import {
  CACHE_MODES,
  type CacheMode,
  type EffectivePolicy,
  POLICY_KEYS,
  POLICY_RANGES,
  type PolicyKey,
  type PolicyLevel,
  type PolicyNumber,
} from "../protocol/policy.ts";
import { ConfigError } from "./config-error.ts";
import { formatSize, parseSeconds, parseSize } from "./units.ts";

/** Milliseconds of one unit of the keys that are times. */
const TIME_UNIT_MS = { metadata_ttl_ms: 1, max_disconnect_seconds: 1_000, key_health_interval_ms: 1 } as const;

function isTime(key: PolicyNumber): key is keyof typeof TIME_UNIT_MS {
  return key in TIME_UNIT_MS;
}

/** A bare number is in the key's own unit. */
function parseNumber(key: PolicyNumber, text: string): number | null {
  if (!isTime(key)) return parseSize(text);
  if (/^\d{1,12}$/.test(text)) return Number(text);
  const ms = parseSeconds(text);
  return ms === null || /\d$/.test(text) ? null : ms / TIME_UNIT_MS[key];
}

function expectedOf(key: PolicyKey): string {
  switch (key) {
    case "cache_enabled":
    case "staging_enabled":
      return "true or false";
    case "allowed_modes":
      return `some of ${CACHE_MODES.join(",")}, separated by commas`;
    case "mode":
      return `${CACHE_MODES.slice(0, -1).join(", ")} or ${CACHE_MODES.at(-1)}`;
    default: {
      const { min, max } = POLICY_RANGES[key];
      if (!isTime(key)) return `a size from ${formatSize(min)} to ${formatSize(max)}, such as 10G`;
      const unit = TIME_UNIT_MS[key] === 1 ? "milliseconds" : "seconds";
      return `${unit} from ${min} to ${max}, or a time such as 5s or 2m`;
    }
  }
}

/** null where the text is no value of this key. */
function parseValue(key: PolicyKey, text: string): PolicyLevel | null {
  switch (key) {
    case "cache_enabled":
    case "staging_enabled":
      return text === "true" || text === "false" ? { [key]: text === "true" } : null;
    case "allowed_modes": {
      const words = text.split(",").map((word) => word.trim());
      const known = words.every((word) => (CACHE_MODES as readonly string[]).includes(word));
      return known ? { allowed_modes: CACHE_MODES.filter((mode) => words.includes(mode)) } : null;
    }
    case "mode": {
      const mode = CACHE_MODES.find((known) => known === text);
      return mode === undefined ? null : { mode };
    }
    default: {
      const value = parseNumber(key, text);
      const { min, max } = POLICY_RANGES[key];
      return value !== null && Number.isInteger(value) && value >= min && value <= max ? { [key]: value } : null;
    }
  }
}

/** @throws ConfigError for a word that is no key */
export function parsePolicyKey(word: string): PolicyKey {
  const key = POLICY_KEYS.find((known) => known === word);
  if (key === undefined) throw new ConfigError(`${word}: no key of a policy; known are ${POLICY_KEYS.join(", ")}`);
  return key;
}

/**
 * What "KEY=VALUE" words say together.
 * @throws ConfigError for the first word that is wrong
 */
export function parsePolicyWords(words: readonly string[]): PolicyLevel {
  const level: PolicyLevel = {};
  for (const word of words) {
    const [name = "", ...rest] = word.split("=");
    const key = parsePolicyKey(name);
    if (rest.length === 0) throw new ConfigError(`${key}: expected ${key}=VALUE, where VALUE is ${expectedOf(key)}`);
    if (level[key] !== undefined) throw new ConfigError(`${key}: given twice`);
    const text = rest.join("=").trim();
    const parsed = parseValue(key, text);
    if (parsed === null) throw new ConfigError(`${key}: expected ${expectedOf(key)}, got ${JSON.stringify(text)}`);
    Object.assign(level, parsed);
  }
  return level;
}

/** As parsePolicyWords reads it back. */
export function formatPolicyValue(key: PolicyKey, value: boolean | number | CacheMode | readonly CacheMode[]): string {
  if (typeof value === "object") return value.join(",");
  return typeof value === "number" && (key === "max_cache_bytes" || key === "max_node_cache_bytes") ? formatSize(value) : String(value);
}

/** For people to read. */
export function describeEffective(policy: EffectivePolicy, key: PolicyKey): string {
  if (key === "max_node_cache_bytes") {
    const { max_node_cache_bytes: bytes, max_node_cache_percent: percent } = policy;
    const share = percent === null ? null : `${percent}% of the filesystem`;
    return [bytes === null ? null : formatSize(bytes), share].filter((part) => part !== null).join(", at most ");
  }
  if (key === "allowed_modes" && policy.allowed_modes.length === 0) return "none";
  return formatPolicyValue(key, policy[key]);
}
