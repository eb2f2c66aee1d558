/**
 * The key hierarchy of a tenant.
 *
 *     KEK (credentials file)
 *      └ wraps (AES-KW, RFC 3394; the first epoch itself, later ones by a key derived from it)
 *        { "kskd", epoch u32, data key of 32 bytes }       48 bytes on the node, one an epoch
 *         └ HKDF-SHA256, salt empty (for a chunk key: the chunk id), info = label, or label 0x00 namespace
 *            ├ chunk-tag, chunk-id key, chunk keys   of the tenant: equal content is stored once across its namespaces
 *            └ name, xattr-name, record keys of one namespace; the record key of an inode has the inode number in its info too
 *
 * The epoch is wrapped with the key, so that a node can't pass one epoch's key off as another's. Names are hashed under the
 * first epoch for good, because a lookup must find an entry whenever it was made; all else is sealed under the newest epoch.
 *
 * Later epochs have a wrapping key of their own so that a running client can take up an epoch that another one has begun, and need not
 * keep the KEK for that.
 */
import { randomFillSync } from "node:crypto";
import { aeskw } from "@noble/ciphers/aes.js";
import { lockMemory } from "../../ffi/libc/protect.ts";
import { checkEpoch, DATA_KEY_BYTES, EpochKeys, FIRST_EPOCH } from "./epoch-keys.ts";
import { HmacSha256, hkdfExpand32, hkdfExtract } from "./hmac.ts";
import { IntegrityError } from "./integrity-error.ts";
import { NamespaceKeys } from "./namespace-keys.ts";

/** AES-256 key that wraps the tenant's data keys. */
export const KEK_BYTES = 32;
/** HKDF info of the key, derived from the KEK, that wraps the data keys of all epochs but the first. */
const LATER_EPOCHS_LABEL = "kiseki/v1/later-epochs";
/** "kskd": says what was wrapped. */
const WRAP_MAGIC = 0x6b_73_6b_64;
const WRAP_HEADER_BYTES = 8;
/** RFC 3394 adds one 64-bit block. */
export const WRAPPED_KEY_BYTES = WRAP_HEADER_BYTES + DATA_KEY_BYTES + 8;

/** A data key as the node keeps it. */
export interface WrappedKey {
  readonly epoch: number;
  readonly wrapped: Uint8Array;
}

/** The raw data keys, for another thread of the same process, in shared memory: whoever has taken them up wipes them. Secret: never write or log it. */
export interface KeyMaterial {
  readonly keys: readonly { readonly epoch: number; readonly key: Uint8Array }[];
}

/** Zeroes what a ring has exported, once it was copied. */
export function wipeMaterial({ keys }: KeyMaterial): void {
  for (const { key } of keys) key.fill(0);
}

function checkKek(kek: Uint8Array): void {
  if (kek.length !== KEK_BYTES) throw new RangeError(`KEK: expected ${KEK_BYTES} bytes, got ${kek.length}`);
}

function laterEpochsKey(kek: Uint8Array): Uint8Array {
  const prk = hkdfExtract(new Uint8Array(0), kek);
  const key = hkdfExpand32(new HmacSha256(prk), new TextEncoder().encode(LATER_EPOCHS_LABEL));
  prk.fill(0);
  return key;
}

/** The opened data keys of a tenant, and the keys derived from them. */
export class KeyRing {
  readonly #epochs = new Map<number, EpochKeys>();
  readonly #namespaces = new Map<string, NamespaceKeys>();
  #current: EpochKeys | undefined;
  /** Wraps the data keys of epochs after the first; undefined in a Worker, which gets them opened. */
  #laterEpochs: Uint8Array | undefined;
  #wiped = false;

  private constructor() {}

  /**
   * Unwraps the data keys that a node keeps for the tenant.
   * @throws RangeError when there is none (make one: KeyRing.newDataKey); IntegrityError when one doesn't open under this KEK or the
   *   first epoch's is missing.
   */
  static open(kek: Uint8Array, wrappedKeys: readonly WrappedKey[]): KeyRing {
    if (wrappedKeys.length === 0) throw new RangeError("expected at least one wrapped data key");
    checkKek(kek);
    const ring = new KeyRing();
    const laterEpochs = laterEpochsKey(kek);
    ring.#laterEpochs = laterEpochs;
    lockMemory(laterEpochs);
    for (const wrapped of wrappedKeys) ring.#unwrap(wrapped.epoch === FIRST_EPOCH ? kek : laterEpochs, wrapped);
    ring.#requireFirst();
    return ring;
  }

  /** The ring of another thread of this process, from its export(). */
  static fromMaterial(material: KeyMaterial): KeyRing {
    const ring = new KeyRing();
    ring.addMaterial(material);
    ring.#requireFirst();
    return ring;
  }

