/** Staging through real mounts: what is staged stays as it was, needs no node, and survives what the process does not. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import { cleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { controlOf, poolOf, poolsIn, stage } from "./support/staging.ts";

setDefaultTimeout(60_000);

let node: TestNode;
/** Folders of this file's tests, so that they don't meet. */
let folders = 0;

beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(cleanUp);

const sh = (script: string, ...args: string[]): Promise<string> => runOk("sh", ["-ec", script, "sh", ...args]);

/** A folder with files of every shape; returns its name. */
async function makeDataset(mount: TestMount): Promise<string> {
  const name = `set${++folders}`;
  await sh(
    `mkdir -p "$1/sub/deeper" "$1/empty" && cd "$1"
    for i in 1 2 3 4 5 6 7 8 9 10; do echo "small $i" > "small$i"; done
    head -c 300000 /dev/urandom > sub/medium
    head -c 20000000 /dev/urandom > large
    head -c 70000 /dev/urandom > sub/deeper/odd
    : > nothing
    ln -s sub/medium link; ln small1 hard; mkfifo pipe
    truncate -s 10000000 holes; printf middle | dd of=holes bs=1 seek=5000000 conv=notrunc 2>/dev/null
    setfattr -n user.colour -v red large
    dd if=/dev/urandom of=scattered bs=1M count=8 2>/dev/null; sync scattered
    for at in 3 77 500 1200 1900; do printf "%4096s" $at | dd of=scattered bs=4096 seek=$at conv=notrunc 2>/dev/null; done`,
    join(mount.path, name),
  );
  return name;
}

/** At the end of a test: who is killed holds leases for seconds, which the next one would wait for. */
const unmountAll = async (...mounts: TestMount[]): Promise<void> => {
  for (const mount of mounts) await mount.unmount();
};

/** Everything that a program sees of a folder: names, attributes, content, extended attributes. */
const seen = (path: string): Promise<string> =>
  sh(
    `cd "$1" && ls -lR --time-style=full-iso . && find . -type f | LC_ALL=C sort | xargs sha256sum && find . -type l | xargs -r readlink &&
    getfattr -d large`,
    path,
  );

test("what is staged stays as it was while other mounts change it, until it is staged anew", async () => {
  await using other = await TestMount.mount(node);
  const name = await makeDataset(other);
  const before = await seen(join(other.path, name));
  await using mount = await TestMount.mount(node);
  expect(await seen(join(mount.path, name))).toBe(before);
  const staged = await stage(poolOf(mount), `/${name}`);
  expect(staged).toMatchObject({ path: `/${name}`, state: "complete", files: 18 });
  await sh(
    `cd "$1" && echo changed > small1 && rm small2 && echo new > brandnew && mv sub/deeper moved && chmod 600 large && truncate -s 5 sub/medium
    head -c 20000000 /dev/urandom > large`,
    join(other.path, name),
  );
  const after = await seen(join(other.path, name));
  expect(after).not.toBe(before);
  // meta_ttl_ms has no part in it.
  await Bun.sleep(200);
  await sh("echo 3 > /proc/sys/vm/drop_caches");
  expect(await seen(join(mount.path, name))).toBe(before);
  await stage(poolOf(mount), `/${name}`);
  expect(await seen(join(mount.path, name))).toBe(after);
  // Released, it is as others see it at once.
  await sh('echo again > "$1"', join(other.path, name, "small1"));
  expect(await sh('cat "$1"', join(mount.path, name, "small1"))).toBe("changed\n");
  await controlOf(poolOf(mount)).release({ path: `/${name}` });
  expect(await sh('cat "$1"', join(mount.path, name, "small1"))).toBe("again\n");
  expect(readdirSync(join(poolOf(mount), "files"))).toEqual([]);
  expect(readdirSync(join(poolOf(mount), "staging"))).toEqual([]);
  await unmountAll(other, mount);
});

test("a mount's own changes to what it has staged are seen at once, by it and by others", async () => {
  await using other = await TestMount.mount(node);
  const name = await makeDataset(other);
  await using mount = await TestMount.mount(node);
  await stage(poolOf(mount), `/${name}`);
  const [here, there] = [join(mount.path, name), join(other.path, name)];
  // Others were first: the mount's changes are made to what the node has.
  await sh('cd "$1" && echo theirs >> small3 && touch theirs', there);
  await sh(
    `cd "$1" && echo mine >> small3 && echo mine > small4 && touch mine && rm small5 && mv small6 renamed && mkdir sub/new && chmod 640 large &&
    printf HEAD | dd of=large conv=notrunc 2>/dev/null`,
    here,
  );
  expect(await sh('cd "$1" && cat small3 small4 && head -c 4 large && stat -c %a large && ls', here)).toBe(
    await sh('cd "$1" && cat small3 small4 && head -c 4 large && stat -c %a large && ls', there),
  );
  expect(await sh('cat "$1"', join(there, "small3"))).toBe("small 3\ntheirs\nmine\n");
  expect(await seen(here)).toBe(await seen(there));
  await unmountAll(other, mount);
});

