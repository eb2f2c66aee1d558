import { afterEach, beforeAll, expect, test } from "bun:test";
import { makeCa, makeIdentity, type TestCa } from "../pki/test-pki.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { type OpName, PROTOCOL_VERSION } from "../protocol/messages.ts";
import type { Reply } from "./frame-server.ts";
import { NodeClient, type NodeClientOptions } from "./node-client.ts";
import { tcpTls } from "./tcp-tls.ts";
import { type Answerer, ScriptedNode } from "./test-scripted-node.ts";
import type { TlsIdentity } from "./transport.ts";

let ca: TestCa;
let nodeTls: TlsIdentity;
let tenantTls: TlsIdentity;
const cleanUps: (() => void)[] = [];

beforeAll(async () => {
  ca = await makeCa("cluster");
  nodeTls = await makeIdentity(ca, { uri: "spiffe://c/node/n1", ip: "127.0.0.1" });
  tenantTls = await makeIdentity(ca, { uri: "spiffe://c/tenant/t1" });
});
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp();
});

async function startNode(answer?: Answerer): Promise<ScriptedNode> {
  const node = new ScriptedNode(nodeTls);
  cleanUps.push(() => node.stop());
  // Hello is answered by the node itself unless a test says otherwise.
  if (answer !== undefined) node.answer = answer;
  else node.answer = (op) => (op === "hello" ? undefined : { answer: {} });
  return await node.listen();
}

function clientOf(node: ScriptedNode, options: Partial<NodeClientOptions> = {}): NodeClient {
  const client = new NodeClient({
    addrs: [node.addr],
    tls: tenantTls,
    sessionId: new Uint8Array(16),
    role: "data",
    clientVersion: "test",
    requestTimeoutMs: 5_000,
    connectTimeoutMs: 5_000,
    ...options,
  });
  cleanUps.push(() => client.abandon());
  return client;
}

async function failure(attempt: Promise<unknown>): Promise<Error> {
  return await attempt.then(
    () => new Error("it succeeded"),
    (error: Error) => error,
  );
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(1);
}

test("requests in flight are answered in any order", async () => {
  const release: (() => void)[] = [];
  const node = await startNode((op, request) => {
    if (op !== "chunkGet") return undefined;
    const { offset } = request as { offset: number };
    const { promise, resolve } = Promise.withResolvers<Reply<OpName>>();
    release.push(() => resolve({ answer: { totalBytes: 10 * offset } }));
    return promise;
  });
  const client = clientOf(node);
  expect(await client.connect()).toMatchObject({ cluster: "c", tenant: "t1" });
  const order: number[] = [];
  const calls = [1, 2, 3].map(async (offset) => {
    const { answer } = await client.call("chunkGet", { id: new Uint8Array(32), offset, length: 1 });
    order.push(answer.totalBytes / 10);
  });
  await until(() => release.length === 3);
  for (const index of [1, 2, 0]) {
    release[index]?.();
    await until(() => order.length > 0 && order.includes(index + 1));
  }
  await Promise.all(calls);
  expect(order).toEqual([2, 3, 1]);
});

test("bodies go up and down whole, answers into the given memory", async () => {
  const stored = new Map<string, Uint8Array>();
  const node = await startNode((op, request, body) => {
    const { id, offset, length } = request as { id: Uint8Array; offset: number; length: number };
    const key = String(id?.[0]);
    if (op === "chunkPut") {
      stored.set(key, body);
      return { answer: { existed: false } };
    }
    if (op !== "chunkGet") return undefined;
    const chunk = stored.get(key) ?? new Uint8Array(0);
    return { answer: { totalBytes: chunk.length }, body: [chunk.subarray(offset, offset + length)] };
  });
  const client = clientOf(node);
  await client.connect();
  const chunks = [0, 1, 2, 3, 4].map((n) => Uint8Array.from({ length: 4_000_000 + n }, (_, i) => (i * (n + 3)) >> 3));
  await Promise.all(
    chunks.map((chunk, n) =>
      client.call("chunkPut", { id: new Uint8Array(32).fill(n) }, { body: [chunk.subarray(0, 9), chunk.subarray(9)] }),
    ),
  );
  const results = await Promise.all(
    chunks.map(async (chunk, n) => {
      const bodyInto = new Uint8Array(4_100_000);
      const request = { id: new Uint8Array(32).fill(n), offset: 0, length: 4_100_000 };
      const { answer, body } = await client.call("chunkGet", request, { bodyInto });
      expect(body.buffer).toBe(bodyInto.buffer);
      return answer.totalBytes === chunk.length && Buffer.compare(body, chunk) === 0;
    }),
  );
  expect(results).toEqual([true, true, true, true, true]);
  const { body } = await client.call("chunkGet", { id: new Uint8Array(32).fill(1), offset: 5, length: 10 });
  expect(Buffer.compare(body, (chunks[1] as Uint8Array).subarray(5, 15))).toBe(0);
});

