/** Where sealed chunks go to and come from: the few calls of a storage node that src/transfer needs. */
import type { BodySink } from "../protocol/frame.ts";

/** A sink that says, when all has come, whether it was right. */
export interface CheckedSink extends BodySink {
  /** @throws IntegrityError */
  finish(): void;
}

export interface ChunkNode {
  /** Stores a sealed chunk; resolves when it is durable. `sealed` must not change before this settles, and may then. */
  put(id: Uint8Array, sealed: Uint8Array, timeoutMs: number): Promise<void>;
  /**
   * Reads `into.length` bytes of a sealed chunk from `offset`; nobody writes to `into` after this has settled.
   * @returns the length of the whole sealed chunk
   */
  get(id: Uint8Array, offset: number, into: CheckedSink, timeoutMs: number): Promise<number>;
}
