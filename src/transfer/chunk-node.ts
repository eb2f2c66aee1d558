/** Where sealed chunks go to and come from: the few calls of a storage node that src/transfer needs. */
import type { BodySink } from "../protocol/frame.ts";
import { backoffMs } from "../transport/backoff.ts";
import { NodeClient, type NodeClientOptions } from "../transport/node-client.ts";

export interface ChunkNode {
  /** Stores a sealed chunk; resolves when it is durable. `sealed` must not change before this settles, and may then. */
  put(id: Uint8Array, sealed: Uint8Array, timeoutMs: number): Promise<void>;
  /**
   * Reads `into.length` bytes of a sealed chunk from `offset`; nobody writes to `into` after this has settled.
   * @returns the length of the whole sealed chunk
   */
  get(id: Uint8Array, offset: number, into: BodySink, timeoutMs: number): Promise<number>;
}

/** How a Worker reaches the storage nodes: plain data, for structured clone. */
export type NodeSettings = Pick<
  NodeClientOptions,
  "addrs" | "tls" | "sessionId" | "clientVersion" | "requestTimeoutMs" | "connectTimeoutMs" | "knownStore"
>;

/** Chunks by way of a NodeClient that somebody else owns. */
function chunkNodeOf(client: NodeClient): ChunkNode {
  return {
    async put(id, sealed, timeoutMs) {
      await client.call("chunkPut", { id }, { body: [sealed], timeoutMs });
    },
    async get(id, offset, into, timeoutMs) {
      const { answer } = await client.call("chunkGet", { id, offset, length: into.length }, { bodyInto: into, timeoutMs });
      return answer.totalBytes;
    },
  };
}

/** A connection of one's own for chunks. It keeps trying until it is closed; what is asked meanwhile waits for its deadline. */
export class DataConnection {
  readonly client: NodeClient;
  readonly node: ChunkNode;
  readonly #onFailure: (message: string) => void;
  #attempt = 0;
  #closed = false;

  /** @param onFailure told of each failed first connection, for the log */
  constructor(settings: NodeSettings, onFailure: (message: string) => void) {
    this.client = new NodeClient({ ...settings, role: "data" });
    this.node = chunkNodeOf(this.client);
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
  }
}
