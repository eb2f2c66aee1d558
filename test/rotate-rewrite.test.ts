/** kiseki tenant rotate --rewrite: what is sealed under earlier data keys moves to the newest one, beside mounts that go on. */
import { Database } from "bun:sqlite";
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanEnvironment, cleanUp, Dialog, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { describeTree, makeTree } from "./support/trees.ts";

setDefaultTimeout(240_000);
afterAll(cleanUp);

const PATIENCE_MS = 120_000;

async function rotateArgs(node: TestNode, ...more: string[]): Promise<string[]> {
  return ["tenant", "rotate", "t", "--data-addr", node.addr, "--credentials", await node.credentials("t"), ...more];
}

async function rewrite(node: TestNode, ...more: string[]) {
  const { status, stdout, stderr } = await run(KISEKI, await rotateArgs(node, "--rewrite", "--json", ...more), { timeoutMs: PATIENCE_MS });
  return { status, stderr, result: JSON.parse(stdout) as { records: number; chunks: number; epoch: number } };
}

/** Mounts take a new key up at once. */
async function startNode(...args: string[]): Promise<TestNode> {
  const node = await TestNode.start({ args });
  await runOk(KISEKI, ["policy", "set", "key_health_interval_ms=200", "--data-dir", node.dataDir]);
  return node;
}

/** How many inode records and entries a node that has stopped has of each epoch, which follows a record's version byte. */
function storedEpochs(node: TestNode): Record<number, number> {
  using db = new Database(join(node.dataDir, "tenants", "t", "namespaces", "default", "shard.db"));
  const counts: Record<number, number> = {};
  for (const { value } of db
    .query<{ value: Uint8Array }, []>("SELECT value FROM records WHERE substr(key, 1, 1) IN (x'01', x'02')")
    .all()) {
    const epoch = new DataView(value.buffer, value.byteOffset).getUint32(1);
    counts[epoch] = (counts[epoch] ?? 0) + 1;
  }
  return counts;
}

/** Does the same in two folders, $1 and $2, until a file `stop` appears in $2: in each, what another mount's commits meet. */
const WRITER = `
for ((i = 0; ; i++)); do
  [ -e "$2/../stop" ] && break
  for root in "$1" "$2"; do
    cd "$root" || exit 1
    echo "line $i" >> log || exit 1
    dd if=/dev/zero of=big bs=1000 count=90 seek=$((i * 37 % 20000)) conv=notrunc status=none || exit 1
    head -c $((i * 311 % 90000)) big > "new-$((i % 7))" || exit 1
    mv "new-$((i % 7))" "moved-$((i % 5))" || exit 1
    setfattr -n user.round -v "$i" log || exit 1
    rm -f "moved-$(((i + 2) % 5))" || exit 1
    ln -f log "link-$((i % 3))" || exit 1
    [ $((i % 4)) = 0 ] && { truncate -s $((i * 4099 % 3000000)) shrinks || exit 1; }
  done
done
echo "$i"
`;

const SUMS = ["-c", "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; getfattr -d -m user log; stat -c '%h %s' *"];

