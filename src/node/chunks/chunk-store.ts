/**
 * What the storage node needs of a store of sealed chunks. One store serves one tenant. Every store passes conformance.ts.
 * Thrown values are NodeError: not_found, no_space, io, damaged.
 */
import type { MaybePromise } from "../engines/engine.ts";
import type { PromisedBytes } from "../space-credits.ts";

export interface ChunkInfo {
  id: Uint8Array;
  /** As sealed. */
  bytes: number;
  /** Milliseconds since the epoch of the last put, also of one that found the chunk there. */
  touchedMs: number;
}

export interface ChunkPart {
  bytes: Uint8Array;
  totalBytes: number;
  /** To be called, once, when nobody uses `bytes` any more; who does not, leaves them to the collector. */
  release?: () => void;
}

export type TakeMemory = (bytes: number) => Uint8Array;

export interface ChunkStore {
  /**
   * Resolves when the chunk survives power loss. One that is there already is not written again, but counts as just put.
   * `body` must not change meanwhile. `isPromised`: room for it was set aside, so it may use what is kept for records, too.
   */
  put(id: Uint8Array, body: Uint8Array, isPromised?: boolean): Promise<{ existed: boolean }>;
  /**
   * `length` bytes from `offset`, fewer at the end. A read of the whole chunk is checked: "damaged" when its bytes have changed.
   * `take`: where memory for it comes from, at most CHUNK_MAX_BYTES and four pages, in whole pages for O_DIRECT.
   */
  get(id: Uint8Array, offset: number, length: number, take?: TakeMemory): MaybePromise<ChunkPart>;
  exists(id: Uint8Array): MaybePromise<boolean>;
  /**
   * Deletes, unless `keep` (told when the chunk was last put) says otherwise. From before it is asked until the chunk is gone or kept,
   * puts of this id wait, and `exists` says no.
   */
  delete(id: Uint8Array, keep: (touchedMs: number) => MaybePromise<boolean>): Promise<boolean>;
  /** All chunks whose ids begin with the byte `part`, in no order. */
  listPart(part: number): Promise<ChunkInfo[]>;
  /** @returns what is wrong with the stored chunk, or null */
  verify(id: Uint8Array): Promise<string | null>;
  /** Bytes of the disk, and those that chunks can still be put into. */
  space(): { totalBytes: number; freeBytes: number };
  /** What a chunk takes beyond its own bytes, as usedBytes counts them. */
  readonly extraBytes: number;
  /** Of the disk, shared by the stores that are on it. */
  readonly promised: PromisedBytes;
  /** Bytes of all chunks as stored. The first call counts them, which takes a while; from then on it is kept. */
  usedBytes(): MaybePromise<number>;
  /** Lets go of what it keeps open. */
  close(): void;
}
