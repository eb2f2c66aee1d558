/**
 * A storage node that lies: a real protocol server, with a certificate of the real node's cluster, in front of a real node. It passes requests on
 * and rewrites the answers. Leases are never granted, so that a mount asks for everything again.
 */
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { ensureCluster } from "../../src/pki/cluster.ts";
import { NodeError } from "../../src/protocol/errors.ts";
import type { AnswerOf, InodeBundle, OpName, RequestOf, StoredRecord } from "../../src/protocol/messages.ts";
import { inodeKey, inodeOfKey, regionKey } from "../../src/protocol/record-keys.ts";
import { type ClientOpName, type FrameSession, serveFrames } from "../../src/transport/frame-server.ts";
import { NodeClient } from "../../src/transport/node-client.ts";
import type { ClientRequestOp } from "../../src/transport/node-client-options.ts";
import { tcpTls } from "../../src/transport/tcp-tls.ts";
import type { Listener } from "../../src/transport/transport.ts";
import { onCleanUp } from "./resources.ts";
import type { TestNode } from "./test-node.ts";

const TIMEOUT_MS = 20_000;

export interface Answer<O extends OpName = OpName> {
  answer: AnswerOf<O>;
  body: Uint8Array;
}

/** What becomes of an answer; undefined: it is passed on as it is. */
export type Lie = (op: ClientRequestOp, request: RequestOf<OpName>, told: Answer, memory: Memory) => Answer | undefined;

/** Everything that the node has answered so far, by record key: what a node, or who holds its disk, can answer with. */
export class Memory {
  readonly #records = new Map<string, { key: Uint8Array; record: StoredRecord }[]>();
  readonly #bundles = new Map<number, InodeBundle[]>();
  readonly chunks = new Map<string, Uint8Array>();
  readonly entries: AnswerOf<"list">["entries"] = [];

  record(key: Uint8Array, record: StoredRecord | null): void {
    if (record === null) return;
    const name = Buffer.from(key).toString("hex");
    const known = this.#records.get(name) ?? [];
    if (!known.some(({ record: { version } }) => version === record.version)) known.push({ key, record });
    this.#records.set(name, known);
  }

  bundle(bundle: InodeBundle | null): void {
    if (bundle === null || bundle.attr === null) return;
    const known = this.#bundles.get(bundle.ino) ?? [];
    known.push(bundle);
    this.#bundles.set(bundle.ino, known);
    this.record(inodeKey(bundle.ino), bundle.attr);
    this.record(regionKey(bundle.ino, 0), bundle.region0);
  }

