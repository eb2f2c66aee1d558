/** A connection of one's own for chunks, and the fabric beside it. */
import { findEventLoopFd } from "../process/event-loop-fd.ts";
import { backoffMs } from "../transport/backoff.ts";
import { NodeClient, type NodeClientOptions } from "../transport/node-client.ts";
import type { ChunkNode } from "./chunk-node.ts";
import { RdmaPath, type RdmaSettings } from "./rdma-path.ts";
import type { TransferCounts } from "./transfer-counts.ts";

/** How a Worker reaches the storage nodes: plain data, for structured clone. */
export type NodeSettings = Pick<
  NodeClientOptions,
  "addrs" | "tls" | "sessionId" | "clientVersion" | "requestTimeoutMs" | "connectTimeoutMs" | "knownStore"
> & {
  /** By what fabric bodies are moved; null: with their requests, in TLS. */
  readonly rdma: RdmaSettings | null;
};

/** Chunks by way of a NodeClient, their bodies over a fabric where there is one. */
function chunkNodeOf(client: NodeClient, rdma: RdmaPath | null, counts: TransferCounts): ChunkNode {
  return {
    async put(id, sealed, timeoutMs) {
      const deadlineMs = performance.now() + timeoutMs;
      if (rdma !== null && (await rdma.put(id, sealed, rdmaTimeoutMs(timeoutMs)))) return;
      await client.call("chunkPut", { id }, { body: [sealed], timeoutMs: deadlineMs - performance.now() });
      counts.byTls(sealed.length);
    },
    async get(id, offset, into, timeoutMs) {
      const deadlineMs = performance.now() + timeoutMs;
      const totalBytes = rdma === null ? null : await rdma.get(id, offset, into, rdmaTimeoutMs(timeoutMs));
      if (totalBytes !== null) return totalBytes;
      const left = { timeoutMs: deadlineMs - performance.now() };
      const { answer } = await client.call("chunkGet", { id, offset, length: into.length }, { bodyInto: into, ...left });
      counts.byTls(into.length);
      return answer.totalBytes;
    },
  };
}

/** Enough is left for the way by TLS. */
function rdmaTimeoutMs(timeoutMs: number): number {
  return timeoutMs / 2;
}

/** A connection of one's own for chunks. It keeps trying until it is closed; what is asked meanwhile waits for its deadline. */
export class DataConnection {
  readonly client: NodeClient;
  readonly node: ChunkNode;
  readonly rdma: RdmaPath | null;
  readonly #onFailure: (message: string) => void;
  #attempt = 0;
  #closed = false;

  /** @param onFailure told of each failed first connection, and of what becomes of the fabric, for the log */
  constructor({ rdma, ...settings }: NodeSettings, counts: TransferCounts, onFailure: (message: string) => void) {
    this.client = new NodeClient({
      ...settings,
      role: "data",
      onState: (state) => {
        if (state === "connected") this.rdma?.connected();
        else this.rdma?.disconnected();
      },
    });
    this.rdma = rdma === null ? null : new RdmaPath(this.client, rdma, findEventLoopFd(), onFailure, counts);
    this.node = chunkNodeOf(this.client, this.rdma, counts);
    this.#onFailure = onFailure;
    this.#connect();
  }

  #connect(): void {
    this.client.connect().catch((error: unknown) => {
      if (this.#closed) return;
      this.#onFailure(error instanceof Error ? error.message : String(error));
      setTimeout(
        () => {
          if (!this.#closed) this.#connect();
        },
        backoffMs(this.#attempt++),
      );
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.client.close();
    await this.rdma?.close();
  }
}