test("with the node stopped, everything in a dataset can be listed and read, mapped too", async () => {
  await using other = await TestMount.mount(node);
  const name = await makeDataset(other);
  await sh('mkdir -p "$1/way/to" && mv "$1/$2" "$1/way/to/"', other.path, name);
  const before = await seen(join(other.path, "way/to", name));
  await using mount = await TestMount.mount(node);
  await stage(poolOf(mount), `/way/to/${name}`);
  await node.stop();
  try {
    await sh("echo 3 > /proc/sys/vm/drop_caches");
    expect(await seen(join(mount.path, "way/to", name))).toBe(before);
    const mapped =
      'import mmap,sys,hashlib; f=open(sys.argv[1],"rb"); print(hashlib.sha256(mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)).hexdigest())';
    const sum = await runOk("python3", ["-c", mapped, join(mount.path, "way/to", name, "large")]);
    expect(before).toContain(sum.trim());
    expect((await sh('ls -R "$1"', mount.path)).includes("deeper")).toBe(true);
    expect((await run("df", [mount.path])).status).toBe(0);
  } finally {
    await node.restart();
  }
  await sh('echo back > "$1"', join(mount.path, "back"));
  await unmountAll(other, mount);
});

/** A dataset, what is seen of it, and the pool with it that a mount has left by kill -9; `adopting`: options of who takes it over. */
async function leavePool(other: TestMount) {
  const name = await makeDataset(other);
  const before = await seen(join(other.path, name));
  const cacheDir = tempFolder("cache-");
  const first = await TestMount.mount(node, { args: ["--cache-dir", cacheDir] });
  const [pool = ""] = poolsIn(cacheDir);
  await stage(pool, `/${name}`);
  await first.kill();
  return { name, before, pool, adopting: { args: ["--cache-dir", cacheDir, "-o", `pool_id=${basename(pool)}`] } };
}

test("a pool that was left by kill -9 is taken over: by a mount without a node, and with damaged images when there is one", async () => {
  await using other = await TestMount.mount(node);
  const { name, before, pool, adopting } = await leavePool(other);
  await node.stop();
  try {
    const second = await TestMount.mount(node, adopting);
    expect(await seen(join(second.path, name))).toBe(before);
    await second.kill();
  } finally {
    await node.restart();
  }
  // A flipped bit, and a table that belongs to another image.
  const images = readdirSync(join(pool, "files")).filter((file) => !file.endsWith(".crc"));
  for (const image of images.slice(0, 2)) flipByte(join(pool, "files", image), 1_000);
  const [last = ""] = images.slice(-1);
  flipByte(join(pool, "files", `${last}.crc`), 1);
  await using third = await TestMount.mount(node, adopting);
  expect(await seen(join(third.path, name))).toBe(before);
  const { datasets, l2 } = await controlOf(pool).stats();
  expect(datasets).toMatchObject([{ path: `/${name}`, state: "incomplete" }]);
  expect(l2?.faults.crc).toBeGreaterThanOrEqual(1);
  expect(await stage(pool, `/${name}`)).toMatchObject({ state: "complete" });
  await unmountAll(other, third);
});

test("a damaged manifest costs nobody anything but the node's answers", async () => {
  await using other = await TestMount.mount(node);
  const { name, before, pool, adopting } = await leavePool(other);
  for (const file of readdirSync(join(pool, "staging"))) {
    const path = join(pool, "staging", file);
    // Somewhere in the sealed records, and elsewhere.
    for (let at = 9_000; at < statSync(path).size; at += 5_000) flipByte(path, at);
  }
  await using second = await TestMount.mount(node, adopting);
  expect(await seen(join(second.path, name))).toBe(before);
  expect(await stage(pool, `/${name}`)).toMatchObject({ state: "complete" });
  await unmountAll(other, second);
});

function flipByte(path: string, at: number): void {
  const bytes = readFileSync(path);
  const fd = openSync(path, "r+");
  writeSync(fd, Uint8Array.of((bytes[at] ?? 0) ^ 0xff), 0, 1, at);
  closeSync(fd);
}

test("too deep, too many, missing, no room: an error that says so, and nothing is kept", async () => {
  await using mount = await TestMount.mount(node, { args: ["-o", "cache_l2_max=24M,cache_mode=pinned"] });
  const pool = poolOf(mount);
  await sh(
    'mkdir -p "$1/deep/1/2/3/4/5/6/7/8/9/10/11" "$1/fits/1/2/3/4/5/6/7/8/9/10" && echo x > "$1/fits/1/2/3/4/5/6/7/8/9/10/x"',
    mount.path,
  );
  await expect(stage(pool, "/deep")).rejects.toThrow(
    "/deep/1/2/3/4/5/6/7/8/9/10/11: folders lie 11 deep in the dataset, at most 10 are staged",
  );
  await expect(stage(pool, "/missing")).rejects.toThrow("/missing: no such file or folder");
  expect(await stage(pool, "/fits")).toMatchObject({ state: "complete", files: 1 });
  await sh('head -c 8000000 /dev/urandom > "$1/kept" && head -c 30000000 /dev/urandom > "$1/big"', mount.path);
  await stage(pool, "/kept");
  await expect(stage(pool, "/big")).rejects.toThrow("CacheCapacityExceeded");
  const { datasets } = await controlOf(pool).stats();
  expect(datasets.map(({ path, state }) => [path, state])).toEqual([
    ["/fits", "complete"],
    ["/kept", "complete"],
  ]);
  // It is served all the same.
  expect(await sh('wc -c < "$1/big"', mount.path)).toBe("30000000\n");
  await unmountAll(mount);
});