  /** Bundles of other inodes. */
  others(ino: number): InodeBundle[] {
    return [...this.#bundles.values()].flat().filter((bundle) => bundle.ino !== ino);
  }

  /** Records of the same kind under other keys. */
  alike(key: Uint8Array): { key: Uint8Array; record: StoredRecord }[] {
    const isAlike = (other: Uint8Array): boolean => other[0] === key[0] && other.length === key.length && other[9] === key[9];
    return [...this.#records.values()].flat().filter((one) => isAlike(one.key) && Buffer.compare(one.key, key) !== 0);
  }

  /** The same record as it was before. */
  older(key: Uint8Array, record: StoredRecord | null): StoredRecord | null {
    const known = this.#records.get(Buffer.from(key).toString("hex")) ?? [];
    return known.find((one) => one.record.version < (record?.version ?? 0))?.record ?? null;
  }

  /** Records of one inode and kind that are not `key`'s. */
  siblings(key: Uint8Array): { key: Uint8Array; record: StoredRecord }[] {
    return this.alike(key).filter((one) => inodeOfKey(one.key) === inodeOfKey(key));
  }
}

export class LyingNode {
  lie: Lie | null = null;
  readonly memory = new Memory();
  /** Answers that were rewritten. */
  lies = 0;
  readonly #node: TestNode;
  readonly #sessions = new Set<FrameSession>();
  #listener: Listener | null = null;

  private constructor(node: TestNode) {
    this.#node = node;
  }

  static async start(node: TestNode, tenant = "t"): Promise<LyingNode> {
    const lying = new LyingNode(node);
    const credentials = JSON.parse(readFileSync(await node.credentials(tenant), "utf8")) as { ca: string; cert: string; key: string };
    const { tls } = await ensureCluster(join(node.dataDir, "pki"), hostname());
    lying.#listener = await tcpTls.listen({ host: "127.0.0.1", port: 0, tls }, (connection) => {
      let client: NodeClient | null = null;
      const session: FrameSession = serveFrames(connection, {
        handle: async (op: ClientOpName, request: RequestOf<OpName>, body: Uint8Array) => {
          if (op === "hello") {
            const { sessionId, role } = request as RequestOf<"hello">;
            client = new NodeClient({
              addrs: [node.addr],
              tls: credentials,
              sessionId: sessionId.slice(),
              role,
              clientVersion: "lying node",
              requestTimeoutMs: TIMEOUT_MS,
              connectTimeoutMs: TIMEOUT_MS,
            });
            return { answer: (await client.connect()) as never };
          }
          if (client === null) throw new NodeError("session_lost");
          const kept = body.slice();
          const told = (await client.call(op, request as never, kept.length > 0 ? { body: [kept] } : {})) as Answer;
          const { answer, body: out } = lying.#answer(op, request, told);
          return { answer: answer as never, ...(op === "chunkGet" ? { body: [out] } : {}) };
        },
        onClose: () => {
          lying.#sessions.delete(session);
          client?.abandon();
        },
      } as Parameters<typeof serveFrames>[1]);
      lying.#sessions.add(session);
    });
    onCleanUp({ end: async () => lying.stop(), endNow: () => {} });
    return lying;
  }

  get addr(): string {
    return `127.0.0.1:${this.#listener?.port}`;
  }

  credentials(tenant: string): Promise<string> {
    return this.#node.credentials(tenant);
  }

  stop(): void {
    this.#listener?.close();
    for (const session of this.#sessions) session.connection.destroy("stopped");
  }

  #answer(op: ClientRequestOp, request: RequestOf<OpName>, told: Answer): Answer {
    const plain = { ...told, answer: withoutLeases(op, structuredClone(told.answer)) };
    const lied = this.lie?.(op, request, { answer: structuredClone(plain.answer), body: plain.body }, this.memory);
    this.#remember(op, request, plain);
    if (lied === undefined) return plain;
    this.lies++;
    return lied;
  }

  #remember(op: ClientRequestOp, request: RequestOf<OpName>, { answer, body }: Answer): void {
    const { memory } = this;
    if (op === "inode") memory.bundle((answer as AnswerOf<"inode">).inode);
    if (op === "lookup") {
      const { dentry, inode } = answer as AnswerOf<"lookup">;
      memory.record((request as RequestOf<"lookup">).key, dentry);
      memory.bundle(inode);
    }
    if (op === "list") {
      for (const entry of (answer as AnswerOf<"list">).entries) {
        memory.bundle(entry.inode);
        memory.entries.push(entry);
      }
    }
    if (op === "get") {
      const { keys } = request as RequestOf<"get">;
      for (const [i, record] of (answer as AnswerOf<"get">).records.entries()) memory.record(keys[i] as Uint8Array, record);
    }
    if (op === "range") for (const { key, record } of (answer as AnswerOf<"range">).records) memory.record(key, record);
    if (op === "chunkGet") memory.chunks.set((request as RequestOf<"chunkGet">).id.toHex(), body.slice());
  }
}

function withoutLeases<A>(op: ClientRequestOp, answer: A): A {
  const told = answer as Partial<AnswerOf<"lookup"> & AnswerOf<"list">> & { inode?: InodeBundle | null; leased?: unknown };
  if (told.inode != null) told.inode.leased = false;
  for (const entry of told.entries ?? []) if (entry.inode !== null) entry.inode.leased = false;
  if (told.parentLeased !== undefined) told.parentLeased = false;
  if (told.dirLeased !== undefined) told.dirLeased = false;
  if (op === "commit" && Array.isArray(told.leased)) told.leased = [];
  return answer;
}
