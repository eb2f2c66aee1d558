import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { makeCa, makeIdentity } from "../pki/test-pki.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { CACHE_MODES, DEFAULT_POLICY, type EffectivePolicy, STRICTEST_POLICY } from "../protocol/policy.ts";
import { anyPolicy } from "../protocol/test-policy.ts";
import { NodeClient } from "../transport/node-client.ts";
import { ScriptedNode } from "../transport/test-scripted-node.ts";
import { applyPolicy, type CacheChoice, clampChoice, openPolicy, type PolicyNode, rememberPolicy } from "./policy.ts";

const folder = mkdtempSync(join(tmpdir(), "kiseki-policy-"));
const path = join(folder, "policy.json");
afterAll(() => rmSync(folder, { recursive: true }));

const maybe = (max: number) => fc.option(fc.integer({ min: 0, max }));
const anyChoice: fc.Arbitrary<CacheChoice> = fc.record({
  cacheMode: fc.option(fc.constantFrom(...CACHE_MODES)),
  cacheL2MaxBytes: maybe(2 ** 40),
  metaTtlMs: maybe(3_600_000),
  attrTimeoutMs: maybe(3_600_000),
  entryTimeoutMs: maybe(3_600_000),
});
const NO_CHOICE: CacheChoice = { cacheMode: null, cacheL2MaxBytes: null, metaTtlMs: null, attrTimeoutMs: null, entryTimeoutMs: null };
const OPTIONS = {
  cacheMode: "cache_mode",
  cacheL2MaxBytes: "cache_l2_max",
  metaTtlMs: "meta_ttl_ms",
  attrTimeoutMs: "attr_timeout",
  entryTimeoutMs: "entry_timeout",
} as const;

test("whatever a mount asks for, it gets no more than the policy allows", () => {
  fc.assert(
    fc.property(anyPolicy, anyChoice, (policy, choice) => {
      const { settings } = clampChoice(policy, choice);
      expect(settings.cacheL2MaxBytes).toBeLessThanOrEqual(policy.max_cache_bytes);
      for (const key of ["metaTtlMs", "attrTimeoutMs", "entryTimeoutMs"] as const) {
        expect(settings[key]).toBeLessThanOrEqual(policy.metadata_ttl_ms);
      }
      if (!policy.cache_enabled || policy.allowed_modes.length === 0) expect(settings.cacheMode).toBe("bypass");
      else expect(policy.allowed_modes).toContain(settings.cacheMode);
      if (settings.cacheMode === "bypass") expect(settings.cacheL2MaxBytes).toBe(0);
    }),
  );
});

test("what is asked for within the policy is granted; what is not is reported, option by option", () => {
  fc.assert(
    fc.property(anyPolicy, anyChoice, (policy, choice) => {
      const { settings, clamps } = clampChoice(policy, choice);
      for (const key of Object.keys(OPTIONS) as (keyof CacheChoice)[]) {
        if (key === "cacheL2MaxBytes" && settings.cacheMode === "bypass") continue;
        const clamp = clamps.find(({ option }) => option === OPTIONS[key]);
        if (choice[key] === null || choice[key] === settings[key]) expect(clamp).toBeUndefined();
        else expect(clamp).toEqual({ option: OPTIONS[key], asked: choice[key], taken: settings[key] });
      }
    }),
  );
});

test("without choices all is as the policy says, and nothing is reported", () => {
  expect(clampChoice(DEFAULT_POLICY, NO_CHOICE)).toEqual({
    settings: { cacheMode: "organic", cacheL2MaxBytes: 50 * 2 ** 30, metaTtlMs: 5_000, attrTimeoutMs: 5_000, entryTimeoutMs: 5_000 },
    clamps: [],
  });
  expect(clampChoice(STRICTEST_POLICY, NO_CHOICE)).toMatchObject({ settings: { cacheMode: "bypass", cacheL2MaxBytes: 0 }, clamps: [] });
  // The kernel's times follow meta_ttl_ms.
  expect(clampChoice(DEFAULT_POLICY, { ...NO_CHOICE, metaTtlMs: 100 }).settings).toMatchObject({ attrTimeoutMs: 100, entryTimeoutMs: 100 });
});

const lines: string[] = [];
const log = { info: () => {}, warn: (_: object, message: string) => void lines.push(message) };

test("a line in the log for each option that was cut down", () => {
  lines.length = 0;
  const policy: EffectivePolicy = { ...DEFAULT_POLICY, allowed_modes: ["organic"], max_cache_bytes: 1_000 };
  applyPolicy(
    { policy, origin: "node" },
    { ...NO_CHOICE, cacheMode: "pinned", cacheL2MaxBytes: 2_048, metaTtlMs: 10, attrTimeoutMs: 7_500 },
    log,
  );
  expect(lines).toEqual([
    "the cache policy does not allow cache_mode=pinned: taken organic",
    "the cache policy does not allow cache_l2_max=2K: taken 1000",
    "the cache policy does not allow attr_timeout=7.5: taken 5",
  ]);
});

