/** What the chunk workers do (transfer/transfer-pool.ts): data goes through cells of the arena. */
import type { ChunkRef } from "../../crypto/chunk-seal.ts";

export interface ChunkTransfer {
  /** Hashes, seals and sends the first `byteLength` bytes of the cells as one chunk; resolves when it is durable on the node. */
  put(cells: readonly number[], byteLength: number): Promise<ChunkRef>;
  /** Fetches, opens and verifies blocks from `firstBlock` on, one for each cell. */
  get(ref: ChunkRef, firstBlock: number, cells: readonly number[]): Promise<void>;
}
