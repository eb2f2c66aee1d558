import { expect, test } from "bun:test";
import fc from "fast-check";
import { DEFAULT_POLICY, narrow, POLICY_KEYS, type PolicyLevel } from "../protocol/policy.ts";
import { anyLevel } from "../protocol/test-policy.ts";
import { ConfigError } from "./config-error.ts";
import { describeEffective, formatPolicyValue, parsePolicyKey, parsePolicyWords } from "./policy-values.ts";

test.each<[string, PolicyLevel]>([
  ["cache_enabled=false", { cache_enabled: false }],
  ["allowed_modes=bypass, organic,bypass", { allowed_modes: ["organic", "bypass"] }],
  ["max_cache_bytes=10G", { max_cache_bytes: 10 * 2 ** 30 }],
  ["max_cache_bytes=512", { max_cache_bytes: 512 }],
  ["max_node_cache_bytes=1.5TiB", { max_node_cache_bytes: 1.5 * 2 ** 40 }],
  ["metadata_ttl_ms=5s", { metadata_ttl_ms: 5_000 }],
  ["metadata_ttl_ms=250", { metadata_ttl_ms: 250 }],
  ["metadata_ttl_ms=0", { metadata_ttl_ms: 0 }],
  ["max_disconnect_seconds=300", { max_disconnect_seconds: 300 }],
  ["max_disconnect_seconds=5m", { max_disconnect_seconds: 300 }],
  ["key_health_interval_ms=1m", { key_health_interval_ms: 60_000 }],
  ["staging_enabled=true", { staging_enabled: true }],
  ["mode=pinned", { mode: "pinned" }],
])("%s", (word, level) => {
  expect(parsePolicyWords([word])).toEqual(level);
});

test.each([
  ["cache_size=1G", /^cache_size: no key of a policy; known are cache_enabled, allowed_modes, .*, mode$/],
  ["constructor=1", /no key of a policy/],
  ["mode", /^mode: expected mode=VALUE, where VALUE is pinned, organic or bypass$/],
  ["mode=fast", /^mode: expected pinned, organic or bypass, got "fast"$/],
  ["allowed_modes=", /^allowed_modes: expected some of/],
  ["allowed_modes=organic,fast", /^allowed_modes: expected some of pinned,organic,bypass, separated by commas, got "organic,fast"$/],
  ["cache_enabled=yes", /^cache_enabled: expected true or false, got "yes"$/],
  ["max_cache_bytes=lots", /^max_cache_bytes: expected a size from 0 to 1P, such as 10G, got "lots"$/],
  ["max_cache_bytes=2P", /expected a size/],
  ["metadata_ttl_ms=-1", /^metadata_ttl_ms: expected milliseconds from 0 to 3600000, or a time such as 5s or 2m, got "-1"$/],
  ["metadata_ttl_ms=1.5", /expected milliseconds/],
  ["max_disconnect_seconds=500ms", /^max_disconnect_seconds: expected seconds from 1 to /],
  ["max_disconnect_seconds=0", /expected seconds/],
])("%s is refused", (word, message) => {
  expect(() => parsePolicyWords([word])).toThrow(ConfigError);
  expect(() => parsePolicyWords([word])).toThrow(message);
});

test("a key that is given twice is refused", () => {
  expect(() => parsePolicyWords(["mode=pinned", "mode=organic"])).toThrow("mode: given twice");
  expect(parsePolicyKey("mode")).toBe("mode");
});

test("what is shown can be set again", () => {
  fc.assert(
    fc.property(anyLevel, (level) => {
      fc.pre(level.allowed_modes?.length !== 0);
      const said = POLICY_KEYS.flatMap((key) => (level[key] === undefined ? [] : [`${key}=${formatPolicyValue(key, level[key])}`]));
      expect(parsePolicyWords(said)).toEqual(JSON.parse(JSON.stringify(level)));
    }),
  );
});

test("an effective policy is shown in words where a value alone would not do", () => {
  const show = (level: PolicyLevel, key: "max_node_cache_bytes" | "allowed_modes") => describeEffective(narrow(DEFAULT_POLICY, level), key);
  expect(show({}, "max_node_cache_bytes")).toBe("80% of the filesystem");
  expect(show({ max_node_cache_bytes: 2 ** 30 }, "max_node_cache_bytes")).toBe("1G, at most 80% of the filesystem");
  expect(show({ allowed_modes: [] }, "allowed_modes")).toBe("none");
});