const SUBJECT = { namespaces: ["default"], workload: null };
const asked: unknown[] = [];
function clientThat(answer: EffectivePolicy | Error, connected = true): PolicyNode {
  return {
    connected,
    call: async (_, request) => {
      asked.push(request);
      if (answer instanceof Error) throw answer;
      return { answer: { policy: answer } };
    },
  };
}

const late = new TransportError("timeout", "late");
const FALLBACK = { policy: { ...DEFAULT_POLICY, max_cache_bytes: 10 * 2 ** 30 }, origin: "fallback" as const };

test("what a pool remembers is read back; anything else is no policy", async () => {
  await fc.assert(
    fc.asyncProperty(anyPolicy, async (policy) => {
      rememberPolicy(folder, { policy, origin: "node" }, log);
      expect(await openPolicy(clientThat(late), SUBJECT, folder, log)).toEqual({ policy, origin: "pool" });
    }),
    { numRuns: 20 },
  );
  expect(statSync(path).mode & 0o777).toBe(0o600);
  for (const text of ["", "{", "{}", JSON.stringify({ ...DEFAULT_POLICY, mode: "fast" }), JSON.stringify({ ...DEFAULT_POLICY, more: 1 })]) {
    writeFileSync(path, text);
    expect(await openPolicy(clientThat(late), SUBJECT, folder, log)).toEqual(FALLBACK);
  }
  rmSync(path);
  expect(await openPolicy(clientThat(late), SUBJECT, folder, log)).toEqual(FALLBACK);
});

test("a pool remembers what the node said last, not what was in force for want of it; a pool that takes nothing is logged", async () => {
  const said = { ...DEFAULT_POLICY, max_cache_bytes: 7 };
  rememberPolicy(folder, { policy: said, origin: "node" }, log);
  rememberPolicy(folder, FALLBACK, log);
  rememberPolicy(folder, { policy: STRICTEST_POLICY, origin: "pool" }, log);
  expect(await openPolicy(clientThat(late), SUBJECT, folder, log)).toEqual({ policy: said, origin: "pool" });
  lines.length = 0;
  rememberPolicy(join(folder, "gone"), { policy: said, origin: "node" }, log);
  expect(lines).toEqual(["the pool can't remember the cache policy"]);
});

test("the node's word counts before the pool's", async () => {
  asked.length = 0;
  rememberPolicy(folder, { policy: { ...DEFAULT_POLICY, max_cache_bytes: 7 }, origin: "node" }, log);
  expect(await openPolicy(clientThat(STRICTEST_POLICY), SUBJECT, folder, log)).toEqual({ policy: STRICTEST_POLICY, origin: "node" });
  await openPolicy(clientThat(DEFAULT_POLICY), { namespaces: "all", workload: "w" }, null, log);
  expect(asked).toEqual([
    { namespaces: ["default"], workload: "" },
    { namespaces: [], workload: "w" },
  ]);
});

test("no answer and no pool: organic, 10 GB, 5 s", async () => {
  expect(await openPolicy(clientThat(late), SUBJECT, null, log)).toEqual(FALLBACK);
  expect(FALLBACK.policy).toMatchObject({ mode: "organic", metadata_ttl_ms: 5_000 });
});

test("a node of before policies, which closes the connection: the fallback, and then the client goes on", async () => {
  const ca = await makeCa("cluster");
  const node = new ScriptedNode(await makeIdentity(ca, { uri: "spiffe://c/node/n1", ip: "127.0.0.1" }));
  node.answer = (op) => {
    if (op === "policyGet") queueMicrotask(() => node.cut());
    return op === "hello" || op === "policyGet" ? undefined : { answer: {} };
  };
  await node.listen();
  const client = new NodeClient({
    addrs: [node.addr],
    tls: await makeIdentity(ca, { uri: "spiffe://c/tenant/t1" }),
    sessionId: new Uint8Array(16),
    role: "meta",
    clientVersion: "test",
    requestTimeoutMs: 5_000,
    connectTimeoutMs: 5_000,
  });
  try {
    await client.connect();
    expect(await openPolicy(client, SUBJECT, null, log)).toEqual(FALLBACK);
    await client.call("ping", {});
  } finally {
    client.abandon();
    node.stop();
  }
}, 20_000);

test("without a connection the pool's word counts at once", async () => {
  rememberPolicy(folder, { policy: { ...DEFAULT_POLICY, max_cache_bytes: 7 }, origin: "node" }, log);
  asked.length = 0;
  expect(await openPolicy(clientThat(DEFAULT_POLICY, false), SUBJECT, folder, log)).toMatchObject({ origin: "pool" });
  expect(asked).toEqual([]);
});

test("a client that is not authorized, or whose keys are revoked, gets no fallback", async () => {
  expect(openPolicy(clientThat(new NodeError("key_revoked")), SUBJECT, null, log)).rejects.toMatchObject({ code: "key_revoked" });
  expect(openPolicy(clientThat(new NodeError("not_authorized")), SUBJECT, null, log)).rejects.toMatchObject({ code: "not_authorized" });
});
