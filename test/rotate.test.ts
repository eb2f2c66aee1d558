/** A tenant gets a new data key while it is mounted: running mounts take it up, and what was sealed before stays readable. */
import { Database } from "bun:sqlite";
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

const PATIENCE_MS = 15_000;

async function until(what: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!what()) {
    if (performance.now() > deadline) throw new Error(`waited for too long: ${what}`);
    await Bun.sleep(20);
  }
}

const interval = (node: TestNode, value: string) =>
  runOk(KISEKI, ["policy", "set", `key_health_interval_ms=${value}`, "--data-dir", node.dataDir]);

async function rotate(node: TestNode, ...more: string[]) {
  return await run(KISEKI, ["tenant", "rotate", "t", "--data-addr", node.addr, "--credentials", await node.credentials("t"), ...more]);
}

/** How many sealed records of each epoch a node that has stopped has stored. */
function storedEpochs(node: TestNode): Record<number, number> {
  const path = join(node.dataDir, "tenants", "t", "namespaces", "default", "shard.db");
  using db = new Database(path);
  const counts: Record<number, number> = {};
  // kind 1: inodes; 2: entries. The epoch follows the record's version byte.
  const rows = db.query<{ value: Uint8Array }, []>("SELECT value FROM records WHERE substr(key, 1, 1) IN (x'01', x'02')").all();
  for (const { value } of rows) {
    const epoch = new DataView(value.buffer, value.byteOffset).getUint32(1);
    counts[epoch] = (counts[epoch] ?? 0) + 1;
  }
  return counts;
}

const FILL = (name: string) => ["-c", `for i in 1 2 3; do head -c 200000 /dev/zero | tr '\\0' "${name}" > ${name}$i; done; sync`];
const SUMS = ["-c", "cat a? b? 2>&1 | sha256sum; ls | tr '\\n' ' '"];

test("a running mount takes a new data key up and seals with it; a mount that has not asked yet reads what is sealed under it", async () => {
  const node = await TestNode.start();
  await interval(node, "1h");
  const late = await TestMount.mount(node);
  await interval(node, "200");
  const mount = await TestMount.mount(node);
  await runOk("bash", FILL("a"), { cwd: mount.path });
  const rotated = await rotate(node);
  expect(rotated).toMatchObject({
    status: 0,
    stderr: "",
    stdout: expect.stringMatching(/^kiseki: tenant t has a new data key, epoch 2: [^\n]*\n$/),
  });
  await until(() => mount.log().includes("a new data key was taken up"));
  expect(late.log()).not.toContain("a new data key was taken up");
  await runOk("bash", FILL("b"), { cwd: mount.path });
  const sums = await runOk("bash", SUMS, { cwd: mount.path });
  expect(sums).toContain("a1 a2 a3 b1 b2 b3");
  expect(await runOk("bash", SUMS, { cwd: late.path })).toBe(sums);
  expect(late.log()).toContain("a new data key was taken up");
  expect(late.log()).not.toContain("damaged");
  // It writes with it, too, and others read that.
  await runOk("bash", ["-c", "echo late > c && sync c"], { cwd: late.path });
  expect(await runOk("cat", ["c"], { cwd: mount.path })).toBe("late\n");
  await late.unmount();
  await mount.unmount();
  const again = await TestMount.mount(node);
  expect(await runOk("bash", SUMS, { cwd: again.path })).toStartWith(sums.slice(0, 64));
  await again.unmount();
  await node.stop();
  // Three files and their entries of the first epoch; four of the second, and the root folder where its attributes were written again.
  const { 1: first, 2: second } = storedEpochs(node);
  expect(first).toBeGreaterThanOrEqual(9);
  expect(second).toBeGreaterThanOrEqual(11);
});

test("a mount that was away while the key was rotated goes on when it is back", async () => {
  const node = await TestNode.start();
  await interval(node, "1h");
  const away = await TestMount.mount(node);
  await runOk("bash", FILL("a"), { cwd: away.path });
  away.freeze();
  expect(await rotate(node)).toMatchObject({ status: 0 });
  expect(await rotate(node)).toMatchObject({ status: 0, stdout: expect.stringContaining("epoch 3") });
  const other = await TestMount.mount(node);
  await runOk("bash", FILL("b"), { cwd: other.path });
  const sums = await runOk("bash", SUMS, { cwd: other.path });
  away.resume();
  expect(await runOk("bash", SUMS, { cwd: away.path })).toBe(sums);
  await away.unmount();
  await other.unmount();
  await node.stop();
});

test("only who has the tenant's key-encryption key rotates, and only what there is", async () => {
  const node = await TestNode.start();
  expect(await rotate(node)).toMatchObject({ status: 1, stderr: expect.stringMatching(/^kiseki: tenant t has no data key yet[^\n]*\n$/) });
  const other = await node.credentials("other");
  const args = ["tenant", "rotate", "t", "--data-addr", node.addr, "--credentials", other];
  expect(await run(KISEKI, args)).toMatchObject({
    status: 4,
    stderr: "kiseki: these are the credentials of tenant other, not of t\n",
  });
  await node.stop();
  expect(await rotate(node)).toMatchObject({ status: 3 });
});