test("a tree is moved to a new data key while a mount has it and a writer changes it: the same tree afterwards, and nothing of the first key", async () => {
  const node = await startNode();
  const local = join(tempFolder("rewrite-"), "tree");
  await makeTree(local);
  const mount = await TestMount.mount(node);
  await runOk("cp", ["-a", local, join(mount.path, "tree")]);
  // Several regions of 64 MiB, holes between; the same chunks in two files; one that is open all the time.
  const PREPARE = `
    head -c 9000000 /dev/urandom > twin-1; cp twin-1 twin-2
    for at in 0 70 71 140 300; do dd if=twin-1 of=sparse bs=1M seek=$at count=5 conv=notrunc status=none; done
    mkdir written; head -c 20000000 /dev/urandom > written/big; echo first > written/log; sync`;
  await runOk("bash", ["-e", "-c", PREPARE], { cwd: mount.path });
  const copy = join(local, "..", "written");
  await runOk("cp", ["-a", join(mount.path, "written"), copy]);
  const tree = await describeTree(join(mount.path, "tree"));
  expect(tree).toBe(await describeTree(local));
  const large = await runOk("bash", ["-c", "sha256sum twin-1 twin-2 sparse; stat -c %b sparse"], { cwd: mount.path });

  const writer = run("bash", ["-c", WRITER, "writer", join(mount.path, "written"), copy], { timeoutMs: PATIENCE_MS });
  const first = await rewrite(node);
  writeFileSync(join(copy, "..", "stop"), "");
  const written = await writer;
  expect(first).toMatchObject({
    status: 0,
    stderr: "",
    result: { tenant: "t", isNewKey: true, isInterrupted: false, epoch: 2, skipped: [], isComplete: true },
  });
  expect(first.result.records).toBeGreaterThan(700);
  expect(first.result.chunks).toBeGreaterThan(8);
  expect(written).toMatchObject({ status: 0, stderr: "" });
  expect(Number(written.stdout)).toBeGreaterThan(5);

  const same = async (mounted: TestMount): Promise<void> => {
    expect(await describeTree(join(mounted.path, "tree"))).toBe(tree);
    expect(await runOk("bash", ["-c", "sha256sum twin-1 twin-2 sparse; stat -c %b sparse"], { cwd: mounted.path })).toBe(large);
    expect(await runOk("bash", SUMS, { cwd: join(mounted.path, "written") })).toBe(await runOk("bash", SUMS, { cwd: copy }));
  };
  await same(mount);
  expect(mount.log()).not.toMatch(/damaged|can't be true|"level":50/);
  await mount.unmount();
  const again = await TestMount.mount(node);
  await same(again);

  expect(await rewrite(node)).toMatchObject({
    status: 0,
    result: { isNewKey: false, epoch: 2, records: 0, chunks: 0, bytes: 0, skipped: [], isComplete: true },
  });
  await again.unmount();
  await node.stop();
  expect(Object.keys(storedEpochs(node))).toEqual(["2"]);
});

test("a rewrite that is killed goes on where it was, and afterwards a data key between the first and the newest is not needed any more", async () => {
  const node = await startNode();
  const mount = await TestMount.mount(node);
  const fill = (name: string) => [
    "-e",
    "-c",
    `for i in 1 2 3 4 5 6; do head -c 3000000 /dev/urandom > ${name}$i; ln -s $i ${name}-link$i; done; sync`,
  ];
  await runOk("bash", fill("a"), { cwd: mount.path });
  await runOk(KISEKI, await rotateArgs(node));
  await Bun.sleep(1_000);
  await runOk("bash", fill("b"), { cwd: mount.path });
  await runOk("setfattr", ["-n", "user.of", "-v", "epoch 2", "b1"], { cwd: mount.path });
  await runOk(KISEKI, await rotateArgs(node));
  const SUM = ["-c", "sha256sum ?[1-6]; readlink *-link*; getfattr -d b1"];
  const sums = await runOk("bash", SUM, { cwd: mount.path });

  const child = Bun.spawn([KISEKI, ...(await rotateArgs(node, "--rewrite", "--rate", "3M"))], {
    env: cleanEnvironment(),
    stdio: ["ignore", "ignore", "ignore"],
  });
  onCleanUp({ end: () => child.kill("SIGKILL"), endNow: () => child.kill("SIGKILL") });
  // At 3 MiB a second it needs 12 s for all.
  await Bun.sleep(6_000);
  expect(child.exitCode).toBe(null);
  child.kill("SIGKILL");
  await child.exited;
  await node.stop();
  const { 1: first = 0, 2: second = 0, 3: third = 0 } = storedEpochs(node);
  expect(first + second).toBeGreaterThan(10);
  expect(third).toBeGreaterThan(1);
  await node.restart();
  expect(await runOk("bash", SUM, { cwd: mount.path })).toBe(sums);

  const rest = await rewrite(node);
  expect(rest).toMatchObject({ status: 0, stderr: "", result: { isNewKey: false, epoch: 3, skipped: [], isComplete: true } });
  expect(rest.result.chunks).toBeGreaterThan(0);
  expect(rest.result.chunks).toBeLessThan(12);
  expect(await runOk("bash", SUM, { cwd: mount.path })).toBe(sums);
  await mount.unmount();
  await node.stop();
  expect(Object.keys(storedEpochs(node))).toEqual(["3"]);
  {
    using db = new Database(join(node.dataDir, "node.db"));
    expect(db.run("DELETE FROM keys WHERE tenant = 't' AND epoch = 2").changes).toBe(1);
  }
  await node.restart();
  const without = await TestMount.mount(node);
  expect(await runOk("bash", SUM, { cwd: without.path })).toBe(sums);
  await without.unmount();
});

/** Holds open what is to be moved; after a line on standard input, when the chunks that it knew are gone: reads, shares and writes by the same descriptors. */
const HOLDER = `
import os, sys
held = [os.open(n, os.O_RDWR) for n in ("read", "shared", "written", "deleted")]
for fd in held: os.pread(fd, 10, 0)
os.unlink("deleted")
print("held", flush=True)
sys.stdin.readline()
def whole(fd):
    parts = []
    while part := os.pread(fd, 1 << 20, sum(map(len, parts))): parts.append(part)
    return b"".join(parts)
to = os.open("copy", os.O_RDWR | os.O_CREAT)
done = 0
while count := os.copy_file_range(held[1], to, 9000000, done, done): done += count
os.pwrite(held[2], b"new", 5000000)
os.fsync(held[2])
for fd in (held[0], to, held[2], held[3]): print(__import__("hashlib").sha256(whole(fd)).hexdigest(), flush=True)
`;

test("a program that holds files open goes on when the chunks that its mount knew have moved and are deleted", async () => {
  const node = await startNode("--gc-grace", "1");
  const mount = await TestMount.mount(node, { args: ["-o", "cache_mode=bypass"] });
  const folder = tempFolder("rewrite-");
  const PREPARE = `for n in read shared written deleted; do head -c 9000000 /dev/urandom > "$1/$n"; cp "$1/$n" .; done; sync`;
  await runOk("bash", ["-e", "-c", PREPARE, "prepare", folder], { cwd: mount.path });
  const holder = new Dialog("bash", ["-c", 'cd "$1" && exec python3 -c "$2"', "holder", mount.path, HOLDER]);
  expect(await holder.line()).toBe("held");
  expect(await rewrite(node)).toMatchObject({ status: 0, result: { skipped: [], isComplete: true } });
  await Bun.sleep(4_000);
  expect(
    JSON.parse(await runOk(KISEKI, ["gc", "--data-addr", node.addr, "--credentials", await node.credentials("t"), "--json"])),
  ).toMatchObject({
    keptChunks: 0,
  });
  holder.say("go");
  await runOk("bash", ["-c", "printf new | dd of=written bs=1 seek=5000000 conv=notrunc status=none"], { cwd: folder });
  for (const name of ["read", "shared", "written", "deleted"]) {
    expect(`${name} ${await holder.line()}`).toBe(`${name} ${(await runOk("sha256sum", [join(folder, name)])).slice(0, 64)}`);
  }
  expect(await holder.end()).toBe("");
  await mount.unmount();
});

test("a rewrite that is interrupted finishes what is under way, and says how to go on", async () => {
  const node = await startNode();
  const mount = await TestMount.mount(node);
  await runOk("bash", ["-e", "-c", "for i in 1 2 3 4 5 6 7 8; do head -c 3000000 /dev/urandom > $i; done; sync"], { cwd: mount.path });
  const child = Bun.spawn([KISEKI, ...(await rotateArgs(node, "--rewrite", "--rate", "500K"))], {
    env: cleanEnvironment(),
    stdio: ["ignore", "pipe", "pipe"],
  });
  onCleanUp({ end: () => child.kill("SIGKILL"), endNow: () => child.kill("SIGKILL") });
  // The first line of progress comes after 5 s, and all would take 45.
  const line = await child.stderr.getReader().read();
  expect(Buffer.from(line.value ?? []).toString()).toMatch(/^kiseki: tenant t: pass 1: \d of 9 inodes, /);
  child.kill("SIGINT");
  const stdout = await new Response(child.stdout).text();
  expect(await child.exited).toBe(1);
  expect(stdout).toMatch(
    /^kiseki: tenant t: [^\n]* moved to the new data key, epoch 2; interrupted: the same command goes on where it was\n$/,
  );
  expect(await rewrite(node)).toMatchObject({ status: 0, result: { isComplete: true } });
  await mount.unmount();
});

test("what is damaged is named, stays as it is, and keeps nothing else from being moved", async () => {
  const node = await startNode();
  const mount = await TestMount.mount(node);
  await runOk("bash", ["-e", "-c", "echo good > good; echo bad > bad; head -c 3000000 /dev/urandom > lost; sync"], { cwd: mount.path });
  const inoOf = async (name: string) => Number(await runOk("stat", ["-c", "%i", name], { cwd: mount.path }));
  const ino = await inoOf("bad");
  const lost = await inoOf("lost");
  await mount.unmount();
  await node.stop();
  const key = Buffer.alloc(10);
  key[0] = 1;
  key.writeBigUInt64BE(BigInt(ino), 1);
  {
    using db = new Database(join(node.dataDir, "tenants", "t", "namespaces", "default", "shard.db"));
    const row = db.query<{ value: Uint8Array }, [Uint8Array]>("SELECT value FROM records WHERE key = ?").get(key);
    const value = row?.value ?? new Uint8Array();
    value[value.length - 1] = (value.at(-1) ?? 0) ^ 1;
    db.run("UPDATE records SET value = ? WHERE key = ?", [value, key]);
  }
  // The one chunk that there is.
  await runOk("find", [join(node.dataDir, "tenants", "t", "chunks"), "-type", "f", "-size", "+1M", "-delete"]);
  await node.restart();
  const args = await rotateArgs(node, "--rewrite");
  expect(await run(KISEKI, args, { timeoutMs: PATIENCE_MS })).toMatchObject({
    status: 1,
    stdout: expect.stringMatching(
      /^kiseki: tenant t: [1-9]\d* records and 0 chunks \(0 B\) moved to the new data key, epoch 2; 2 inodes skipped\n$/,
    ),
    stderr: expect.stringContaining(
      [ino, lost].map((one) => `kiseki: inode ${one} of namespace default was skipped: it is damaged, and stays as it is\n`).join(""),
    ),
  });
  const after = await TestMount.mount(node);
  expect(await runOk("cat", ["good"], { cwd: after.path })).toBe("good\n");
  expect(await run("cat", ["bad"], { cwd: after.path })).toMatchObject({ status: 1 });
  await after.unmount();
});

test("options that don't go together, and rates that can't be, are refused before anything is begun", async () => {
  const node = await startNode();
  for (const [more, said] of [
    [["--json"], "--json goes with --rewrite"],
    [["--rewrite", "--rate", "fast"], "--rate fast: expected bytes a second, 64K or more, such as 20M"],
  ] as const) {
    expect(await run(KISEKI, await rotateArgs(node, ...more))).toMatchObject({ status: 2, stderr: `kiseki: ${said}\n` });
  }
});
