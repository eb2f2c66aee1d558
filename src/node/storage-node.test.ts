import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { issueNode } from "../pki/certificates.ts";
import { NodeError } from "../protocol/errors.ts";
import type { Put } from "../protocol/messages.ts";
import { dentryKey, inodeKey, inodePrefix, orphanKey, regionKey } from "../protocol/record-keys.ts";
import type { NodeClient } from "../transport/node-client.ts";
import { makeDelta } from "./engines/test-delta.ts";
import { randomSessionId, TestNode } from "./test-node.ts";

// A session whose end was not heard of ends after a minute.
setDefaultTimeout(90_000);

const NS = "default";
const WANT = { lease: true, region0MaxBytes: 0 };
const NOTHING = { lease: false, region0MaxBytes: 0 };
const hash = (n: number) => new Uint8Array(16).fill(n);
const value = (text: string) => new TextEncoder().encode(text);
const put = (key: Uint8Array, text = "x", link = 0, chunks: Uint8Array[] = []): Put => ({ key, link, chunks, value: value(text) });
const chunkId = (n: number) => new Uint8Array(32).fill(n);
const sealed = (length: number) => new Uint8Array(length).fill(9);

let node: TestNode;
beforeEach(async () => {
  node = await TestNode.start();
});
afterEach(() => node.stop());

let lastId = 0;
const commit = async (client: NodeClient, parts: Parameters<typeof makeDelta>[1]) =>
  (await client.call("commit", { ns: NS, delta: makeDelta(++lastId, parts) })).answer;

describe("operations", () => {
  test("a new tenant has the namespace default; others come and go", async () => {
    const client = await node.client("acme");
    const names = async () => (await client.call("namespaceList", {})).answer.names;
    expect(await names()).toEqual(["default"]);
    await client.call("namespaceCreate", { name: "second" });
    expect(client.call("namespaceCreate", { name: "second" })).rejects.toMatchObject({ code: "exists" });
    await client.call("commit", { ns: "second", delta: makeDelta(1, { puts: [put(dentryKey(1, hash(1)), "entry", 5)] }) });
    expect(client.call("namespaceDelete", { name: "second", force: false })).rejects.toMatchObject({ code: "not_empty" });
    await client.call("namespaceDelete", { name: "second", force: true });
    expect(client.call("namespaceDelete", { name: "second", force: true })).rejects.toMatchObject({ code: "not_found" });
    expect(await names()).toEqual(["default"]);
    await client.call("namespaceDelete", { name: "default", force: false });
    await node.restart();
    expect(await names()).toEqual([]);
  });

  test("of many who make a namespace at once, one does; so with deleting", async () => {
    const clients = [await node.client("acme"), await node.client("acme")];
    const outcomes = async (ask: (client: NodeClient) => Promise<unknown>) =>
      (await Promise.allSettled([...clients, ...clients].map(ask))).filter(({ status }) => status === "fulfilled").length;
    for (let round = 0; round < 3; round++) {
      expect(await outcomes((client) => client.call("namespaceCreate", { name: "one" }))).toBe(1);
      expect(await outcomes((client) => client.call("namespaceDelete", { name: "one", force: true }))).toBe(1);
    }
  });

  test("a create is found by lookup, list, inode, get and range", async () => {
    const client = await node.client("acme");
    const { first, count } = (await client.call("inoGrant", { ns: NS, count: 100 })).answer;
    expect([first, count]).toEqual([2, 100]);
    const key = dentryKey(1, hash(1));
    const result = await commit(client, {
      checks: [{ kind: "absent", key }],
      puts: [put(key, "name", first), put(inodeKey(first), "attr"), put(regionKey(first, 0), "small")],
      bumps: [{ ino: 1, links: 0, entries: 1, mtimeSec: 5, mtimeNsec: 6 }],
      leases: [first],
    });
    expect(result).toMatchObject({ ok: true, leased: [first], counters: [{ entries: 1, mtimeSec: 5, mtimeNsec: 6, bumps: 1 }] });
    const found = (await client.call("lookup", { ns: NS, key, want: { lease: true, region0MaxBytes: 5 }, leaseParent: true })).answer;
    expect(found).toMatchObject({ parentLeased: true, dentry: { link: first }, inode: { ino: first, leased: true } });
    expect(found.inode?.region0?.value).toEqual(value("small"));
    const listed = (
      await client.call("list", { ns: NS, dir: 1, after: new Uint8Array(0), limit: 10, inodes: true, want: NOTHING, leaseDir: false })
    ).answer;
    expect(listed).toMatchObject({ more: false, dirLeased: false, counters: { entries: 1 }, entries: [{ inode: { leased: false } }] });
    expect((await client.call("inode", { ns: NS, ino: first, want: NOTHING })).answer.inode.attr?.value).toEqual(value("attr"));
    const range = (await client.call("range", { ns: NS, from: inodePrefix(first), to: new Uint8Array(0), limit: 10 })).answer;
    expect(range).toMatchObject({ more: false, records: { length: 3 } });
    expect((await client.call("statfs", { ns: NS })).answer).toMatchObject({ inodes: 1 });
    await client.call("sync", { ns: NS });
  });

  test("key epochs are never overwritten", async () => {
    const client = await node.client("acme");
    await client.call("keyPut", { epoch: 1, wrapped: value("one") });
    expect(client.call("keyPut", { epoch: 1, wrapped: value("other") })).rejects.toMatchObject({ code: "exists" });
    await client.call("keyPut", { epoch: 2, wrapped: value("two") });
    await node.restart();
    expect((await client.call("keyList", {})).answer.keys).toEqual([
      { epoch: 1, wrapped: value("one") },
      { epoch: 2, wrapped: value("two") },
    ]);
  });

  test("a delta may only refer to chunks that are there", async () => {
    const client = await node.client("acme");
    const delta = { puts: [put(regionKey(5, 0), "x", 0, [chunkId(1)])] };
    expect(commit(client, delta)).rejects.toMatchObject({ code: "missing_chunk" });
    expect((await client.call("chunkPut", { id: chunkId(1) }, { body: [sealed(1_000)] })).answer).toEqual({ existed: false });
    expect(await commit(client, delta)).toMatchObject({ ok: true });
    const { answer, body } = await client.call("chunkGet", { id: chunkId(1), offset: 900, length: 500 });
    expect(answer.totalBytes).toBe(1_000);
    expect(body).toEqual(sealed(100));
  });

  test("the data folder and what is in it is the node's alone", () => {
    expect(statSync(node.dataDir).mode & 0o777).toBe(0o700);
    for (const name of ["ca.key", "node.key"]) expect(statSync(join(node.dataDir, "pki", name)).mode & 0o777).toBe(0o600);
  });
});

