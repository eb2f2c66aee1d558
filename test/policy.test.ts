/** The cache policy through real mounts: what an operator sets on the node's host is what mounts do from then on. */
import { afterAll, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { cacheStats, untilStats } from "./support/l2.ts";
import { cacheDirOf, poolsIn, stage } from "./support/staging.ts";

setDefaultTimeout(60_000);

let node: TestNode;

beforeAll(async () => {
  node = await TestNode.start();
});
beforeEach(() => rmSync(join(node.dataDir, "policy.json"), { force: true }));
afterAll(cleanUp);

const setPolicy = (...words: string[]) => runOk(KISEKI, ["policy", "set", "--data-dir", node.dataDir, ...words]);

/** The log's lines with this word in their message. */
const logged = (mount: TestMount, word: string): string[] =>
  mount
    .log()
    .split("\n")
    .flatMap((line) => (line === "" ? [] : [(JSON.parse(line) as { msg: string }).msg]))
    .filter((message) => message.includes(word));

test("a change applies to mounts that start after it; those that run go on as they were", async () => {
  await using before = await TestMount.mount(node);
  await setPolicy("allowed_modes=pinned", "max_cache_bytes=3G", "metadata_ttl_ms=1s");
  await using after = await TestMount.mount(node);
  expect(await cacheStats(before)).toMatchObject({ mode: "organic", policy: { max_cache_bytes: 50 * 2 ** 30, metadata_ttl_ms: 5_000 } });
  expect(await cacheStats(after)).toMatchObject({ mode: "pinned", policy: { max_cache_bytes: 3 * 2 ** 30, metadata_ttl_ms: 1_000 } });
  // Not a new session: the node's restart and the connection after it.
  await node.restart();
  await runOk("ls", ["-l", before.path]);
  expect(await cacheStats(before)).toMatchObject({ mode: "organic", policy: { max_cache_bytes: 50 * 2 ** 30 } });
  for (const mount of [before, after]) await mount.unmount();
});

test("what a mount asks for is cut down to the policy, with a line in its log for each option", async () => {
  await setPolicy("allowed_modes=organic,bypass", "max_cache_bytes=1G");
  const asked = "cache_mode=pinned,cache_l2_max=2G,meta_ttl_ms=60000,attr_timeout=7,entry_timeout=1";
  await using mount = await TestMount.mount(node, { args: ["-o", asked] });
  expect(logged(mount, "policy does not allow")).toEqual([
    "the cache policy does not allow cache_mode=pinned: taken organic",
    "the cache policy does not allow cache_l2_max=2G: taken 1G",
    "the cache policy does not allow meta_ttl_ms=60000: taken 5000",
    "the cache policy does not allow attr_timeout=7: taken 5",
  ]);
  const { mode, l2 } = await cacheStats(mount);
  expect(mode).toBe("organic");
  if (l2 !== null) expect(l2.maxBytes).toBe(2 ** 30);
  await mount.unmount();
  await using modest = await TestMount.mount(node, { args: ["-o", "cache_mode=bypass,cache_l2_max=1G,meta_ttl_ms=100"] });
  expect(logged(modest, "policy does not allow")).toEqual([]);
  expect((await cacheStats(modest)).mode).toBe("bypass");
  await modest.unmount();
});

test("tenant, namespace and workload: each mount gets what its levels come to", async () => {
  await node.credentials("u");
  await setPolicy("mode=pinned", "--tenant", "t", "--namespace", "default");
  await setPolicy("mode=bypass", "--tenant", "t", "--namespace", "default", "--workload", "Train-7");
  const mode = async (tenant: string, args: string[], env: Record<string, string> = {}): Promise<string> => {
    await using mount = await TestMount.mount(node, { tenant, args, env });
    const { mode } = await cacheStats(mount);
    await mount.unmount();
    return mode;
  };
  expect(await mode("u", [])).toBe("organic");
  expect(await mode("t", [])).toBe("pinned");
  expect(await mode("t", ["-o", "workload=Train-7"])).toBe("bypass");
  expect(await mode("t", [], { KISEKI_WORKLOAD: "Train-7" })).toBe("bypass");
  expect(await mode("t", ["-o", "workload=other"])).toBe("pinned");
});

test("cache_enabled=false: nothing is written to cache_dir, memory keeps nothing, and files are what they were", async () => {
  await setPolicy("cache_enabled=false");
  const cache = join(tempFolder("no-cache-"), "cache");
  await using mount = await TestMount.mount(node, { args: ["--cache-dir", cache, "-o", "cache_mode=pinned"] });
  expect(await cacheStats(mount)).toMatchObject({ mode: "bypass", l2: null });
  await runOk("bash", ["-c", "head -c 20000000 /dev/urandom | tee big | sha256sum > sum"], { cwd: mount.path });
  await runOk("bash", ["-c", "sync; sha256sum big >/dev/null; for i in 1 2 3; do sha256sum < big | cmp - sum; done"], { cwd: mount.path });
  // What was read ahead, and then came from the kernel's pages, goes after two seconds.
  await untilStats(mount, ({ l1 }) => l1.bytes === 0);
  expect(existsSync(cache)).toBeFalse();
  await mount.unmount();
});

test("a pool remembers the policy of its mount; cache_l2_max=0 is granted under every policy, and makes none", async () => {
  await setPolicy("allowed_modes=pinned", "metadata_ttl_ms=2s");
  const cache = join(tempFolder("pool-"), "cache");
  const policies = () => readdirSync(cache, { recursive: true }).filter((name) => String(name).endsWith("/policy.json"));
  await using mount = await TestMount.mount(node, { args: ["--cache-dir", cache] });
  const [remembered, ...more] = policies();
  expect(more).toEqual([]);
  expect(JSON.parse(readFileSync(join(cache, String(remembered)), "utf8"))).toMatchObject({ mode: "pinned", metadata_ttl_ms: 2_000 });
  await mount.unmount();
  await using none = await TestMount.mount(node, { args: ["--cache-dir", cache, "-o", "cache_mode=bypass,cache_l2_max=0"] });
  expect(await cacheStats(none)).toMatchObject({ mode: "pinned", l2: null });
  expect(policies()).toEqual([]);
  await none.unmount();
});

test("no node: a mount that takes a pool over keeps to the policy that the pool remembers", async () => {
  await using writer = await TestMount.mount(node);
  await runOk("bash", ["-c", "mkdir -p staged && echo here > staged/file"], { cwd: writer.path });
  await setPolicy("max_cache_bytes=3G", "metadata_ttl_ms=2s");
  const cache = tempFolder("adopted-");
  const first = await TestMount.mount(node, { args: ["--cache-dir", cache] });
  const [pool = ""] = poolsIn(cache);
  await stage(pool, "/staged");
  await first.kill();
  await setPolicy("max_cache_bytes=1G");
  await node.stop();
  try {
    await using second = await TestMount.mount(node, { args: ["--cache-dir", cache, "-o", `pool_id=${basename(pool)},cache_l2_max=5G`] });
    expect((await cacheStats(second)).policy).toMatchObject({ max_cache_bytes: 3 * 2 ** 30, metadata_ttl_ms: 2_000 });
    expect(logged(second, "policy")).toEqual([
      "no node tells the cache policy: the one that the pool remembers is in force",
      "cache policy",
      "the cache policy does not allow cache_l2_max=5G: taken 3G",
    ]);
    expect(await runOk("cat", [join(second.path, "staged/file")])).toBe("here\n");
    await second.unmount();
  } finally {
    await node.restart();
  }
});

test("staging_enabled=false: kiseki stage is refused with the reason, and so is staging through a mount", async () => {
  await setPolicy("staging_enabled=false");
  await using mount = await TestMount.mount(node);
  await runOk("bash", ["-c", "mkdir -p staged && echo here > staged/file"], { cwd: mount.path });
  await expect(stage(poolsIn(cacheDirOf(mount))[0] ?? "", "/staged")).rejects.toThrow(/policy/);
  const credentials = await node.credentials("t");
  const where = ["--data-addr", node.addr, "--tenant", "t", "--credentials", credentials, "--cache-dir", tempFolder("stage-")];
  const { status, stderr } = await run(KISEKI, ["stage", "--daemon", "--dataset", "/staged", ...where]);
  expect(stderr).toMatch(/^kiseki: .*policy.*\n$/);
  expect(status).toBe(1);
  await mount.unmount();
});

test("a policy that the node can't read: mounts work and cache nothing, and the node says why", async () => {
  await runOk("bash", ["-c", `echo '{' > ${join(node.dataDir, "policy.json")}`]);
  await node.restart();
  await using mount = await TestMount.mount(node);
  expect((await cacheStats(mount)).mode).toBe("bypass");
  expect(node.log()).toContain("the policy can't be read: until it is repaired, new sessions cache nothing");
  await runOk("sha256sum", ["big"], { cwd: mount.path });
  await mount.unmount();
});

test("a tenant sees what applies to it, and no level of others", async () => {
  await setPolicy("max_cache_bytes=7G", "--tenant", "t");
  const ask = async (tenant: string) => {
    const args = ["policy", "show-effective", "--data-addr", node.addr, "--credentials", await node.credentials(tenant)];
    return await runOk(KISEKI, args);
  };
  expect(await ask("t")).toMatch(/^max_cache_bytes +7G$/m);
  expect(await ask("u")).toMatch(/^max_cache_bytes +50G$/m);
});

test("a level that would be wider than those above it is refused by the command, and nothing changes", async () => {
  await setPolicy("max_cache_bytes=2G");
  const wider = ["policy", "set", "--data-dir", node.dataDir, "max_cache_bytes=3G", "--tenant", "t"];
  expect(await run(KISEKI, wider)).toEqual({
    status: 1,
    stdout: "",
    stderr: "kiseki: max_cache_bytes=3G is wider than max_cache_bytes=2G (cluster): a level may only narrow those above it\n",
  });
  await using mount = await TestMount.mount(node);
  expect((await cacheStats(mount)).policy).toMatchObject({ max_cache_bytes: 2 * 2 ** 30 });
  await mount.unmount();
});