test("a refusal is a NodeError with its code; a handler's accident is io, and harms no other request", async () => {
  const node = await startNode((op) => {
    if (op === "sync") throw new NodeError("no_space", "disk full");
    if (op === "statfs") return Promise.reject(new NodeError("not_found", "no such namespace"));
    if (op === "inoGrant") throw new TypeError("a bug");
    if (op === "get") return { answer: { records: "not an array" } as never };
    return op === "ping" ? { answer: {} } : undefined;
  });
  const client = clientOf(node);
  await client.connect();
  expect(await failure(client.call("sync", { ns: "a" }))).toMatchObject({ name: "NodeError", code: "no_space", message: "disk full" });
  expect(await failure(client.call("statfs", { ns: "a" }))).toMatchObject({ code: "not_found" });
  expect(await failure(client.call("inoGrant", { ns: "a", count: 1 }))).toMatchObject({ code: "io" });
  expect(await failure(client.call("get", { ns: "a", keys: [] }))).toMatchObject({ code: "io" });
  expect(await failure(client.call("sync", { ns: "NOT A NAME" }))).toBeInstanceOf(RangeError);
  await client.call("ping", {});
  expect(node.sessions.length).toBe(1);
});

test("unanswered requests are sent again on the next connection", async () => {
  let silent = true;
  const node = await startNode((op) => (op === "hello" || silent ? undefined : { answer: { seq: 42 } }));
  node.resumed = true;
  const states: string[] = [];
  const client = clientOf(node, { onState: (state, detail) => states.push(`${state} ${detail.resumed ?? ""}`.trim()) });
  await client.connect();
  const calls = [1, 2, 3].map(() => client.call("sync", { ns: "a" }));
  await until(() => node.seen.filter(({ op }) => op === "sync").length === 3);
  silent = false;
  node.cut();
  for (const { answer } of await Promise.all(calls)) expect(answer.seq).toBe(42);
  expect(states).toEqual(["connected true", "disconnected", "connected true"]);
  expect(node.seen.map(({ op }) => op)).toEqual(["hello", "sync", "sync", "sync", "hello", "sync", "sync", "sync"]);
});

test("a node that comes back without the session is reported as not resumed", async () => {
  const node = await startNode();
  const states: (boolean | undefined)[] = [];
  const client = clientOf(node, { onState: (state, { resumed }) => state === "connected" && states.push(resumed) });
  await client.connect();
  node.stop();
  await until(() => !client.connected);
  expect(client.leaseValidUntilMs).toBe(0);
  const call = client.call("ping", {});
  await node.listen();
  await call;
  expect(states).toEqual([true, false]);
  expect(client.leaseValidUntilMs).toBeGreaterThan(performance.now());
});

test("another address is tried when one is dead", async () => {
  const dead = await startNode();
  const alive = await startNode();
  dead.stop();
  const client = clientOf(alive, { addrs: [dead.addr, alive.addr] });
  await client.connect();
  alive.cut();
  await client.call("ping", {});
  expect(alive.seen.at(-1)?.op).toBe("ping");
});

test("a request is given up at its deadline, connected or not, and at its caller's wish", async () => {
  const node = await startNode(() => undefined);
  const client = clientOf(node);
  await client.connect();
  expect(await failure(client.call("sync", { ns: "a" }, { timeoutMs: 30 }))).toMatchObject({ name: "TransportError", kind: "timeout" });
  const abort = new AbortController();
  const aborted = failure(client.call("sync", { ns: "a" }, { signal: abort.signal }));
  abort.abort();
  expect(await aborted).toMatchObject({ kind: "aborted" });
  expect(await failure(client.call("sync", { ns: "a" }, { signal: abort.signal }))).toMatchObject({ kind: "aborted" });
  node.stop();
  await until(() => !client.connected);
  expect(await failure(client.call("sync", { ns: "a" }, { timeoutMs: 30 }))).toMatchObject({ kind: "timeout" });
});

