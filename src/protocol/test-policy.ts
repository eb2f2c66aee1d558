/** For tests: policies and what levels may say, at random. */
import fc from "fast-check";
import { CACHE_MODES, clusterPolicy, type EffectivePolicy, narrow, POLICY_RANGES, type PolicyLevel, type PolicyNumber } from "./policy.ts";

const maybe = <T>(values: fc.Arbitrary<T>) => fc.option(values, { nil: undefined });
/** Few values, so that levels are often the same. */
const number = (key: PolicyNumber) => {
  const { min, max } = POLICY_RANGES[key];
  return maybe(fc.oneof(fc.constantFrom(min, max, 50_000, 1_000), fc.integer({ min, max })));
};

export const anyLevel: fc.Arbitrary<PolicyLevel> = fc.record({
  cache_enabled: maybe(fc.boolean()),
  allowed_modes: maybe(fc.subarray([...CACHE_MODES])),
  max_cache_bytes: number("max_cache_bytes"),
  max_node_cache_bytes: number("max_node_cache_bytes"),
  metadata_ttl_ms: number("metadata_ttl_ms"),
  max_disconnect_seconds: number("max_disconnect_seconds"),
  key_health_interval_ms: number("key_health_interval_ms"),
  staging_enabled: maybe(fc.boolean()),
  mode: maybe(fc.constantFrom(...CACHE_MODES)),
});

/** A cluster's policy, narrowed up to three times. */
export const anyPolicy: fc.Arbitrary<EffectivePolicy> = fc
  .tuple(anyLevel, fc.array(anyLevel, { maxLength: 3 }))
  .map(([cluster, below]) => below.reduce(narrow, clusterPolicy(cluster)));