describe("chunks that nothing refers to", () => {
  const GRACE_MS = 50;
  const commitOther = (client: NodeClient, n: number, parts: Parameters<typeof makeDelta>[1]) =>
    client.call("commit", { ns: "other", delta: makeDelta(n, parts) });
  const putChunks = async (client: NodeClient, numbers: number[]) => {
    for (const n of numbers) await client.call("chunkPut", { id: chunkId(n) }, { body: [sealed(100)] });
  };
  /** Which of chunks 1 to 6 are there. */
  const present = async (client: NodeClient) => {
    const there: number[] = [];
    for (const n of [1, 2, 3, 4, 5, 6]) {
      const isThere = await client.call("chunkGet", { id: chunkId(n), offset: 0, length: 10 }).then(
        () => true,
        (error: unknown) => !(error instanceof NodeError && error.code === "not_found"),
      );
      if (isThere) there.push(n);
    }
    return there;
  };
  /** A pass when the grace period is over. */
  const collect = async () => {
    await Bun.sleep(2 * GRACE_MS);
    return await node.node.collector.collect(GRACE_MS);
  };

  test("go after the grace period, and no others", async () => {
    const client = await node.client("acme");
    await client.call("namespaceCreate", { name: "other" });
    await putChunks(client, [1, 2, 3, 4]);
    await commit(client, { puts: [put(regionKey(5, 0), "x", 0, [chunkId(1), chunkId(2)])] });
    await commitOther(client, 1, { puts: [put(regionKey(5, 0), "x", 0, [chunkId(3), chunkId(2)])] });
    expect(await collect()).toBe(0);
    await commit(client, { deletePrefixes: [inodePrefix(5)] });
    expect(await node.node.collector.collect(60_000)).toBe(0);
    expect(await collect()).toBe(1);
    // Chunk 4 was put, and its commit may come.
    expect(await present(client)).toEqual([2, 3, 4]);
    // One that is collected is missing for deltas too.
    expect(commit(client, { puts: [put(regionKey(6, 0), "x", 0, [chunkId(1)])] })).rejects.toMatchObject({ code: "missing_chunk" });
    await client.call("chunkRelease", { ids: [chunkId(4)] });
    expect(await collect()).toBe(1);
    expect(await present(client)).toEqual([2, 3]);
  });

  test("what a session has put is held until it has committed it as often, also where another's delta came and went", async () => {
    const [a, b] = [await node.client("acme"), await node.client("acme")];
    await putChunks(a, [1, 1, 2]);
    await putChunks(b, [2]);
    await commit(a, { puts: [put(regionKey(5, 0), "x", 0, [chunkId(1), chunkId(2)])] });
    await commit(a, { deletePrefixes: [inodePrefix(5)] });
    expect(await collect()).toBe(0);
    expect(await present(a)).toEqual([1, 2]);
    // A record that is written again with the chunks that it had settles nothing.
    await commit(a, { puts: [put(regionKey(6, 0), "x", 0, [chunkId(1)])] });
    await putChunks(a, [1]);
    await commit(a, { puts: [put(regionKey(6, 0), "y", 0, [chunkId(1)])] });
    await commit(a, { deletePrefixes: [inodePrefix(6)] });
    await commit(b, { puts: [put(regionKey(7, 0), "x", 0, [chunkId(2)])] });
    expect(await collect()).toBe(0);
    await commit(a, { puts: [put(regionKey(8, 0), "x", 0, [chunkId(1)])] });
    await commit(a, { deletePrefixes: [inodePrefix(8)] });
    expect(await collect()).toBe(1);
    expect(await present(a)).toEqual([2]);
  });

  test("what a session held goes with it; of a lost one, later, or when the disk is full", async () => {
    await node.stop();
    node = await TestNode.start({ sessionTimeoutMs: 50 });
    const [says, lost, other] = [await node.client("acme"), await node.client("acme"), await node.client("acme")];
    await putChunks(says, [1]);
    await putChunks(lost, [2]);
    await says.call("bye", {});
    lost.abandon();
    const tenant = await node.node.tenant("acme");
    while (node.node.keys.sessions().length > 1) await Bun.sleep(10);
    tenant.holds.endOld(false);
    expect(await collect()).toBe(1);
    expect(await present(other)).toEqual([2]);
    tenant.holds.endOld(true);
    expect(await collect()).toBe(1);
    expect(await present(other)).toEqual([]);
  });

  test("what was put before a restart is kept for sessions that come back; a sweep finds what nobody remembers", async () => {
    const sessionId = crypto.getRandomValues(new Uint8Array(16));
    let client = await node.client("acme", { sessionId });
    await putChunks(client, [1, 2]);
    // It would come back by itself, and begin the session anew after the other has ended it.
    client.abandon();
    await node.restart();
    client = await node.client("acme", { sessionId });
    const part = (n: number) => client.call("gc", { part: n, dryRun: true }).then(({ answer }) => answer);
    await Bun.sleep(2 * GRACE_MS);
    expect(await part(2)).toMatchObject({ chunks: 1, freedChunks: 0, keptChunks: 1 });
    await commit(client, { puts: [put(regionKey(5, 0), "x", 0, [chunkId(1)])] });
    await client.close();
    while (node.node.keys.sessions().length > 0) await Bun.sleep(10);
    // With its last session gone, nobody can come back.
    await node.restart();
    client = await node.client("acme");
    await Bun.sleep(1_100);
    expect(await part(1)).toMatchObject({ chunks: 1, freedChunks: 0, keptChunks: 0 });
    expect(await part(2)).toEqual({ chunks: 1, bytes: 100, freedChunks: 1, freedBytes: 100, keptChunks: 0, keptBytes: 0 });
    expect(await present(client)).toEqual([1, 2]);
    await client.call("gc", { part: 2, dryRun: false });
    expect(await present(client)).toEqual([1]);
  });

  test("those of a namespace that was deleted go too", async () => {
    await node.stop();
    node = await TestNode.start({ gcGraceMs: GRACE_MS });
    const client = await node.client("acme");
    await client.call("namespaceCreate", { name: "other" });
    await putChunks(client, [1]);
    await commitOther(client, 1, { puts: [put(regionKey(5, 0), "x", 0, [chunkId(1)])] });
    await client.call("namespaceDelete", { name: "other", force: true });
    while ((await present(client)).length > 0) await Bun.sleep(20);
  });
});

