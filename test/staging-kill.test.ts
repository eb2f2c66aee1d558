/** Staging that is interrupted: by kill -9 at any moment, by the user, by its time limit. It goes on where it stopped. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { cleanUp, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { controlOf, poolsIn, stage } from "./support/staging.ts";

setDefaultTimeout(90_000);
afterAll(cleanUp);

const FILES = 60;
const KILLS = 8;
const sums = (path: string): Promise<string> =>
  runOk("sh", ["-c", 'cd "$1" && find . -type f | LC_ALL=C sort | xargs sha256sum', "sh", path]);

/** Images that are whole, as far as one can see from outside: by name, when they were written. */
function wholeImages(pool: string): Map<string, number> {
  const files = join(pool, "files");
  const images = readdirSync(files).filter((name) => {
    const table = statSync(join(files, `${name}.crc`), { throwIfNoEntry: false });
    return !name.endsWith(".crc") && table?.size === Math.ceil(statSync(join(files, name)).size / 65_536) * 4;
  });
  return new Map(images.map((name) => [name, statSync(join(files, name)).mtimeMs]));
}

test("kill -9 at any moment: the next run goes on with what is there, and ends with the right bytes; released, nothing is left", async () => {
  await using node = await TestNode.start();
  const writer = await TestMount.mount(node);
  await runOk("sh", [
    "-ec",
    `mkdir -p "$1/set/small" && cd "$1/set"
    for i in $(seq ${FILES}); do head -c 3000000 /dev/urandom > f$i; echo $i > small/$i; done
    head -c 40000000 /dev/urandom > large`,
    "sh",
    writer.path,
  ]);
  const expected = await sums(join(writer.path, "set"));
  await writer.unmount();
  const cacheDir = tempFolder("cache-");
  const args = ["--cache-dir", cacheDir];
  let mount = await TestMount.mount(node, { args });
  const [pool = ""] = poolsIn(cacheDir);
  const adopt = () => TestMount.mount(node, { args: [...args, "-o", `pool_id=${basename(pool)}`] });
  const started = performance.now();
  await stage(pool, "/set");
  const takesMs = performance.now() - started;
  await controlOf(pool).release({ path: "/set" });
  let kept = 0;
  for (let i = 0; i < KILLS; i++) {
    const before = wholeImages(pool);
    const staging = stage(pool, "/set").then(
      () => "complete",
      () => "interrupted",
    );
    // The later ones have less to do.
    await Bun.sleep((takesMs * (1 + Math.random())) / KILLS);
    await mount.kill();
    await staging;
    const after = wholeImages(pool);
    for (const [name, writtenMs] of before) if (after.get(name) === writtenMs) kept++;
    expect([...before.keys()].filter((name) => !after.has(name))).toEqual([]);
    mount = await adopt();
  }
  // It has not begun anew each time.
  expect(kept).toBeGreaterThan(0);
  expect(await stage(pool, "/set")).toMatchObject({ state: "complete", files: 2 * FILES + 1 });
  await node.stop();
  expect(await sums(join(mount.path, "set"))).toBe(expected);
  await controlOf(pool).release({ all: true });
  expect(readdirSync(join(pool, "files"))).toEqual([]);
  expect(readdirSync(join(pool, "staging"))).toEqual([]);
  // The account of the disk is what it was, but for chunks that were read meanwhile.
  expect((await controlOf(pool).stats()).l2?.bytes).toBeLessThan(1_000_000);
  await node.restart();
  await mount.unmount();
});

test("cancelled, or out of time, what is there stays, and the next run needs less", async () => {
  await using node = await TestNode.start();
  const mount = await TestMount.mount(node);
  await runOk("sh", [
    "-ec",
    'mkdir "$1/set" && for i in $(seq 40); do head -c 4000000 /dev/urandom > "$1/set/f$i"; done',
    "sh",
    mount.path,
  ]);
  const [pool = ""] = poolsIn(join(mount.logFile, "../cache"));
  await expect(stage(pool, "/set", 0.15)).rejects.toThrow("/set: not staged within 0.15 s; what is there stays for the next try");
  expect((await controlOf(pool).stats()).datasets).toMatchObject([{ path: "/set", state: "incomplete" }]);
  const there = wholeImages(pool);
  expect(await stage(pool, "/set")).toMatchObject({ state: "complete" });
  const after = wholeImages(pool);
  for (const [name, writtenMs] of there) expect(after.get(name)).toBe(writtenMs);
  await mount.unmount();
});
