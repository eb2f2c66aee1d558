import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  clusterPolicy,
  DEFAULT_POLICY,
  type EffectivePolicy,
  intersect,
  narrow,
  nodeCacheLimitBytes,
  POLICY_NUMBERS,
  type PolicyLevel,
  STRICTEST_POLICY,
  widenings,
} from "./policy.ts";
import { anyLevel, anyPolicy } from "./test-policy.ts";

const TIB = 2 ** 40;

/** Whether a session under `a` may do nothing that one under `b` may not. */
function isWithin(a: EffectivePolicy, b: EffectivePolicy): boolean {
  return (
    (!a.cache_enabled || b.cache_enabled) &&
    (!a.staging_enabled || b.staging_enabled) &&
    a.allowed_modes.every((mode) => b.allowed_modes.includes(mode)) &&
    nodeCacheLimitBytes(a, TIB) <= nodeCacheLimitBytes(b, TIB) &&
    nodeCacheLimitBytes(a, 1e6) <= nodeCacheLimitBytes(b, 1e6) &&
    POLICY_NUMBERS.every((key) => (a[key] ?? Number.POSITIVE_INFINITY) <= (b[key] ?? Number.POSITIVE_INFINITY))
  );
}

test("the defaults are those of the documentation", () => {
  expect(clusterPolicy({})).toEqual(DEFAULT_POLICY);
  expect(DEFAULT_POLICY).toEqual({
    cache_enabled: true,
    allowed_modes: ["pinned", "organic", "bypass"],
    max_cache_bytes: 50 * 2 ** 30,
    max_node_cache_bytes: null,
    max_node_cache_percent: 80,
    metadata_ttl_ms: 5_000,
    max_disconnect_seconds: 300,
    key_health_interval_ms: 30_000,
    staging_enabled: true,
    mode: "organic",
  });
});

test("a level never widens the one above, whatever it says", () => {
  fc.assert(fc.property(anyPolicy, anyLevel, (upper, level) => expect(isWithin(narrow(upper, level), upper)).toBeTrue()));
});

test("narrowing is monotone: under a narrower level above, the same level gives no more", () => {
  fc.assert(
    fc.property(anyPolicy, anyLevel, anyLevel, (upper, between, level) => {
      expect(isWithin(narrow(narrow(upper, between), level), narrow(upper, level))).toBeTrue();
    }),
  );
});

test("a level that says nothing, or the same again, changes nothing", () => {
  fc.assert(
    fc.property(anyPolicy, anyLevel, (upper, level) => {
      expect(narrow(upper, {})).toEqual(upper);
      const once = narrow(upper, level);
      expect(narrow(once, level)).toEqual(once);
    }),
  );
});

test("what a level says holds where it asks for no more than the level above gives", () => {
  fc.assert(
    fc.property(anyPolicy, anyLevel, (upper, level) => {
      const wide = widenings(upper, level);
      const result = narrow(upper, level);
      for (const key of [...POLICY_NUMBERS, "cache_enabled", "allowed_modes"] as const) {
        if (level[key] !== undefined && !wide.includes(key)) expect(result[key]).toEqual(level[key]);
      }
    }),
  );
});

test("what is no widening is told from what is one", () => {
  fc.assert(
    fc.property(anyPolicy, anyLevel, (upper, level) => {
      const { mode: _, ...said } = level;
      const asked = { ...upper, ...Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined)) };
      expect(widenings(upper, said).length === 0).toBe(isWithin(asked, upper));
    }),
  );
});

test("the mode is one that is allowed; where there is none, nothing is cached", () => {
  fc.assert(
    fc.property(anyPolicy, anyLevel, (upper, level) => {
      const { cache_enabled, allowed_modes, mode, staging_enabled } = narrow(upper, level);
      if (cache_enabled && allowed_modes.length > 0) expect(allowed_modes).toContain(mode);
      else expect(mode).toBe("bypass");
      if (!cache_enabled) expect(staging_enabled).toBeFalse();
    }),
  );
});

test.each<[PolicyLevel, PolicyLevel, string]>([
  [{}, { mode: "pinned" }, "pinned"],
  [{ mode: "pinned" }, {}, "pinned"],
  [{ mode: "pinned" }, { mode: "bypass" }, "bypass"],
  [{ mode: "pinned" }, { allowed_modes: ["organic", "bypass"] }, "organic"],
  [{ allowed_modes: ["pinned", "bypass"] }, {}, "pinned"],
  [{ allowed_modes: ["pinned"] }, { mode: "organic" }, "pinned"],
  [{ allowed_modes: ["pinned"] }, { allowed_modes: ["organic"] }, "bypass"],
  [{ cache_enabled: false }, { mode: "pinned", cache_enabled: true }, "bypass"],
])("mode under %p and %p: %s", (cluster, level, mode) => {
  expect(narrow(clusterPolicy(cluster), level).mode).toBe(mode as EffectivePolicy["mode"]);
});

test("a mount of several namespaces is held to each one's policy", () => {
  fc.assert(
    fc.property(anyPolicy, anyPolicy, (a, b) => {
      const both = intersect(a, b);
      expect(isWithin(both, a)).toBeTrue();
      expect(isWithin(both, b)).toBeTrue();
      const { mode: one, ...rest } = both;
      const { mode: other, ...same } = intersect(b, a);
      expect(rest).toEqual(same);
      expect(intersect(a, a)).toEqual(a);
    }),
  );
});

test("the machine's share: 80 % of the filesystem, or what the cluster says instead; levels below only lower it", () => {
  expect(nodeCacheLimitBytes(DEFAULT_POLICY, TIB)).toBe(Math.floor(0.8 * TIB));
  expect(nodeCacheLimitBytes(narrow(DEFAULT_POLICY, { max_node_cache_bytes: 5 * TIB }), TIB)).toBe(Math.floor(0.8 * TIB));
  expect(nodeCacheLimitBytes(narrow(DEFAULT_POLICY, { max_node_cache_bytes: 1_000 }), TIB)).toBe(1_000);
  expect(nodeCacheLimitBytes(clusterPolicy({ max_node_cache_bytes: TIB - 1 }), TIB)).toBe(TIB - 1);
});

test("the strictest policy is within every other", () => {
  const strict = STRICTEST_POLICY;
  expect(strict).toMatchObject({ cache_enabled: false, staging_enabled: false, mode: "bypass" });
});
