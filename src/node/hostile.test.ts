/** What a client that does not play by the rules can reach: nothing that is another's. Over real TLS. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { issueNode, issueTenant, makeCa } from "../pki/certificates.ts";
import { issueForTenant } from "../pki/cluster.ts";
import { encodeRequestFrame } from "../protocol/codec.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { type Frame, FrameDecoder } from "../protocol/frame.ts";
import { Op, type OpName, PROTOCOL_VERSION, type RequestOf } from "../protocol/messages.ts";
import { dentryKey, inodeKey, inodePrefix, orphanKey, regionKey } from "../protocol/record-keys.ts";
import type { ClientOpName } from "../transport/frame-server.ts";
import type { ClientRequestOp, NodeClient } from "../transport/node-client.ts";
import { tcpTls } from "../transport/tcp-tls.ts";
import type { Connection, TlsIdentity } from "../transport/transport.ts";
import { makeDelta } from "./engines/test-delta.ts";
import { randomSessionId, TestNode } from "./test-node.ts";

const WANT = { lease: true, region0MaxBytes: 1_000 };
const SECRET = new TextEncoder().encode("the victim's sealed bytes");
const CHUNK = new Uint8Array(32).fill(0xcc);
const CHUNK_BODY = new Uint8Array(5_000).fill(0xdd);
const HASH = new Uint8Array(16).fill(1);
const KEY = dentryKey(1, HASH);

let node: TestNode;
let victim: NodeClient;
let victimSession: Uint8Array;
let recalls: number;

beforeEach(async () => {
  node = await TestNode.start();
  recalls = 0;
  victimSession = randomSessionId();
  victim = await node.client("victim", { sessionId: victimSession, onRecall: () => void recalls++ });
  await victim.call("namespaceCreate", { name: "private" });
  await victim.call("chunkPut", { id: CHUNK }, { body: [CHUNK_BODY] });
  await victim.call("keyPut", { epoch: 1, wrapped: SECRET });
  for (const ns of ["default", "private"]) {
    const puts = [
      { key: KEY, link: 5, chunks: [], value: SECRET },
      { key: inodeKey(5), link: 0, chunks: [], value: SECRET },
      { key: regionKey(5, 0), link: 0, chunks: [CHUNK], value: SECRET },
      { key: inodeKey(6), link: 0, chunks: [], value: SECRET },
      { key: orphanKey(victimSession, 6), link: 6, chunks: [], value: SECRET },
    ];
    await victim.call("commit", { ns, delta: makeDelta(1, { puts, leases: [5, 6] }) });
  }
});
afterEach(() => node.stop());

/** Every record, key and chunk of the victim is as it was, and nobody was made to let go of a lease. */
async function expectUnharmed(): Promise<void> {
  for (const ns of ["default", "private"]) {
    const { records } = (await victim.call("range", { ns, from: new Uint8Array(0), to: new Uint8Array(0), limit: 100 })).answer;
    expect(records.map(({ record }) => Buffer.compare(record.value, SECRET))).toEqual([0, 0, 0, 0, 0]);
  }
  expect((await victim.call("namespaceList", {})).answer.names).toEqual(["default", "private"]);
  expect((await victim.call("keyList", {})).answer.keys).toEqual([{ epoch: 1, wrapped: SECRET }]);
  const { body } = await victim.call("chunkGet", { id: CHUNK, offset: 0, length: 10_000 });
  expect(Buffer.compare(body, CHUNK_BODY)).toBe(0);
  expect(recalls).toBe(0);
}

