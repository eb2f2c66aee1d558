/** Staging in mounts of several namespaces, of whole namespaces, and beside wipes and unmounts. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { cleanUp, KISEKI, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { controlOf, poolOf, poolsIn, stage } from "./support/staging.ts";

setDefaultTimeout(60_000);

let node: TestNode;

beforeAll(async () => {
  node = await TestNode.start();
  const settings = ["--data-addr", node.addr, "--tenant", "t", "--credentials", await node.credentials("t")];
  await runOk(KISEKI, ["namespace", "create", "two", ...settings]);
});
afterAll(cleanUp);

const sh = (script: string, ...args: string[]): Promise<string> => runOk("sh", ["-ec", script, "sh", ...args]);
const seen = (path: string): Promise<string> => sh('cd "$1" && ls -lR && find . -type f | LC_ALL=C sort | xargs sha256sum', path);
const outcome = (staging: Promise<unknown>): Promise<string> =>
  staging.then(
    () => "complete",
    (error) => String((error as Error).message),
  );

test("a whole namespace, and a folder of another one, are staged by one mount and read by others, with the node stopped", async () => {
  const cacheDir = tempFolder("cache-");
  const first = await TestMount.mount(node, { namespace: "default,two", args: ["--cache-dir", cacheDir] });
  await sh(
    'cd "$1" && for n in default two; do mkdir -p $n/d/e; echo $n > $n/d/f; head -c 3000000 /dev/urandom > $n/d/e/big; done',
    first.path,
  );
  const before = await seen(first.path);
  const [pool = ""] = poolsIn(cacheDir);
  await expect(stage(pool, "/")).rejects.toThrow("/: several namespaces; give a path in one of them, such as /default");
  expect(await stage(pool, "/default")).toMatchObject({ path: "/default", state: "complete", files: 2 });
  expect(await stage(pool, "/two/d")).toMatchObject({ path: "/two/d", state: "complete", files: 2 });
  await first.kill();
  await node.stop();
  const adopting = ["--cache-dir", cacheDir, "-o", `pool_id=${basename(pool)}`];
  try {
    const both = await TestMount.mount(node, { namespace: "default,two", args: adopting });
    expect(await seen(both.path)).toBe(before);
    await both.kill();
    const one = await TestMount.mount(node, { args: adopting });
    expect(await sh('cat "$1/d/f" && ls "$1/d/e"', one.path)).toBe("default\nbig\n");
    const paths = (await controlOf(pool).stats()).datasets.map(({ path }) => path);
    expect(paths.sort()).toEqual(["/", "/two/d"]);
    await controlOf(pool).release({ path: "/two/d" });
    expect(await sh('cat "$1/d/f"', one.path)).toBe("default\n");
    await one.unmount();
  } finally {
    await node.restart();
  }
  expect(poolsIn(cacheDir)).toEqual([]);
});

test("a wipe, or an unmount, ends what is being staged, and nothing is left", async () => {
  const mount = await TestMount.mount(node);
  const pool = poolOf(mount);
  await sh('mkdir "$1/many" && for i in $(seq 60); do head -c 3000000 /dev/urandom > "$1/many/$i"; done', mount.path);
  const wiped = outcome(stage(pool, "/many"));
  await Bun.sleep(100);
  await controlOf(pool).wipe();
  expect(["complete", "/many: staging ended, as the caches were wiped"]).toContain(await wiped);
  for (const folder of ["files", "staging"]) expect(readdirSync(join(pool, folder))).toEqual([]);
  expect((await controlOf(pool).stats()).datasets).toEqual([]);
  // The node hangs: nobody waits for its answers.
  const ended = outcome(stage(pool, "/many"));
  await Bun.sleep(100);
  node.freeze();
  try {
    await mount.unmount();
  } finally {
    node.resume();
  }
  expect(await ended).not.toBe("");
  expect(poolsIn(join(mount.logFile, "../cache"))).toEqual([]);
});