test("an answer that comes too late is dropped and its memory stays untouched", async () => {
  let release = (): void => {};
  const node = await startNode((op) => {
    if (op === "ping") return { answer: {} };
    if (op !== "chunkGet") return undefined;
    return new Promise((resolve) => {
      release = () => resolve({ answer: { totalBytes: 9 }, body: [new Uint8Array(100_000).fill(1)] });
    });
  });
  const client = clientOf(node);
  await client.connect();
  const bodyInto = new Uint8Array(100_000);
  const request = { id: new Uint8Array(32), offset: 0, length: 100_000 };
  expect(await failure(client.call("chunkGet", request, { bodyInto, timeoutMs: 30 }))).toMatchObject({ kind: "timeout" });
  release();
  await client.call("ping", {});
  await client.call("ping", {});
  expect(bodyInto.every((byte) => byte === 0)).toBe(true);
  expect(node.sessions.length).toBe(1);
});

test("an upload that is given up half way never reaches the node with other bytes", async () => {
  const bodies: Uint8Array[] = [];
  const node = await startNode((op, _request, body) => {
    if (op === "hello") return undefined;
    if (op === "chunkPut") bodies.push(body);
    return { answer: op === "chunkPut" ? { existed: false } : {} };
  });
  const client = clientOf(node);
  await client.connect();
  node.last.connection.pause();
  const chunk = new Uint8Array(4_000_000).fill(1);
  const uploads = [0, 1, 2, 3, 4].map(() =>
    failure(client.call("chunkPut", { id: new Uint8Array(32) }, { body: [chunk], timeoutMs: 100 })),
  );
  for (const error of await Promise.all(uploads)) expect(error).toMatchObject({ kind: "timeout" });
  chunk.fill(2); // it is ours again
  node.last.connection.resume();
  await client.call("ping", {});
  await client.call("ping", {});
  for (const body of bodies) expect(body.every((byte) => byte === 1)).toBe(true);
});

test("the node's recall is answered when the owner has let go", async () => {
  const node = await startNode();
  const asked: unknown[] = [];
  let letGo = (): void => {};
  const client = clientOf(node, {
    onRecall: (ns, inos) => {
      asked.push([ns, inos]);
      return new Promise<void>((resolve) => {
        letGo = resolve;
      });
    },
  });
  await client.connect();
  const answered = node.last.call("recall", { ns: "a", inos: [1, 2 ** 39] }, 5_000);
  await until(() => asked.length === 1);
  expect(asked).toEqual([["a", [1, 2 ** 39]]]);
  letGo();
  expect(await answered).toEqual({});
  expect(await failure(node.last.call("recall", { ns: "a", inos: [3] }, 30))).toMatchObject({ kind: "timeout" });
  letGo(); // late: ignored
  await client.call("ping", {});
  const unanswered = failure(node.last.call("recall", { ns: "a", inos: [3] }, 5_000));
  client.abandon();
  expect(await unanswered).toMatchObject({ kind: "closed" });
});

test("a recall that fails tells the node so", async () => {
  const node = await startNode();
  const client = clientOf(node, { onRecall: () => Promise.reject(new Error("busy")) });
  await client.connect();
  expect(await failure(node.last.call("recall", { ns: "a", inos: [1] }, 5_000))).toBeInstanceOf(NodeError);
});

test("shutting_down is retried until the node is back", async () => {
  let down = true;
  const node = await startNode((op) => {
    if (op === "hello") return undefined;
    if (down) throw new NodeError("shutting_down");
    return { answer: { seq: 1 } };
  });
  const client = clientOf(node);
  await client.connect();
  const call = client.call("sync", { ns: "a" });
  await until(() => node.sessions.length > 1);
  down = false;
  expect((await call).answer.seq).toBe(1);
});

test("a draining node answers what it has, refuses what is new, and the client asks again", async () => {
  const held: (() => void)[] = [];
  let hold = true;
  const node = await startNode((op) => {
    if (op === "hello") return undefined;
    return hold ? new Promise((resolve) => held.push(() => resolve({ answer: { seq: 1 } }))) : { answer: { seq: 2 } };
  });
  const client = clientOf(node);
  await client.connect();
  const first = client.call("sync", { ns: "a" });
  await until(() => held.length === 1);
  let drained = false;
  const draining = node.last.drain().then(() => {
    drained = true;
  });
  hold = false;
  const second = client.call("sync", { ns: "a" });
  await Bun.sleep(20);
  expect(drained).toBe(false);
  held[0]?.();
  await draining;
  expect((await first).answer.seq).toBe(1);
  expect((await second).answer.seq).toBe(2);
  expect(node.sessions.length).toBe(2);
});