/** One request of every operation, aimed at the victim. */
function attacks(ns: string): { [O in ClientRequestOp]: RequestOf<O> } {
  const keys = [KEY, inodeKey(5), regionKey(5, 0), orphanKey(victimSession, 6)];
  return {
    ping: {},
    keyList: {},
    keyPut: { epoch: 1, wrapped: new Uint8Array([6, 6, 6]) },
    keyShred: {},
    namespaceList: {},
    namespaceCreate: { name: "private" },
    namespaceDelete: { name: ns, force: true },
    namespaceState: { ns },
    statfs: { ns },
    tenantLimit: { bytes: null, inodes: 1, namespaces: undefined },
    policyGet: { namespaces: [ns], workload: "" },
    gc: { part: CHUNK[0] ?? 0, dryRun: false },
    inoGrant: { ns, count: 10 },
    get: { ns, keys },
    inode: { ns, ino: 5, want: WANT },
    lookup: { ns, key: KEY, want: WANT, leaseParent: true },
    list: { ns, dir: 1, after: new Uint8Array(0), limit: 100, inodes: true, want: WANT, leaseDir: true },
    range: { ns, from: new Uint8Array(0), to: new Uint8Array(0), limit: 100 },
    commit: {
      ns,
      delta: makeDelta(1, {
        puts: [{ key: KEY, link: 1, chunks: [], value: new Uint8Array(3) }],
        deletePrefixes: [inodePrefix(5)],
        leases: [5],
      }),
    },
    sync: { ns },
    leaseRelease: { ns, inos: [1, 5, 6] },
    credit: { bytes: 1_000, needed: 1_000 },
    chunkPut: { id: CHUNK },
    chunkRelease: { ids: [CHUNK] },
    chunkGet: { id: CHUNK, offset: 0, length: 100 },
    discover: {},
    rdmaOpen: {
      provider: "net",
      domain: "",
      name: new Uint8Array(16),
      base: new Uint8Array(8),
      key: new Uint8Array(8),
      bytes: 4_096,
      macKey: new Uint8Array(32),
    },
    rdmaProbe: { at: 0, bytes: 100, counter: 1, mac: new Uint8Array(16) },
    rdmaPut: { id: CHUNK, body: { at: 0, bytes: 100, counter: 2, mac: new Uint8Array(16) } },
    rdmaGet: { id: CHUNK, offset: 0, length: 100, at: 0 },
    bye: {},
  };
}

const ATTACK_BODY = new Uint8Array(100).fill(0x66);

async function attack(client: NodeClient, ns: string, op: ClientRequestOp): Promise<{ answer: unknown; body: Uint8Array } | NodeError> {
  try {
    return await client.call(op, attacks(ns)[op], op === "chunkPut" ? { body: [ATTACK_BODY] } : {});
  } catch (error) {
    if (error instanceof NodeError) return error;
    throw error;
  }
}

const NAMESPACE_OPS = ["namespaceDelete", "statfs", "inoGrant", "get", "inode", "lookup", "list", "range", "commit", "sync"] as const;

