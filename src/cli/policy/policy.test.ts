/** kiseki policy as an operator and a tenant run it: output, messages and exit statuses. */
import { afterAll, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeCredentials, writeCredentialsFile } from "../../crypto/credentials.ts";
import { TestNode } from "../../node/test-node.ts";
import { createTenant } from "../../pki/cluster.ts";
import { POLICY_KEYS } from "../../protocol/policy.ts";

setDefaultTimeout(30_000);

const MAIN = join(import.meta.dir, "../../main.ts");
let node: TestNode;
let folder: string;
let file: string;

beforeAll(async () => {
  node = await TestNode.start();
  folder = node.dataDir;
  file = join(folder, "policy.json");
});
afterAll(() => node.stop());
beforeEach(() => rmSync(file, { force: true }));

async function policy(...args: string[]): Promise<[status: number, out: string, err: string]> {
  const child = Bun.spawn([process.execPath, MAIN, "policy", ...args], {
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: process.env.PATH ?? "" },
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return [await child.exited, out, err];
}
const here = (...args: string[]) => policy(...args, "--data-dir", folder);
const ACME = ["--tenant", "acme"];
const DEFAULT = [...ACME, "--namespace", "default"];
const TRAIN = [...DEFAULT, "--workload", "Train"];

test("set, get, unset", async () => {
  await node.client("acme");
  expect(await here("set", "max_cache_bytes=100G", "metadata_ttl_ms=2s")).toEqual([0, "", ""]);
  expect(await here("set", "allowed_modes=organic,bypass", ...ACME)).toEqual([0, "", ""]);
  expect(await here("set", "max_cache_bytes=1G", ...TRAIN)).toEqual([0, "", ""]);
  const all =
    "cluster\tmax_cache_bytes=100G\ncluster\tmetadata_ttl_ms=2000\nacme\tallowed_modes=organic,bypass\nacme/default/Train\tmax_cache_bytes=1G\n";
  expect(await here("get")).toEqual([0, all, ""]);
  expect(await here("get", ...ACME)).toEqual([0, "acme\tallowed_modes=organic,bypass\n", ""]);
  expect(await here("get", ...DEFAULT)).toEqual([
    0,
    "",
    expect.stringMatching(/^kiseki: nothing is set at this level; .*show-effective\n$/),
  ]);
  expect(JSON.parse((await here("get", "--json"))[1])).toEqual({
    "/": { max_cache_bytes: 100 * 2 ** 30, metadata_ttl_ms: 2_000 },
    "/acme": { allowed_modes: ["organic", "bypass"] },
    "/acme/default/Train": { max_cache_bytes: 2 ** 30 },
  });
  expect(await here("unset", "max_cache_bytes", "mode", ...TRAIN)).toEqual([0, "", ""]);
  expect((await here("get"))[1]).not.toContain("Train");
  expect(statSync(file).mode & 0o777).toBe(0o600);
});

test("a level that asks for more than those above it is refused, with what they give and which one of them", async () => {
  await here("set", "max_cache_bytes=20G", "allowed_modes=organic,bypass");
  await here("set", "max_cache_bytes=10G", "staging_enabled=false", ...ACME);
  const before = readFileSync(file, "utf8");
  const cases: [string[], string][] = [
    [["max_cache_bytes=11G", ...DEFAULT], "max_cache_bytes=11G is wider than max_cache_bytes=10G (acme)"],
    [["max_cache_bytes=21G", "--tenant", "other"], "max_cache_bytes=21G is wider than max_cache_bytes=20G (cluster)"],
    [["metadata_ttl_ms=6s", ...TRAIN], "metadata_ttl_ms=6000 is wider than metadata_ttl_ms=5000 (default)"],
    [["staging_enabled=true", ...TRAIN], "staging_enabled=true is wider than staging_enabled=false (acme)"],
    [["allowed_modes=pinned,bypass", ...ACME], "allowed_modes=pinned,bypass is wider than allowed_modes=organic,bypass (cluster)"],
    [["mode=pinned", ...ACME], "mode=pinned is wider than allowed_modes=organic,bypass (cluster)"],
  ];
  for (const [args, message] of cases) {
    expect(await here("set", ...args)).toEqual([1, "", `kiseki: ${message}: a level may only narrow those above it\n`]);
  }
  const [status, , err] = await here("set", "max_cache_bytes=11G", "max_disconnect_seconds=1h", "mode=bypass", ...DEFAULT);
  expect([status, err]).toEqual([1, expect.stringMatching(/max_cache_bytes=11G is wider .*; max_disconnect_seconds=3600 is wider/)]);
  expect(readFileSync(file, "utf8")).toBe(before);
});

test("a mode that its own level does not allow is refused; both can be changed at once", async () => {
  expect(await here("set", "mode=pinned")).toEqual([0, "", ""]);
  const [status, , err] = await here("set", "allowed_modes=organic");
  expect([status, err]).toEqual([1, "kiseki: mode=pinned is not among allowed_modes=organic; set both, so that they agree\n"]);
  expect(await here("set", "allowed_modes=organic", "mode=organic")).toEqual([0, "", ""]);
});

test("a level above may be narrowed below what others say: what is in force follows", async () => {
  await here("set", "max_cache_bytes=10G", "mode=pinned", ...ACME);
  expect(await here("set", "max_cache_bytes=1G", "allowed_modes=organic")).toEqual([0, "", ""]);
  const [, out] = await here("show-effective", ...TRAIN, "--json");
  expect(JSON.parse(out)).toMatchObject({
    policy: { max_cache_bytes: 2 ** 30, allowed_modes: ["organic"], mode: "organic" },
    origins: { max_cache_bytes: "cluster", allowed_modes: "cluster", metadata_ttl_ms: "default" },
  });
});

test("show-effective says what holds, and because of which level", async () => {
  await here("set", "max_node_cache_bytes=1T", ...ACME);
  await here("set", "metadata_ttl_ms=1s", ...TRAIN);
  expect(await here("show-effective", ...TRAIN)).toEqual([
    0,
    [
      "cache_enabled           true                           from: default",
      "allowed_modes           pinned,organic,bypass          from: default",
      "max_cache_bytes         50G                            from: default",
      "max_node_cache_bytes    1T, at most 80% of the filesystem  from: acme",
      "metadata_ttl_ms         1000                           from: acme/default/Train",
      "max_disconnect_seconds  300                            from: default",
      "key_health_interval_ms  30000                          from: default",
      "staging_enabled         true                           from: default",
      "mode                    organic                        from: default",
      "",
    ]
      .map((line) => line.replace(/^(\S+ +)(.*?) +from/, (_, key, value) => `${key}${value.padEnd(33)}  from`))
      .join("\n"),
    "",
  ]);
});

test("a tenant asks the node what applies to it", async () => {
  const { ca, cert, key, cluster } = await createTenant(join(folder, "pki"), "asker", 10);
  const credentials = join(folder, "pki", "asker.json");
  await writeCredentialsFile(credentials, await makeCredentials({ cluster, tenant: "asker", ca, cert, key }));
  await here("set", "max_cache_bytes=3G", "--tenant", "asker", "--namespace", "default");
  const ask = (...args: string[]) => policy("show-effective", "--data-addr", node.address, "--credentials", credentials, ...args);
  const [status, out, err] = await ask();
  expect([status, err]).toEqual([0, ""]);
  expect(out).toMatch(/^max_cache_bytes +3G$/m);
  expect(JSON.parse((await ask("--namespace", "other", "--json"))[1])).toMatchObject({ policy: { max_cache_bytes: 50 * 2 ** 30 } });
  expect(await policy("show-effective", "--data-addr", "127.0.0.1:1", "--credentials", credentials)).toEqual([
    3,
    "",
    expect.stringMatching(/^kiseki: .*\n$/),
  ]);
});

test("the help of set names every key", async () => {
  const [status, out] = await policy("set", "--help");
  expect(status).toBe(0);
  for (const key of POLICY_KEYS) expect(out).toMatch(new RegExp(`^  ${key} +\\S`, "m"));
});

test.each<[string[], number, string | RegExp]>([
  [["set", "cache_size=1G"], 2, /^kiseki: cache_size: no key of a policy; known are cache_enabled, .*\n$/],
  [["unset", "cache_size"], 2, /^kiseki: cache_size: no key of a policy; known are cache_enabled, .*\n$/],
  [["set", "mode=fast"], 2, 'kiseki: mode: expected pinned, organic or bypass, got "fast"\n'],
  [["set"], 2, /^kiseki: missing required argument/],
  [["set", "mode=pinned", "--namespace", "default"], 2, /^kiseki: --namespace needs --tenant/],
  [["set", "mode=pinned", "--tenant", "acme", "--workload", "w"], 2, /^kiseki: --workload needs/],
  [["get", "--tenant", "../acme"], 2, /^kiseki: --tenant \.\.\/acme: not a name/],
  [["set", "mode=pinned", "--tenant", "acme", "--namespace", "all"], 2, /^kiseki: --namespace all: not a name/],
])("%p: %p, one line", async (args, status, message) => {
  const [got, out, err] = await here(...args);
  expect([got, out]).toEqual([status, ""]);
  expect(err).toMatch(message);
});

test("a folder that is no node's, and no folder at all", async () => {
  const where = join(folder, "pki");
  expect(await policy("get", "--data-dir", where)).toEqual([1, "", `kiseki: ${where}: not a storage node's data folder\n`]);
  expect(await policy("set", "mode=pinned")).toEqual([2, "", expect.stringContaining("--data-dir")]);
  expect(await policy("show-effective")).toEqual([2, "", expect.stringMatching(/--data-dir DIR .* or --data-addr/)]);
});

test("a damaged file is neither shown nor replaced", async () => {
  writeFileSync(file, '{"version":1,"levels":{"/":{"mode":7}}}');
  for (const args of [["get"], ["set", "mode=pinned"], ["unset", "mode"], ["show-effective"]]) {
    expect(await here(...args)).toEqual([
      1,
      "",
      expect.stringMatching(/policy\.json: damaged: levels \/ mode: .*correct the file by hand/),
    ]);
  }
  expect(readFileSync(file, "utf8")).toContain("7");
});

test("a slip of the pen in a name is noticed", async () => {
  await node.client("acme");
  expect(await here("set", "mode=pinned", "--tenant", "acne")).toEqual([0, "", "kiseki: note: no tenant acne has been here yet\n"]);
  expect((await here("set", "mode=pinned", "--tenant", "acme", "--namespace", "defualt"))[2]).toContain("no namespace defualt yet");
});

test("changes at the same time are all there afterwards", async () => {
  const names = Array.from({ length: 8 }, (_, i) => `t${i}`);
  const results = await Promise.all(names.map((name) => here("set", "mode=pinned", "--tenant", name)));
  expect(results.map(([status]) => status)).toEqual(names.map(() => 0));
  expect(Object.keys(JSON.parse((await here("get", "--json"))[1]))).toEqual(names.map((name) => `/${name}`));
  expect(readdirSync(folder).filter((name) => name.endsWith(".new"))).toEqual([]);
});
