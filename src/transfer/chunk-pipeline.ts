/**
 * Moves chunks between the block arena and a storage node: seal and send, fetch and open. The arena is a SharedArrayBuffer of
 * BLOCK_BYTES cells, of which each holds one plaintext block; nothing here allocates more than a cipher's output at a time.
 *
 * While a put or get runs, its cells belong to it.
 */
import { ChunkOpener } from "../crypto/chunk-opener.ts";
import { blockBytes, blockCount, type ChunkRef, sealChunk, sealedBlockRange, sealedChunkBytes } from "../crypto/chunk-seal.ts";
import { IntegrityError } from "../crypto/integrity-error.ts";
import type { KeyRing } from "../crypto/key-ring.ts";
import { TransportError } from "../protocol/errors.ts";
import { BLOCK_BYTES, SEALED_CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import { BufferPool } from "./buffer-pool.ts";
import type { ChunkNode } from "./chunk-node.ts";

/** A transfer of at most this many blocks is small, and never waits behind whole chunks; a put takes a small buffer for it. */
export const SMALL_BLOCKS_MAX = 2;
const SMALL_BUFFER_BYTES = sealedChunkBytes(SMALL_BLOCKS_MAX * BLOCK_BYTES);

/** Sealed chunks on their way to the node: so many puts run at a time. */
export interface PipelineBuffers {
  /** Buffers for puts of more than SMALL_BLOCKS_MAX blocks, SEALED_CHUNK_MAX_BYTES each; 0: only small ones. */
  readonly large: number;
  readonly small: number;
}

export interface ChunkPipelineOptions {
  readonly arena: SharedArrayBuffer;
  readonly keys: KeyRing;
  readonly node: ChunkNode;
  readonly buffers: PipelineBuffers;
}

export class ChunkPipeline {
  readonly #arena: SharedArrayBuffer;
  readonly #keys: KeyRing;
  readonly #node: ChunkNode;
  readonly #large: BufferPool | null;
  readonly #small: BufferPool;

  constructor({ arena, keys, node, buffers }: ChunkPipelineOptions) {
    if (!Number.isInteger(buffers.small) || buffers.small < 1) throw new RangeError("expected at least one small buffer");
    this.#arena = arena;
    this.#keys = keys;
    this.#node = node;
    this.#large = buffers.large > 0 ? new BufferPool(buffers.large, SEALED_CHUNK_MAX_BYTES) : null;
    this.#small = new BufferPool(buffers.small, SMALL_BUFFER_BYTES);
  }

  /**
   * Seals the `bytes` of plaintext that stand in `cells`, stores the chunk, and resolves when it is durable.
   * @param cells cell numbers in order, each full but the last
   * @throws NodeError, TransportError ("timeout" counts waiting for a buffer too), RangeError
   */
  async put(cells: ArrayLike<number>, bytes: number, timeoutMs: number): Promise<ChunkRef> {
    if (cells.length !== blockCount(bytes)) throw new RangeError(`expected ${blockCount(bytes)} cells, got ${cells.length}`);
    const blocks = Array.from(cells, (cell, index) => this.#cell(cell, blockBytes(bytes, index)));
    return await this.#withBuffer(cells.length, timeoutMs, async (buffer, leftMs) => {
      const ref = sealChunk(this.#keys.current, blocks, buffer);
      await this.#node.put(ref.id, buffer.subarray(0, sealedChunkBytes(bytes)), leftMs);
      return ref;
    });
  }

  /**
   * Fetches blocks `firstBlock` to `firstBlock + cells.length - 1` of a chunk in one request and opens each into its cell as it arrives.
   * When it rejects, some of the cells may have been written.
   * @throws NodeError, TransportError, IntegrityError, RangeError
   */
  async get(ref: ChunkRef, firstBlock: number, cells: ArrayLike<number>, timeoutMs: number): Promise<void> {
    const { offset } = sealedBlockRange(ref.bytes, firstBlock, cells.length);
    const targets = Array.from(cells, (cell, i) => this.#cell(cell, blockBytes(ref.bytes, firstBlock + i)));
    const opener = new ChunkOpener(this.#keys, ref, firstBlock, targets);
    const totalBytes = await this.#node.get(ref.id, offset, opener, timeoutMs);
    if (totalBytes !== sealedChunkBytes(ref.bytes)) {
      throw new IntegrityError(`a stored chunk has ${totalBytes} bytes instead of ${sealedChunkBytes(ref.bytes)}`);
    }
    opener.finish();
  }

  #cell(cell: number, bytes: number): Uint8Array {
    if (!Number.isInteger(cell) || cell < 0 || (cell + 1) * BLOCK_BYTES > this.#arena.byteLength) {
      throw new RangeError(`cell: expected one of ${this.#arena.byteLength / BLOCK_BYTES}, got ${cell}`);
    }
    return new Uint8Array(this.#arena, cell * BLOCK_BYTES, bytes);
  }

  async #withBuffer<T>(blocks: number, timeoutMs: number, use: (buffer: Uint8Array, leftMs: number) => Promise<T>): Promise<T> {
    const pool = blocks <= SMALL_BLOCKS_MAX ? this.#small : this.#large;
    if (pool === null) throw new RangeError(`expected at most ${SMALL_BLOCKS_MAX} blocks, got ${blocks}`);
    const startedAt = performance.now();
    const taken = pool.take();
    const buffer = taken instanceof Promise ? await taken : taken;
    try {
      const leftMs = timeoutMs - (performance.now() - startedAt);
      if (leftMs <= 0) throw new TransportError("timeout", `no buffer became free within ${timeoutMs} ms`);
      return await use(buffer, leftMs);
    } finally {
      pool.release(buffer);
    }
  }
}