describe("another tenant", () => {
  test.each(["private", "never-made", "victim"])("finds no namespace %s that is not its own", async (ns) => {
    const evil = await node.client("evil");
    for (const op of [...NAMESPACE_OPS, "leaseRelease"] as const) expect(await attack(evil, ns, op)).toMatchObject({ code: "not_found" });
    await expectUnharmed();
  });

  test("sees its own namespace of the same name, which is empty, and changes nothing but that", async () => {
    const evil = await node.client("evil");
    expect(await attack(evil, "default", "get")).toMatchObject({ answer: { records: [null, null, null, null] } });
    expect(await attack(evil, "default", "inode")).toMatchObject({ answer: { inode: { attr: null, region0: null, counters: null } } });
    expect(await attack(evil, "default", "lookup")).toMatchObject({ answer: { dentry: null, inode: null } });
    expect(await attack(evil, "default", "list")).toMatchObject({ answer: { entries: [], counters: { entries: 0, bumps: 0 } } });
    expect(await attack(evil, "default", "range")).toMatchObject({ answer: { records: [] } });
    expect(await attack(evil, "default", "statfs")).toMatchObject({ answer: { inodes: 0 } });
    expect(await attack(evil, "default", "keyList")).toMatchObject({ answer: { keys: [] } });
    expect(await attack(evil, "default", "namespaceList")).toMatchObject({ answer: { names: ["default"] } });
    for (const op of ["keyPut", "namespaceCreate", "inoGrant", "commit", "sync", "leaseRelease", "ping"] as const) {
      expect(await attack(evil, "default", op)).toHaveProperty("answer");
    }
    expect(await attack(evil, "default", "namespaceDelete")).toHaveProperty("answer");
    // Its own keys, and with them itself.
    expect(await attack(evil, "default", "keyShred")).toMatchObject({ answer: { keys: 1 } });
    expect(await attack(evil, "default", "bye")).toMatchObject({ code: "key_revoked" });
    await expectUnharmed();
  });

  test("can't read, replace, or refer to a chunk whose id it knows", async () => {
    const evil = await node.client("evil");
    expect(await attack(evil, "default", "chunkGet")).toMatchObject({ code: "not_found" });
    const puts = [{ key: regionKey(5, 0), link: 0, chunks: [CHUNK], value: new Uint8Array(1) }];
    expect(evil.call("commit", { ns: "default", delta: makeDelta(1, { puts }) })).rejects.toMatchObject({ code: "missing_chunk" });
    // "existed" would tell that the victim has this content.
    expect(await attack(evil, "default", "chunkPut")).toMatchObject({ answer: { existed: false } });
    expect(await attack(evil, "default", "chunkGet")).toMatchObject({ answer: { totalBytes: ATTACK_BODY.length } });
    await expectUnharmed();
  });

  test("can't take over a session whose id it knows, as meta or as data connection", async () => {
    for (const role of ["meta", "data"] as const) {
      const raw = await RawClient.connect(node, await node.identity("evil"));
      const hello = {
        protocol: PROTOCOL_VERSION,
        sessionId: victimSession,
        clientVersion: "evil",
        role,
        lastStart: new Uint8Array(0),
        namespaces: ["default", "private"],
      };
      expect(await raw.ask("hello", hello)).toMatchObject({ error: true, code: "not_authorized" });
      expect(await raw.ask("bye", {})).toMatchObject({ error: true, code: "session_lost" });
      raw.close();
    }
    await expectUnharmed();
  });

  test("can't leave its folder by a name", async () => {
    const identity = await node.identity("evil");
    for (const bad of ["../victim/xx", "AAAAAAAAAAAA", "/etc/passwd\0", "............"]) {
      const raw = await RawClient.connect(node, identity);
      await raw.hello();
      const frame = Buffer.concat(encodeRequestFrame("namespaceCreate", 7, { name: "xx-victim-xx" }));
      const at = frame.indexOf("xx-victim-xx");
      expect(at).toBeGreaterThan(0);
      frame.write(bad, at, "latin1");
      raw.connection.send([frame]);
      expect(await raw.closed).toContain("");
    }
    await expectUnharmed();
  });
});

describe("limits", () => {
  test("a tenant sees its own, and changes none; who holds the CA changes the one tenant's that the certificate names", async () => {
    const evil = await node.client("evil");
    const look = { bytes: undefined, inodes: undefined, namespaces: undefined };
    const before = (await evil.call("tenantLimit", look)).answer;
    expect(before).toMatchObject({ limits: { bytes: null, inodes: null, namespaces: null } });
    for (const change of [{ bytes: null }, { inodes: 10 ** 9 }, { namespaces: 0 }]) {
      expect(await evil.call("tenantLimit", { ...look, ...change }).catch((error) => error)).toMatchObject({ code: "not_authorized" });
    }
    const operator = await node.client("evil", { tls: await issueForTenant(join(node.dataDir, "pki"), "evil") });
    await operator.call("tenantLimit", { ...look, inodes: 1000 });
    expect((await evil.call("tenantLimit", look)).answer.limits).toEqual({ bytes: null, inodes: 1000, namespaces: null });
    const victim = await node.client("victim");
    expect((await victim.call("tenantLimit", look)).answer.limits).toEqual({ bytes: null, inodes: null, namespaces: null });
    expect(await attack(operator, "private", "get")).toMatchObject({ code: "not_found" });
    await operator.call("tenantLimit", { ...look, inodes: null });
    await expectUnharmed();
  });
});