test("more requests than may be in flight wait their turn, on both sides", async () => {
  let most = 0;
  const node = await startNode((op) => {
    if (op === "hello") return undefined;
    most = Math.max(most, node.last.inFlight);
    return Bun.sleep(1).then(() => ({ answer: { seq: 1 } }));
  });
  const client = clientOf(node);
  await client.connect();
  const calls = Array.from({ length: 5_000 }, () => client.call("sync", { ns: "a" }));
  expect((await Promise.all(calls)).length).toBe(5_000);
  expect(most).toBeGreaterThan(100);
  expect(most).toBeLessThanOrEqual(1_024);
});

test("role meta keeps its lease alive, and says bye", async () => {
  const node = await startNode();
  node.leaseMs = 60;
  const client = clientOf(node, { role: "meta" });
  await client.connect();
  await until(() => node.seen.filter(({ op }) => op === "ping").length >= 3);
  expect(client.connected).toBe(true);
  await client.close();
  expect(node.seen.at(-1)?.op).toBe("bye");
  expect(client.connected).toBe(false);
  expect(await failure(client.call("ping", {}))).toMatchObject({ kind: "closed" });
  await until(() => node.closedBecause.length === 1);
});

test("closing rejects what is still asked; abandoning says nothing to the node", async () => {
  const node = await startNode(() => undefined);
  const client = clientOf(node, { role: "meta" });
  await client.connect();
  const call = failure(client.call("sync", { ns: "a" }));
  client.abandon();
  expect(await call).toMatchObject({ kind: "closed" });
  await until(() => node.closedBecause.length === 1);
  expect(node.seen.map(({ op }) => op)).not.toContain("bye");
});

test("a node that falls silent is left", async () => {
  const node = await startNode(() => undefined);
  node.leaseMs = 40;
  const client = clientOf(node, { role: "meta" });
  await client.connect();
  await until(() => node.sessions.length >= 2);
});

test("the first connection says why it failed", async () => {
  const node = await startNode();
  const otherCa = await makeCa("cluster");
  const kinds = async (options: Partial<NodeClientOptions>): Promise<[string, string]> => {
    const error = await failure(clientOf(node, options).connect());
    return [error instanceof TransportError ? error.kind : error.name, error.message];
  };
  const expired = await makeIdentity(ca, { uri: "spiffe://c/tenant/t1" }, { fromDays: -10, toDays: -1 });
  const alien = await makeIdentity(otherCa, { uri: "spiffe://c/tenant/t1" }, undefined, ca);
  const wrongCa = await makeIdentity(ca, { uri: "spiffe://c/tenant/t1" }, undefined, otherCa);
  const [kind, message] = await kinds({ tls: expired });
  expect([kind, message.includes("expired on")]).toEqual(["tls", true]);
  expect((await kinds({ tls: alien }))[1]).toContain("not issued by the cluster's CA");
  const [wrongKind, wrongMessage] = await kinds({ tls: wrongCa });
  expect([wrongKind, wrongMessage.includes("the node's certificate was not issued")]).toEqual(["tls", true]);

  node.answer = () => {
    throw new NodeError("not_authorized", "no such tenant");
  };
  expect(await kinds({})).toEqual(["not_authorized", `${node.addr}: no such tenant`]);
  node.answer = () => {
    throw new NodeError("bad_request", "another protocol");
  };
  expect((await kinds({}))[0]).toBe("NodeError");
  node.answer = () => new Promise(() => {}) as never;
  expect((await kinds({ connectTimeoutMs: 50 }))[0]).toBe("timeout");
  node.stop();
  expect((await kinds({}))[0]).toBe("unreachable");
  expect(() => clientOf(node, { addrs: ["nonsense"] })).toThrow(RangeError);
});

test("a connection that breaks the protocol is closed with a reason, and harms no other", async () => {
  const node = await startNode();
  const client = clientOf(node);
  await client.connect();
  const [host, port] = node.addr.split(":") as [string, string];
  for (let i = 0; i < 20; i++) {
    const raw = await tcpTls.connect({ host, port: Number(port), tls: tenantTls, timeoutMs: 5_000 });
    const closed = new Promise((resolve) => {
      raw.onClose = resolve;
    });
    const garbage = crypto.getRandomValues(new Uint8Array(16 + i * 50));
    garbage[4] = 77; // a version that will not be
    raw.send([garbage]);
    await closed;
  }
  expect(node.warnings.length).toBe(20);
  expect(node.warnings[0]).toMatchObject({ reason: `frame: version 77, expected ${PROTOCOL_VERSION}` });
  await client.call("ping", {});
  expect(node.closedBecause.length).toBe(20);
});
