/** What a storage node is limited to: open files, strangers. It serves on within that. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(120_000);
afterAll(cleanUp);

const OPEN_FILES = 256;
const NAMESPACES = 120;

/** Connections that never say anything, from an address of this machine. */
async function strangers(node: TestNode, count: number, localAddress: string): Promise<Socket[]> {
  const [host, port] = node.addr.split(":") as [string, string];
  return await Promise.all(
    Array.from({ length: count }, async () => {
      const socket = connect({ host, port: Number(port), localAddress });
      socket.on("error", () => undefined);
      await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
      return socket;
    }),
  );
}

test("with 256 open files: more namespaces than could be open at once, strangers who say nothing, and a restart", async () => {
  const node = await TestNode.start({ openFiles: OPEN_FILES });
  const args = ["--data-addr", node.addr, "--credentials", await node.credentials("t")];
  for (let i = 0; i < NAMESPACES; i++) await runOk(KISEKI, ["namespace", "create", `n${i}`, ...args]);
  const all = await TestMount.mount(node, { namespace: "all" });
  await runOk("bash", ["-c", `for i in $(seq 0 ${NAMESPACES - 1}); do echo $i > n$i/file; done`], { cwd: all.path });
  const descriptors = () => readdirSync(`/proc/${node.pid}/fd`).length;
  expect(descriptors()).toBeLessThan(OPEN_FILES - 40);

  const silent = await strangers(node, 200, "127.0.0.7");
  expect(descriptors()).toBeLessThan(OPEN_FILES - 10);
  const other = await TestMount.mount(node, { namespace: "n5" });
  expect(await runOk("cat", ["file"], { cwd: other.path })).toBe("5\n");
  for (const socket of silent) socket.destroy();
  await other.unmount();

  await node.restart();
  expect(descriptors()).toBeLessThan(80);
  const sum = "for i in $(seq 0 $1); do cat n$i/file; done | awk '{sum += $1} END {print sum}'";
  expect(await runOk("bash", ["-c", sum, "bash", String(NAMESPACES - 1)], { cwd: all.path })).toBe(
    `${(NAMESPACES * (NAMESPACES - 1)) / 2}\n`,
  );
  await all.unmount();
  await node.stop();
});

test("with too few open files, the node says so and does not start", async () => {
  const node = await TestNode.start();
  await node.stop();
  const command = `ulimit -n 100; exec ${KISEKI} serve --data-dir ${join(node.dataDir)} --listen 127.0.0.1:0`;
  expect(await run("bash", ["-c", command])).toMatchObject({
    status: 1,
    stderr: "kiseki: this process may open 100 files (ulimit -n), and a storage node needs 128 at least\n",
  });
});
