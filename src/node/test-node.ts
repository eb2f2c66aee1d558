/** For tests: a storage node on a free port with a data folder of its own, and clients of it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createTenant } from "../pki/cluster.ts";
import { SESSION_ID_BYTES } from "../protocol/limits.ts";
import { NodeClient, type NodeClientOptions } from "../transport/node-client.ts";
import { tcpTls } from "../transport/tcp-tls.ts";
import type { TlsIdentity } from "../transport/transport.ts";
import { StorageNode, type StorageNodeOptions } from "./storage-node.ts";

const silent = () => {};
const silentLogger = { debug: silent, info: silent, warn: silent, error: silent };

export class TestNode {
  readonly dataDir: string;
  node: StorageNode;
  readonly #options: Partial<StorageNodeOptions>;
  readonly #tenants = new Map<string, TlsIdentity>();
  readonly #clients: NodeClient[] = [];

  private constructor(dataDir: string, node: StorageNode, options: Partial<StorageNodeOptions>) {
    this.dataDir = dataDir;
    this.node = node;
    this.#options = options;
  }

  static async start(options: Partial<StorageNodeOptions> = {}): Promise<TestNode> {
    const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), "kiseki-node-"));
    return new TestNode(dataDir, await startNode(dataDir, 0, options), options);
  }

  get address(): string {
    return this.node.address;
  }

  /** The same data, the same port. */
  async restart(): Promise<void> {
    const port = this.node.port;
    await this.node.stop();
    this.node = await startNode(this.dataDir, port, this.#options);
  }

  /** A tenant's identity; made the first time. */
  async identity(tenant: string): Promise<TlsIdentity> {
    const known = this.#tenants.get(tenant);
    if (known !== undefined) return known;
    const { ca, cert, key, record } = await createTenant(join(this.dataDir, "pki"), tenant, 10);
    record();
    this.#tenants.set(tenant, { ca, cert, key });
    return { ca, cert, key };
  }

  /** A connected client; closed with the node. */
  async client(tenant: string, options: Partial<NodeClientOptions> = {}): Promise<NodeClient> {
    const client = new NodeClient({
      addrs: [this.address],
      tls: await this.identity(tenant),
      sessionId: randomSessionId(),
      role: "meta",
      clientVersion: "test",
      requestTimeoutMs: 20_000,
      connectTimeoutMs: 5_000,
      ...options,
    });
    this.#clients.push(client);
    await client.connect();
    return client;
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.abandon();
    await this.node.stop();
    rmSync(this.dataDir, { recursive: true });
  }
}

async function startNode(dataDir: string, port: number, options: Partial<StorageNodeOptions>): Promise<StorageNode> {
  return await StorageNode.start({
    dataDir,
    host: "127.0.0.1",
    port,
    version: "test",
    transport: tcpTls,
    logger: silentLogger,
    ...options,
  });
}

export function randomSessionId(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(SESSION_ID_BYTES));
}