describe("a certificate that names no tenant of this cluster", () => {
  test.each(["another cluster's tenant", "a node", "no tenant name"])("%s: every operation is refused", async (kind) => {
    const pki = join(node.dataDir, "pki");
    const ca = { cert: readFileSync(join(pki, "ca.crt"), "utf8"), key: readFileSync(join(pki, "ca.key"), "utf8") };
    const issued =
      kind === "a node"
        ? await issueNode(ca, node.node.cluster, "tenant/victim", ["localhost"], 1)
        : kind === "no tenant name"
          ? await issueTenant(ca, node.node.cluster, "victim/..", 1)
          : await issueTenant(ca, "elsewhere", "victim", 1);
    const raw = await RawClient.connect(node, { ca: ca.cert, ...issued });
    const hello = {
      protocol: PROTOCOL_VERSION,
      sessionId: victimSession,
      clientVersion: "evil",
      role: "meta" as const,
      lastStart: new Uint8Array(0),
      namespaces: [],
    };
    expect(await raw.ask("hello", hello)).toMatchObject({ error: true, code: "not_authorized" });
    for (const [op, request] of Object.entries(attacks("private")) as [ClientRequestOp, RequestOf<ClientRequestOp>][]) {
      expect(await raw.ask(op, request, op === "chunkPut" ? [ATTACK_BODY] : undefined)).toMatchObject({
        error: true,
        code: "not_authorized",
      });
    }
    raw.close();
    await expectUnharmed();
  });

  test("another CA's certificate for the same tenant gets no connection", async () => {
    const ca = await makeCa(node.node.cluster);
    const forged = await issueTenant(ca, node.node.cluster, "victim", 1);
    const { ca: realCa } = await node.identity("victim");
    const client = RawClient.connect(node, { ca: realCa, ...forged }).then(async (raw) => {
      // TLS 1.3: the client's end is done before the server has judged it.
      await Promise.race([raw.ask("ping", {}), raw.closed.then((reason) => Promise.reject(new TransportError("tls", reason)))]);
    });
    expect(client).rejects.toBeInstanceOf(TransportError);
    await client.catch(() => {});
    await expectUnharmed();
  });

  test("no certificate: no connection, and not a byte of an answer", async () => {
    const received: number[] = [];
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    await Bun.connect({
      hostname: "127.0.0.1",
      port: node.node.port,
      tls: { rejectUnauthorized: false },
      socket: {
        handshake(socket) {
          for (const part of encodeRequestFrame("namespaceList", 1, {})) socket.write(part);
        },
        data(_socket, bytes) {
          received.push(bytes.length);
        },
        close: () => resolve(),
        error: () => resolve(),
        connectError: () => resolve(),
      },
    });
    await ended;
    expect(received).toEqual([]);
    await expectUnharmed();
  });
});

test("before hello, every operation is refused", async () => {
  const raw = await RawClient.connect(node, await node.identity("victim"));
  for (const [op, request] of Object.entries(attacks("private")) as [ClientRequestOp, RequestOf<ClientRequestOp>][]) {
    expect(await raw.ask(op, request, op === "chunkPut" ? [ATTACK_BODY] : undefined)).toMatchObject({ error: true, code: "session_lost" });
  }
  raw.close();
  await expectUnharmed();
});

