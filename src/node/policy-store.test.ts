import { afterAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_POLICY, type PolicyLevel, STRICTEST_POLICY } from "../protocol/policy.ts";
import { PolicyStore, readPolicyDocument } from "./policy-store.ts";
import { TestNode } from "./test-node.ts";

const folder = mkdtempSync(join(tmpdir(), "kiseki-policy-"));
const path = join(folder, "policy.json");
afterAll(() => rmSync(folder, { recursive: true }));

function write(levels: Record<string, PolicyLevel>, to = path): void {
  writeFileSync(`${to}.new`, JSON.stringify({ version: 1, levels }));
  renameSync(`${to}.new`, to);
}

let complaints: string[];
let store: PolicyStore;
beforeEach(() => {
  rmSync(path, { force: true });
  complaints = [];
  store = new PolicyStore(path, { info: () => {}, error: (_, message) => complaints.push(message) });
});

test("without a file the defaults hold", () => {
  expect(store.effective("acme", ["default"], null)).toEqual(DEFAULT_POLICY);
  expect(complaints).toEqual([]);
});

test("each level counts for those below it, and for no others", () => {
  write({
    "/": { max_cache_bytes: 1_000 },
    "/acme": { metadata_ttl_ms: 100 },
    "/acme/default": { mode: "pinned" },
    "/acme/default/Train-1": { max_disconnect_seconds: 10 },
  });
  const effective = store.effective.bind(store);
  expect(effective("other", ["default"], "Train-1")).toEqual({ ...DEFAULT_POLICY, max_cache_bytes: 1_000 });
  expect(effective("acme", ["second"], null)).toMatchObject({ max_cache_bytes: 1_000, metadata_ttl_ms: 100, mode: "organic" });
  expect(effective("acme", ["default"], null)).toMatchObject({ metadata_ttl_ms: 100, mode: "pinned", max_disconnect_seconds: 300 });
  expect(effective("acme", ["default"], "Train-1")).toMatchObject({ metadata_ttl_ms: 100, mode: "pinned", max_disconnect_seconds: 10 });
  expect(effective("acme", ["default"], "constructor")).toEqual(effective("acme", ["default"], null));
});

test("a session of several namespaces is held to the narrowest of each limit", () => {
  write({ "/acme/a": { max_cache_bytes: 10, metadata_ttl_ms: 500 }, "/acme/b": { max_cache_bytes: 20, metadata_ttl_ms: 100 } });
  expect(store.effective("acme", ["a", "b", "c"], null)).toMatchObject({ max_cache_bytes: 10, metadata_ttl_ms: 100 });
  expect(store.effective("acme", [], null)).toEqual(DEFAULT_POLICY);
});

test("a change counts at once", () => {
  write({ "/": { max_cache_bytes: 1 } });
  expect(store.effective("acme", ["default"], null).max_cache_bytes).toBe(1);
  write({ "/": { max_cache_bytes: 2 } });
  expect(store.effective("acme", ["default"], null).max_cache_bytes).toBe(2);
});

const DAMAGED = [
  "",
  "{",
  "[]",
  "null",
  '{"version":2,"levels":{}}',
  '{"version":1,"levels":{"/":{"max_cach_bytes":1}}}',
  '{"version":1,"levels":{"/":{"max_cache_bytes":-1}}}',
  '{"version":1,"levels":{"/":{"mode":"fast"}}}',
  '{"version":1,"levels":{"acme":{}}}',
  '{"version":1,"levels":{"/acme/default/train/x":{}}}',
];
test.each(DAMAGED)("a damaged file changes nothing, and the log says so once: %s", (text) => {
  write({ "/": { max_cache_bytes: 1 } });
  store.effective("acme", ["default"], null);
  writeFileSync(path, text);
  for (let i = 0; i < 3; i++) expect(store.effective("acme", ["default"], null).max_cache_bytes).toBe(1);
  expect(complaints).toEqual([expect.stringContaining("the last good one stays in force")]);
  expect(() => readPolicyDocument(path)).toThrow(`${path}: damaged`);
  write({});
  expect(store.effective("acme", ["default"], null)).toEqual(DEFAULT_POLICY);
});

test("a file that is damaged from the start: nothing is cached until it is repaired", () => {
  writeFileSync(path, "{");
  expect(store.effective("acme", ["default"], null)).toEqual(STRICTEST_POLICY);
  expect(complaints).toEqual([expect.stringContaining("new sessions cache nothing")]);
  write({ "/": { max_cache_bytes: 1 } });
  expect(store.effective("acme", ["default"], null)).toMatchObject({ cache_enabled: true, max_cache_bytes: 1 });
});

test("a node tells each tenant its own; no namespaces named: all that the tenant has", async () => {
  const node = await TestNode.start();
  try {
    const file = join(node.dataDir, "policy.json");
    write({ "/acme": { max_cache_bytes: 5 }, "/acme/second": { metadata_ttl_ms: 7 }, "/acme/default/w": { mode: "pinned" } }, file);
    const acme = await node.client("acme");
    await acme.call("namespaceCreate", { name: "second" });
    const ask = async (namespaces: string[], workload = "") => (await acme.call("policyGet", { namespaces, workload })).answer.policy;
    expect(await ask(["default"])).toEqual({ ...DEFAULT_POLICY, max_cache_bytes: 5 });
    expect(await ask(["default"], "w")).toEqual({ ...DEFAULT_POLICY, max_cache_bytes: 5, mode: "pinned" });
    expect(await ask(["second"])).toEqual({ ...DEFAULT_POLICY, max_cache_bytes: 5, metadata_ttl_ms: 7 });
    expect(await ask([])).toMatchObject({ max_cache_bytes: 5, metadata_ttl_ms: 7 });
    const other = await node.client("other");
    expect((await other.call("policyGet", { namespaces: ["second"], workload: "w" })).answer.policy).toEqual(DEFAULT_POLICY);
    write({}, file);
    expect(await ask(["default"])).toEqual(DEFAULT_POLICY);
  } finally {
    await node.stop();
  }
});
