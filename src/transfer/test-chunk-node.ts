/** A storage node that only keeps chunks, in memory: for tests and for scripts/bench-transfer.ts. */
import { issueNode, issueTenant, makeCa } from "../pki/certificates.ts";
import { NodeError } from "../protocol/errors.ts";
import { INSTANCE_ID_BYTES, LEASE_MS } from "../protocol/limits.ts";
import { serveFrames } from "../transport/frame-server.ts";
import { tcpTls } from "../transport/tcp-tls.ts";
import type { TlsIdentity } from "../transport/transport.ts";

export interface TestIdentities {
  readonly node: TlsIdentity;
  readonly client: TlsIdentity;
}

export async function testIdentities(): Promise<TestIdentities> {
  const ca = await makeCa("test");
  const node = await issueNode(ca, "test", "one", ["127.0.0.1"], 1);
  const client = await issueTenant(ca, "test", "acme", 1);
  return { node: { ...node, ca: ca.cert }, client: { ...client, ca: ca.cert } };
}

export interface TestChunkNode {
  readonly port: number;
  /** Sealed chunks by hexadecimal id. */
  readonly chunks: Map<string, Uint8Array>;
  /** chunkGet requests so far, as "offset+length". */
  readonly gets: string[];
  /** Connections that said hello so far. */
  connections: number;
  /** Called before each chunkPut is answered; may throw a NodeError, or wait. */
  beforePut: () => Promise<void> | void;
  beforeGet: () => Promise<void> | void;
  /** Closes all connections; new ones are still taken. */
  dropConnections(): void;
  stop(): void;
}

/** @param keep false: chunks are dropped when they arrive, but for the first, which answers every get (for the benchmark) */
export async function startTestChunkNode(tls: TlsIdentity, keep = true): Promise<TestChunkNode> {
  const chunks = new Map<string, Uint8Array>();
  const node: TestChunkNode = {
    port: 0,
    chunks,
    gets: [],
    connections: 0,
    beforePut: () => {},
    beforeGet: () => {},
    dropConnections: () => {},
    stop: () => {},
  };
  const id = new Uint8Array(INSTANCE_ID_BYTES).fill(1);
  const store = { instance: id, start: 1, startId: id, knowsLastStart: true, namespaces: [] };
  const sessions = new Set<{ close(reason: string): void }>();
  const listener = await tcpTls.listen({ host: "127.0.0.1", port: 0, tls }, (connection) => {
    const session = serveFrames(connection, {
      async handle(op, request, body) {
        // The handler's type ties request and answer to op, which a switch can't follow.
        const { id, offset = 0, length = 0 } = request as { id: Uint8Array; offset?: number; length?: number };
        const reply = (answer: object, parts: Uint8Array[] = []) => ({ answer: answer as never, body: parts });
        switch (op as string) {
          case "hello":
            node.connections++;
            return reply({ nodeVersion: "test", cluster: "test", tenant: "acme", leaseMs: LEASE_MS, resumed: false, store });
          case "ping":
          case "bye":
            return reply({});
          case "chunkPut": {
            await node.beforePut();
            const name = id.toHex();
            const existed = chunks.has(name);
            if (keep || chunks.size === 0) chunks.set(name, body.slice());
            return reply({ existed });
          }
          case "chunkGet": {
            await node.beforeGet();
            if (keep) node.gets.push(`${offset}+${length}`);
            const chunk = keep ? chunks.get(id.toHex()) : chunks.values().next().value;
            if (chunk === undefined) throw new NodeError("not_found", "no such chunk");
            return reply({ totalBytes: chunk.length }, [chunk.subarray(offset, offset + length)]);
          }
          default:
            throw new NodeError("bad_request", `the test node does not do ${op}`);
        }
      },
      onClose: () => sessions.delete(session),
    });
    sessions.add(session);
  });
  return Object.assign(node, {
    port: listener.port,
    dropConnections() {
      for (const session of sessions) session.close("dropped");
    },
    stop() {
      listener.close();
      node.dropConnections();
    },
  });
}