test("random and truncated frames on the live port end their own connections only, and leave nothing behind", async () => {
  const identity = await node.identity("evil");
  const random = (length: number) => crypto.getRandomValues(new Uint8Array(length));
  const pick = (below: number) => Math.floor(Math.random() * below);
  const valid = (Object.entries(attacks("default")) as [ClientRequestOp, RequestOf<ClientRequestOp>][])
    .filter(([op]) => op !== "bye" && op !== "namespaceDelete" && op !== "keyShred")
    .map(([op, request]) => Buffer.concat(encodeRequestFrame(op, pick(1_000) + 1, request, op === "chunkPut" ? [ATTACK_BODY] : undefined)));
  const mutate = (frame: Buffer): Uint8Array => {
    const copy = Buffer.from(frame);
    switch (pick(4)) {
      case 0:
        return copy.subarray(0, pick(copy.length));
      case 1:
        for (let i = 0; i < 3; i++) copy[pick(copy.length)] = pick(256);
        return copy;
      case 2:
        // A length that is not what follows.
        copy.writeUInt32BE(pick(2 ** 32), pick(2) * 12);
        return copy;
      default:
        return Buffer.concat([copy.subarray(0, 16), random(pick(5_000))]);
    }
  };
  const round = async () => {
    const raw = await RawClient.connect(node, identity);
    await raw.hello();
    for (let i = 0; i < 20 && !raw.connection.closed; i++) {
      const frame = valid[pick(valid.length)] as Buffer;
      raw.connection.send([pick(3) === 0 ? random(pick(2_000) + 1) : mutate(frame)]);
      if (pick(4) === 0) await Bun.sleep(0);
    }
    await Bun.sleep(pick(5));
    raw.close();
  };
  const rounds = async (count: number) => {
    for (let i = 0; i < count; i++) await Promise.all([round(), round(), round(), round()]);
  };
  await rounds(5);
  Bun.gc(true);
  const rssBefore = process.memoryUsage.rss();
  await rounds(40);
  Bun.gc(true);
  expect(process.memoryUsage.rss() - rssBefore).toBeLessThan(96 * 1024 * 1024);
  for (let i = 0; i < 100 && node.node.connectionCount > 1; i++) await Bun.sleep(20);
  expect(node.node.connectionCount).toBe(1);
  await expectUnharmed();
}, 60_000);

interface RawAnswer {
  error: boolean;
  /** The error's code, for errors. */
  code: string;
}

/** Sends whatever it is told to. */
class RawClient {
  readonly connection: Connection;
  readonly closed: Promise<string>;
  readonly #waiting = new Map<number, (answer: RawAnswer) => void>();
  #lastId = 0;

  constructor(connection: Connection) {
    this.connection = connection;
    const decoder = new FrameDecoder({ side: "client", onFrame: (frame) => this.#received(frame) });
    connection.onData = (bytes) => decoder.push(bytes);
    this.closed = new Promise((resolve) => {
      connection.onClose = resolve;
    });
  }

  static async connect(target: TestNode, tls: TlsIdentity): Promise<RawClient> {
    return new RawClient(await tcpTls.connect({ host: "127.0.0.1", port: target.node.port, tls, timeoutMs: 5_000 }));
  }

  #received(frame: Frame): void {
    // Codes are plain ASCII in the message; the codec's own decoder is not what is tested here.
    const code = frame.error ? (/[a-z_]{2,}/.exec(Buffer.from(frame.header).toString("latin1"))?.[0] ?? "") : "";
    this.#waiting.get(frame.requestId)?.({ error: frame.error, code });
  }

  ask<O extends ClientOpName>(op: O, request: RequestOf<O>, body?: Uint8Array[]): Promise<RawAnswer> {
    const id = ++this.#lastId;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.connection.send(encodeRequestFrame(op, id, request, body));
    });
  }

  async hello(): Promise<void> {
    const sessionId = randomSessionId();
    const answer = await this.ask("hello", {
      protocol: PROTOCOL_VERSION,
      sessionId,
      clientVersion: "raw",
      role: "data",
      lastStart: new Uint8Array(0),
      namespaces: [],
    });
    expect(answer.error).toBeFalse();
  }

  close(): void {
    this.connection.close("done");
  }
}

test("the attacks above cover every operation of the protocol", () => {
  const all = Object.keys(Op).filter((op) => op !== "recall" && op !== "hello") as OpName[];
  expect(Object.keys(attacks("x")).sort()).toEqual(all.sort());
});