describe("leases", () => {
  test("another session's change is answered after the holder has let go; the committer keeps its own", async () => {
    const events: string[] = [];
    const { promise: mayAcknowledge, resolve: acknowledge } = Promise.withResolvers<void>();
    const holder = await node.client("acme", {
      onRecall: async (ns, inos) => {
        events.push(`recall ${ns} ${inos.sort()}`);
        await mayAcknowledge;
        events.push("acknowledged");
      },
    });
    const writer = await node.client("acme", { onRecall: () => void events.push("wrong") });
    await commit(writer, { puts: [put(inodeKey(5)), put(dentryKey(1, hash(1)), "x", 5)] });
    for (const client of [holder, writer]) {
      const { answer } = await client.call("lookup", { ns: NS, key: dentryKey(1, hash(1)), want: WANT, leaseParent: true });
      expect(answer).toMatchObject({ parentLeased: true, inode: { leased: true } });
    }
    const change = { puts: [put(inodeKey(5), "new")], bumps: [{ ino: 1, links: 0, entries: 0, mtimeSec: 1, mtimeNsec: 0 }] };
    const done = commit(writer, change).then(() => events.push("answered"));
    await Bun.sleep(50);
    expect(events).toEqual(["recall default 1,5"]);
    acknowledge();
    await done;
    expect(events).toEqual(["recall default 1,5", "acknowledged", "answered"]);
    // Both leases of the holder are gone: nobody is asked.
    await commit(writer, change);
    expect(events.length).toBe(3);
  });

  test("a second change waits for the same acknowledgement", async () => {
    const { promise: mayAcknowledge, resolve: acknowledge } = Promise.withResolvers<void>();
    let recalls = 0;
    const holder = await node.client("acme", {
      onRecall: () => {
        recalls++;
        return mayAcknowledge;
      },
    });
    const writers = [await node.client("acme"), await node.client("acme")];
    await holder.call("inode", { ns: NS, ino: 5, want: WANT });
    let answered = 0;
    const changes = writers.map((writer) => commit(writer, { puts: [put(inodeKey(5))] }).then(() => answered++));
    await Bun.sleep(50);
    expect([recalls, answered]).toEqual([1, 0]);
    acknowledge();
    await Promise.all(changes);
  });

  test("what was released, or never leased, is not recalled", async () => {
    let recalls = 0;
    const holder = await node.client("acme", { onRecall: () => void recalls++ });
    const writer = await node.client("acme");
    await holder.call("inode", { ns: NS, ino: 5, want: WANT });
    await holder.call("inode", { ns: NS, ino: 6, want: NOTHING });
    await holder.call("leaseRelease", { ns: NS, inos: [5, 77] });
    await commit(writer, { puts: [put(inodeKey(5)), put(inodeKey(6))] });
    expect(recalls).toBe(0);
  });

  test("leases of a commit are recalled like others, and failed checks recall nobody", async () => {
    const recalled: number[] = [];
    const holder = await node.client("acme", { onRecall: (_, inos) => void recalled.push(...inos) });
    const writer = await node.client("acme");
    await commit(holder, { puts: [put(inodeKey(5))], leases: [5] });
    await commit(writer, { checks: [{ kind: "absent", key: inodeKey(5) }], puts: [put(inodeKey(5))] });
    expect(recalled).toEqual([]);
    await commit(writer, { deletePrefixes: [inodePrefix(5)] });
    expect(recalled).toEqual([5]);
  });

  test("a holder that is gone holds nobody up longer than its lease", async () => {
    const holder = await node.client("acme");
    const writer = await node.client("acme");
    await holder.call("inode", { ns: NS, ino: 5, want: WANT });
    holder.abandon();
    expect(await commit(writer, { puts: [put(inodeKey(5))] })).toMatchObject({ ok: true });
  }, 15_000);

  test("a holder that comes back has let go", async () => {
    const sessionId = randomSessionId();
    const holder = await node.client("acme", { sessionId });
    const writer = await node.client("acme");
    await holder.call("inode", { ns: NS, ino: 5, want: WANT });
    holder.abandon();
    await Bun.sleep(20);
    const change = commit(writer, { puts: [put(inodeKey(5))] });
    await node.client("acme", { sessionId });
    const start = performance.now();
    await change;
    expect(performance.now() - start).toBeLessThan(3_000);
  });
});

