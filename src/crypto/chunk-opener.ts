/** Opens sealed blocks (chunk-seal.ts) as their bytes arrive, in pieces of any size. */
import { createDecipheriv, type DecipherGCM, type KeyObject } from "node:crypto";
import { freeMemory } from "../process/free-memory.ts";
import { CHUNK_ID_BYTES, TAG_BYTES } from "../protocol/limits.ts";
import { blockBytes, blockNonce, type ChunkRef, chunkHeader, sealedBlockRange } from "./chunk-seal.ts";
import { IntegrityError } from "./integrity-error.ts";
import type { KeyRing } from "./key-ring.ts";

/**
 * Neighbouring blocks of one chunk, each opened into a target of its own. A target is written from its start when its block has been
 * verified, and not before. Received bytes are decrypted from where they lie.
 */
export class ChunkOpener {
  /** Sealed bytes of all the blocks. */
  readonly length: number;
  readonly #header: Uint8Array;
  readonly #key: KeyObject;
  readonly #bytes: number;
  readonly #first: number;
  readonly #targets: readonly Uint8Array[];
  readonly #tag = new Uint8Array(TAG_BYTES);
  /** Blocks that are in their targets. */
  #opened = 0;
  #decipher: DecipherGCM | null = null;
  /** Of the block that is being opened: what is decrypted and not verified, ciphertext bytes still to come, tag bytes that have come. */
  #plain: Uint8Array[] = [];
  #cipherLeft = 0;
  #tagFilled = 0;
  #failure: IntegrityError | null = null;

  /**
   * @param targets one for each block from `first` on, with room for it
   * @throws RangeError for an impossible ref, blocks that it hasn't got, a target that is too short; IntegrityError for an unknown epoch
   */
  constructor(keys: KeyRing, ref: ChunkRef, first: number, targets: readonly Uint8Array[]) {
    if (ref.id.length !== CHUNK_ID_BYTES) throw new RangeError(`chunk id: expected ${CHUNK_ID_BYTES} bytes, got ${ref.id.length}`);
    this.length = sealedBlockRange(ref.bytes, first, targets.length).length;
    for (const [i, target] of targets.entries()) {
      const bytes = blockBytes(ref.bytes, first + i);
      if (target.length < bytes) throw new RangeError(`target: expected ${bytes} bytes, got ${target.length}`);
    }
    this.#header = chunkHeader(ref.epoch, ref.bytes);
    this.#key = keys.epoch(ref.epoch).chunkKey(ref.id, this.#header);
    this.#bytes = ref.bytes;
    this.#first = first;
    this.#targets = targets;
  }

  /** The bytes come from their start; also when some came before. */
  begin(): void {
    this.#opened = 0;
    this.#decipher = null;
    this.#dropPlain();
    this.#failure = null;
  }

  /** Takes the next bytes, and keeps no reference to them. What is wrong with them shows in finish(). */
  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length && this.#failure === null; ) {
      const decipher = this.#decipher ?? this.#startBlock();
      if (decipher === null) return;
      if (this.#cipherLeft > 0) {
        const count = Math.min(this.#cipherLeft, bytes.length - at);
        this.#plain.push(decipher.update(bytes.subarray(at, at + count)));
        this.#cipherLeft -= count;
        at += count;
        continue;
      }
      const count = Math.min(TAG_BYTES - this.#tagFilled, bytes.length - at);
      this.#tag.set(bytes.subarray(at, at + count), this.#tagFilled);
      this.#tagFilled += count;
      at += count;
      if (this.#tagFilled === TAG_BYTES) this.#finishBlock(decipher);
    }
  }

  /** @throws IntegrityError unless every block has come and was the one it should be */
  finish(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#opened < this.#targets.length) {
      throw new IntegrityError(`of ${this.#targets.length} chunk blocks only ${this.#opened} came whole`);
    }
  }

  #startBlock(): DecipherGCM | null {
    if (this.#opened === this.#targets.length) {
      this.#failure = new IntegrityError("more bytes came than the blocks of a chunk have");
      return null;
    }
    const index = this.#first + this.#opened;
    const decipher = createDecipheriv("aes-256-gcm", this.#key, blockNonce(index));
    decipher.setAAD(this.#header);
    this.#decipher = decipher;
    this.#cipherLeft = blockBytes(this.#bytes, index);
    this.#tagFilled = 0;
    return decipher;
  }

  #finishBlock(decipher: DecipherGCM): void {
    this.#decipher = null;
    decipher.setAuthTag(this.#tag);
    try {
      decipher.final();
    } catch {
      this.#failure = new IntegrityError("a chunk block does not open: it was changed, or belongs elsewhere");
      this.#dropPlain();
      return;
    }
    const target = this.#targets[this.#opened] as Uint8Array;
    let filled = 0;
    for (const piece of this.#plain) {
      target.set(piece, filled);
      filled += piece.length;
    }
    this.#dropPlain();
    this.#opened++;
  }

  /** Overwritten before it is given back: freed memory is not, and stays in the process for long. 3 us a block. */
  #dropPlain(): void {
    for (const piece of this.#plain) {
      piece.fill(0);
      freeMemory(piece);
    }
    this.#plain = [];
  }
}
