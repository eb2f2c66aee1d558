/** One tenant does its worst, and another one's work goes on, with the right results. How fast is a benchmark's business: scripts/bench-isolation.ts. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { readCredentialsFile } from "../src/crypto/credentials.ts";
import { makeDelta } from "../src/node/engines/test-delta.ts";
import { encodeRequestFrame } from "../src/protocol/codec.ts";
import { PROTOCOL_VERSION } from "../src/protocol/messages.ts";
import { inodeKey, inodePrefix, regionKey } from "../src/protocol/record-keys.ts";
import { NodeClient } from "../src/transport/node-client.ts";
import { tcpTls } from "../src/transport/tcp-tls.ts";
import { cleanUp, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(120_000);
afterAll(cleanUp);

const NS = "default";
const MIB = 1024 * 1024;
let lastDelta = 0;

async function attackers(node: TestNode, count: number): Promise<NodeClient[]> {
  const { ca, cert, key } = await readCredentialsFile(await node.credentials("attacker"), async () => "");
  return await Promise.all(
    Array.from({ length: count }, async () => {
      const sessionId = crypto.getRandomValues(new Uint8Array(16));
      const options = { role: "meta", clientVersion: "test", requestTimeoutMs: 60_000, connectTimeoutMs: 10_000 } as const;
      const client = new NodeClient({ addrs: [node.addr], tls: { ca, cert, key }, sessionId, ...options });
      await client.connect();
      return client;
    }),
  );
}

const commit = (client: NodeClient, parts: Parameters<typeof makeDelta>[1]) =>
  client.call("commit", { ns: NS, delta: makeDelta(++lastDelta, parts) });
const record = (ino: number, bytes: number) => ({ key: inodeKey(ino), link: 0, chunks: [], value: new Uint8Array(bytes).fill(7) });

/** Files made, synced, read back from the node and removed, by a mount with other tenants' floods around it. */
async function work(mount: TestMount, rounds: number): Promise<void> {
  const script =
    "for i in $(seq 1 $1); do head -c 100000 /dev/urandom > f$i; sync f$i; sha256sum f$i; done > sums; sha256sum --quiet -c sums; rm f*";
  await runOk("bash", ["-c", script, "bash", String(rounds)], { cwd: mount.path });
}

test("floods of reads, deltas, chunks and namespaces: another tenant's mount works as ever", async () => {
  const node = await TestNode.start();
  const mount = await TestMount.mount(node, { args: ["--cache-mode", "bypass"] });
  const clients = await attackers(node, 6);
  const [first] = clients as [NodeClient];
  await commit(first, { puts: [record(99, MIB)] });
  let stop = false;
  let answered = 0;
  const flood = (call: (client: NodeClient) => Promise<unknown>) =>
    clients.flatMap((client) =>
      Array.from({ length: 16 }, async () => {
        while (!stop) {
          await call(client).catch(() => Bun.sleep(1));
          answered++;
        }
      }),
    );
  let n = 0;
  const kinds: ((client: NodeClient) => Promise<unknown>)[] = [
    (client) => client.call("get", { ns: NS, keys: [99, 99, 99].map(inodeKey) }),
    (client) => commit(client, { puts: Array.from({ length: 1_000 }, (_, i) => record(1_000 + i, 100)), durable: n++ % 2 === 0 }),
    (client) => client.call("chunkPut", { id: crypto.getRandomValues(new Uint8Array(32)) }, { body: [new Uint8Array(MIB)] }),
    (client) => client.call("namespaceCreate", { name: `n${n++ % 300}` }),
  ];
  for (const kind of kinds) {
    stop = false;
    const flooding = flood(kind);
    await work(mount, 10);
    stop = true;
    await Promise.all(flooding);
  }
  expect(answered).toBeGreaterThan(100);
  for (const client of clients) await client.close();
  await mount.unmount();
  await node.stop();
});

test("a delete of two million references is answered at once, and another tenant is served while it is carried out", async () => {
  const node = await TestNode.start();
  const mount = await TestMount.mount(node, { args: ["--cache-mode", "bypass"] });
  const [client] = (await attackers(node, 1)) as [NodeClient];
  const REFS = 2_048;
  const chunks = Array.from({ length: REFS }, (_, i) => {
    const id = new Uint8Array(32).fill(3);
    new DataView(id.buffer).setUint32(0, i);
    return id;
  });
  for (const id of chunks) await client.call("chunkPut", { id }, { body: [new Uint8Array(64)] });
  for (let region = 0; region < 1_000; region++) {
    await commit(client, { puts: [{ key: regionKey(5, region), link: 0, chunks, value: new Uint8Array(1) }] });
  }
  await commit(client, { deletePrefixes: [inodePrefix(5)] });
  const left = async () => {
    let kept = 0;
    for (let part = 0; part < 256; part++) kept += (await client.call("gc", { part, dryRun: true })).answer.chunks;
    return kept;
  };
  await work(mount, 3);
  // All this time the references were counted down, and the chunks are there until that is done.
  expect(await left()).toBe(REFS);
  expect((await client.call("get", { ns: NS, keys: [regionKey(5, 0)] })).answer.records).toEqual([null]);
  const deadline = performance.now() + 90_000;
  while ((await left()) > 0 && performance.now() < deadline) {
    for (let part = 0; part < 256; part++) await client.call("gc", { part, dryRun: false });
    await client.call("statfs", { ns: NS });
    await Bun.sleep(200);
  }
  expect(await left()).toBe(0);
  await client.close();
  await mount.unmount();
  await node.stop();
});

test("requests that are never sent whole take no more memory than one tenant may have", async () => {
  const node = await TestNode.start();
  const mount = await TestMount.mount(node);
  const { ca, cert, key } = await readCredentialsFile(await node.credentials("attacker"), async () => "");
  const residentMib = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${node.pid}/status`, "utf8"))?.[1]) / 1024;
  const before = residentMib();
  const hello = { protocol: PROTOCOL_VERSION, clientVersion: "test", role: "meta" as const, lastStart: new Uint8Array(0), namespaces: [] };
  const big = encodeRequestFrame("chunkPut", 2, { id: new Uint8Array(32).fill(7) }, [new Uint8Array(4 * MIB)]);
  const bytes = Buffer.concat(big);
  const connections = await Promise.all(
    Array.from({ length: 150 }, async () => {
      const [host = "", port] = node.addr.split(":");
      const connection = await tcpTls.connect({ host, port: Number(port), tls: { ca, cert, key }, timeoutMs: 20_000 });
      const greeted = new Promise<void>((resolve, reject) => {
        connection.onData = () => resolve();
        connection.onClose = (reason) => reject(new Error(reason));
      });
      connection.send(encodeRequestFrame("hello", 1, { ...hello, sessionId: crypto.getRandomValues(new Uint8Array(16)) }));
      await greeted;
      expect(connection.closed).toBeFalse();
      // All but the last byte.
      connection.send([bytes.subarray(0, -1)]);
      return connection;
    }),
  );
  await Bun.sleep(3_000);
  expect(residentMib() - before).toBeLessThan(450);
  await work(mount, 3);
  for (const connection of connections) connection.destroy("done");
  const [client] = (await attackers(node, 1)) as [NodeClient];
  // The tenant has its memory again.
  expect(await commit(client, { puts: [record(9, MIB)] })).toMatchObject({ answer: { ok: true } });
  await client.close();
  await mount.unmount();
  await node.stop();
});