describe("sessions", () => {
  test("an id belongs to one tenant", async () => {
    const sessionId = randomSessionId();
    await node.client("acme", { sessionId });
    for (const role of ["meta", "data"] as const) {
      expect(node.client("other", { sessionId, role })).rejects.toMatchObject({ name: expect.stringMatching(/Error$/) });
    }
  });

  test("bye deletes the deleted-but-open inodes", async () => {
    const sessionId = randomSessionId();
    const client = await node.client("acme", { sessionId });
    const witness = await node.client("acme");
    await commit(client, { puts: [put(inodeKey(5)), put(regionKey(5, 0)), put(inodeKey(6)), put(orphanKey(sessionId, 5), "", 5)] });
    await client.close();
    const { records } = (await witness.call("get", { ns: NS, keys: [inodeKey(5), regionKey(5, 0), orphanKey(sessionId, 5), inodeKey(6)] }))
      .answer;
    expect(records.map((record) => record !== null)).toEqual([false, false, false, true]);
  });

  test("a session that stays away ends, also over a restart; one that comes back does not", async () => {
    await node.stop();
    node = await TestNode.start({ sessionTimeoutMs: 400 });
    const ids = [randomSessionId(), randomSessionId()] as const;
    for (const [index, sessionId] of ids.entries()) {
      const client = await node.client("acme", { sessionId });
      await commit(client, { puts: [put(inodeKey(10 + index)), put(orphanKey(sessionId, 10 + index), "", 10 + index)] });
      client.abandon();
    }
    await node.restart();
    const back = await node.client("acme", { sessionId: ids[1] });
    await Bun.sleep(1_500);
    const { records } = (await back.call("get", { ns: NS, keys: [inodeKey(10), inodeKey(11)] })).answer;
    expect(records.map((record) => record !== null)).toEqual([false, true]);
  });

  test("after a restart, commits wait until those who may hold leases are back", async () => {
    const states: boolean[] = [];
    const first = await node.client("acme", { onState: (state, detail) => state === "connected" && states.push(detail.resumed === true) });
    const second = await node.client("acme");
    await first.call("inode", { ns: NS, ino: 5, want: WANT });
    second.abandon();
    await node.restart();
    const start = performance.now();
    expect(await commit(first, { puts: [put(inodeKey(5))] })).toMatchObject({ ok: true });
    // The one that was abandoned does not come back: its lease has to run out.
    expect(performance.now() - start).toBeGreaterThan(2_000);
    expect(states.at(-1)).toBeTrue();
  }, 15_000);
});

test("a running node renews its certificate on its port, and connections go on", async () => {
  await node.stop();
  node = await TestNode.start({ renewalCheckMs: 50 });
  const client = await node.client("acme");
  const pki = join(node.dataDir, "pki");
  const ca = { cert: readFileSync(join(pki, "ca.crt"), "utf8"), key: readFileSync(join(pki, "ca.key"), "utf8") };
  const cluster = readFileSync(join(pki, "cluster"), "utf8").trim();
  const { address } = node;
  const { cert, key } = await issueNode(ca, cluster, "n", ["127.0.0.1"], 10);
  writeFileSync(join(pki, "node.key"), key);
  writeFileSync(join(pki, "node.crt"), cert);
  const deadline = performance.now() + 10_000;
  while (readFileSync(join(pki, "node.crt"), "utf8") === cert && performance.now() < deadline) await Bun.sleep(20);
  expect(readFileSync(join(pki, "node.crt"), "utf8")).not.toBe(cert);
  expect(node.address).toBe(address);
  expect((await client.call("namespaceList", {})).answer.names).toEqual(["default"]);
  expect((await (await node.client("acme")).call("namespaceList", {})).answer.names).toEqual(["default"]);
});
