/** What is derived from the data key of one epoch. The whole hierarchy is drawn in key-ring.ts. */
import { createSecretKey, type KeyObject } from "node:crypto";
import { HmacSha256, hkdfExpand32, hkdfExtract } from "./hmac.ts";

export const DATA_KEY_BYTES = 32;
/** The epoch whose name keys hash all names of a namespace. */
export const FIRST_EPOCH = 1;
/** Epochs are u32 in every sealed format. */
const EPOCH_MAX = 2 ** 32 - 1;
/** HKDF info labels. A changed format gets a new label, so that no key ever serves two formats. */
export const KeyLabel = {
  chunkTag: "kiseki/v2/chunk-tag",
  chunkId: "kiseki/v2/chunk-id",
  chunk: "kiseki/v1/chunk",
  name: "kiseki/v1/name",
  xattrName: "kiseki/v1/xattr-name",
  record: "kiseki/v2/record",
  rootFileId: "kiseki/v2/root-file-id",
} as const;
export type KeyLabelName = (typeof KeyLabel)[keyof typeof KeyLabel];

/** @throws RangeError for what isn't an epoch. */
export function checkEpoch(epoch: number): void {
  if (!Number.isInteger(epoch) || epoch < FIRST_EPOCH || epoch > EPOCH_MAX) {
    throw new RangeError(`epoch: expected an integer from ${FIRST_EPOCH} to ${EPOCH_MAX}, got ${epoch}`);
  }
}

/** label 0x00 namespace. Labels and namespace names hold no zero byte, so no two infos are equal. */
export function namespaceInfo(label: KeyLabelName, namespace: string): Uint8Array {
  return new TextEncoder().encode(`${label}\0${namespace}`);
}

export class EpochKeys {
  readonly epoch: number;
  readonly #dataKey: Uint8Array;
  readonly #root: HmacSha256;
  readonly #chunkTag: KeyObject;
  readonly #chunkId: HmacSha256;

  /** @param dataKey 32 bytes; kept, and zeroed by wipe(). */
  constructor(epoch: number, dataKey: Uint8Array) {
    checkEpoch(epoch);
    if (dataKey.length !== DATA_KEY_BYTES) throw new RangeError(`data key: expected ${DATA_KEY_BYTES} bytes, got ${dataKey.length}`);
    this.epoch = epoch;
    this.#dataKey = dataKey;
    const prk = hkdfExtract(new Uint8Array(0), dataKey);
    this.#root = new HmacSha256(prk);
    prk.fill(0);
    const tagKey = this.derive(new TextEncoder().encode(KeyLabel.chunkTag));
    this.#chunkTag = createSecretKey(tagKey);
    tagKey.fill(0);
    this.#chunkId = new HmacSha256(this.derive(new TextEncoder().encode(KeyLabel.chunkId)));
  }

  /** HKDF-SHA256 of the data key with an empty salt: 32 bytes. */
  derive(info: Uint8Array): Uint8Array {
    return hkdfExpand32(this.#root, info);
  }

  /** AES-256 key of the GMAC tags of a chunk's blocks. Such a tag is never stored, sent or logged: see chunk-seal.ts. */
  get chunkTag(): KeyObject {
    return this.#chunkTag;
  }

  /** Hashes the tags of a chunk's blocks to its id. */
  get chunkId(): HmacSha256 {
    return this.#chunkId;
  }

  /**
   * The AES-256 key of one chunk. `header` is the chunk's clear header: with it in the info, a chunk that is ever written with
   * another header (a new format) gets another key, and no nonce is used twice under one key.
   */
  chunkKey(chunkId: Uint8Array, header: Uint8Array): KeyObject {
    const info = Buffer.concat([Buffer.from(`${KeyLabel.chunk}\0`), header]);
    const prk = hkdfExtract(chunkId, this.#dataKey);
    const raw = hkdfExpand32(new HmacSha256(prk), info);
    prk.fill(0);
    const key = createSecretKey(raw);
    raw.fill(0);
    return key;
  }

  /** A copy in shared memory: a message to a Worker brings no copy of its own, which nobody could overwrite. */
  exportKey(): Uint8Array {
    const copy = new Uint8Array(new SharedArrayBuffer(DATA_KEY_BYTES));
    copy.set(this.#dataKey);
    return copy;
  }

  wipe(): void {
    this.#dataKey.fill(0);
  }
}