  /** Adds those of another ring's export() that are not there yet. */
  addMaterial(material: KeyMaterial): void {
    this.#requireAlive();
    for (const { epoch, key } of material.keys) if (!this.#epochs.has(epoch)) this.#insert(new EpochKeys(epoch, key.slice()));
  }

  /** A new random data key of `epoch`, wrapped for the node. */
  static newDataKey(kek: Uint8Array, epoch: number): WrappedKey {
    checkKek(kek);
    checkEpoch(epoch);
    const plain = new Uint8Array(WRAP_HEADER_BYTES + DATA_KEY_BYTES);
    const view = new DataView(plain.buffer);
    view.setUint32(0, WRAP_MAGIC);
    view.setUint32(4, epoch);
    // Not crypto.getRandomValues: small requests are served from a stock of random bytes, where they stay.
    randomFillSync(plain, WRAP_HEADER_BYTES);
    const wrapping = epoch === FIRST_EPOCH ? kek : laterEpochsKey(kek);
    const wrapped = aeskw(wrapping).encrypt(plain);
    if (wrapping !== kek) wrapping.fill(0);
    plain.fill(0);
    return { epoch, wrapped };
  }

  /**
   * Takes up an epoch that was begun after the ring was opened; false: it is there already.
   * @throws IntegrityError when it doesn't open
   */
  add(wrapped: WrappedKey): boolean {
    this.#requireAlive();
    if (this.#epochs.has(wrapped.epoch)) return false;
    if (this.#laterEpochs === undefined) throw new Error("a ring made of opened keys can't open others");
    this.#unwrap(this.#laterEpochs, wrapped);
    return true;
  }

  #unwrap(wrapping: Uint8Array, { epoch, wrapped }: WrappedKey): void {
    checkEpoch(epoch);
    let plain: Uint8Array;
    try {
      if (wrapped.length !== WRAPPED_KEY_BYTES) throw new RangeError("length");
      plain = aeskw(wrapping).decrypt(wrapped);
    } catch {
      throw new IntegrityError(`the data key of epoch ${epoch} does not open under this KEK: other credentials, or a damaged key`);
    }
    const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength);
    if (view.getUint32(0) !== WRAP_MAGIC || view.getUint32(4) !== epoch) {
      plain.fill(0);
      throw new IntegrityError(`the data key offered for epoch ${epoch} is another epoch's`);
    }
    const dataKey = plain.slice(WRAP_HEADER_BYTES);
    // Where that is not allowed, it may be swapped out.
    lockMemory(dataKey);
    this.#insert(new EpochKeys(epoch, dataKey));
    plain.fill(0);
  }

  #insert(keys: EpochKeys): void {
    if (this.#epochs.has(keys.epoch)) return;
    this.#epochs.set(keys.epoch, keys);
    if (this.#current === undefined || keys.epoch > this.#current.epoch) {
      this.#current = keys;
      for (const namespace of this.#namespaces.values()) namespace.sealWith(keys);
    }
  }

  #requireFirst(): void {
    if (!this.#epochs.has(FIRST_EPOCH)) {
      throw new IntegrityError(`the data key of epoch ${FIRST_EPOCH} is missing: no name can be found without it`);
    }
  }

  #requireAlive(): void {
    if (this.#wiped) throw new Error("the key ring was wiped");
  }

  /** The newest epoch: what is sealed now is sealed under it. */
  get current(): EpochKeys {
    this.#requireAlive();
    if (this.#current === undefined) throw new Error("the key ring is empty");
    return this.#current;
  }

  get isWiped(): boolean {
    return this.#wiped;
  }

  has(epoch: number): boolean {
    return this.#epochs.has(epoch);
  }

  /** @throws IntegrityError for an epoch that the ring doesn't hold. */
  epoch(epoch: number): EpochKeys {
    this.#requireAlive();
    const keys = this.#epochs.get(epoch);
    if (keys === undefined) throw new IntegrityError(`no data key of epoch ${epoch}`);
    return keys;
  }

  /** The keys of one namespace; made once, then the same object. */
  namespace(name: string): NamespaceKeys {
    this.#requireAlive();
    let keys = this.#namespaces.get(name);
    if (keys === undefined) {
      keys = new NamespaceKeys(this, name);
      this.#namespaces.set(name, keys);
    }
    return keys;
  }

  /** The raw keys, for a Worker's fromMaterial. */
  export(): KeyMaterial {
    this.#requireAlive();
    return { keys: [...this.#epochs.values()].map((keys) => ({ epoch: keys.epoch, key: keys.exportKey() })) };
  }

  /**
   * Zeroes the data keys and lets go of all derived ones; every later use throws. Derived keys inside native objects (KeyObject,
   * hashers) can't be zeroed from here: they go when they are collected.
   */
  wipe(): void {
    this.#wiped = true;
    for (const keys of this.#epochs.values()) keys.wipe();
    for (const namespace of this.#namespaces.values()) namespace.wipe();
    this.#epochs.clear();
    this.#namespaces.clear();
    this.#laterEpochs?.fill(0);
    this.#current = undefined;
  }

  [Symbol.dispose](): void {
    this.wipe();
  }
}
