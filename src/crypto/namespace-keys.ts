/** The keys of one namespace: name hashing (under the first epoch) and a record key per inode and epoch. */

import { writeU64 } from "../protocol/big-endian.ts";
import { NAMESPACE_NAME_PATTERN } from "../protocol/limits.ts";
import { type EpochKeys, FIRST_EPOCH, KeyLabel, namespaceInfo } from "./epoch-keys.ts";
import { FILE_ID_BYTES, type FileId } from "./file-id.ts";
import { GenerationCache } from "./generation-cache.ts";
import { HmacSha256 } from "./hmac.ts";

/**
 * Record keys kept per namespace and epoch: twice this many at most, some 150 bytes each. A hit costs 0.02 us, a miss (HKDF-Expand)
 * 0.4 us, so this is for the inodes in use, not for all.
 */
const RECORD_KEYS_KEPT = 8_192;
/** Record format version; in the key's info by its label, in the sealed bytes and in the AAD. */
export const RECORD_VERSION = 2;

/** The record keys of one namespace in one epoch. */
export class RecordKeys {
  readonly epoch: number;
  /** What every record's AAD begins with: version u8, epoch u32, length of the namespace name u8, the name. */
  readonly aadPrefix: Uint8Array;
  readonly #root: HmacSha256;
  /** HKDF info of an inode's key, and the counter byte of HKDF-Expand: label 0x00 namespace 0x00 inode u64 | 0x01. */
  readonly #message: Uint8Array;
  readonly #inodeOffset: number;
  readonly #keys = new GenerationCache<number, Uint8Array>(RECORD_KEYS_KEPT);

  constructor(epochKeys: EpochKeys, namespace: string) {
    this.epoch = epochKeys.epoch;
    const info = namespaceInfo(KeyLabel.record, namespace);
    this.#root = new HmacSha256(epochKeys.derive(info));
    this.#message = new Uint8Array(info.length + 1 + 8 + 1);
    this.#message.set(info);
    this.#message[this.#message.length - 1] = 1;
    this.#inodeOffset = info.length + 1;
    const name = new TextEncoder().encode(namespace);
    this.aadPrefix = new Uint8Array(6 + name.length);
    const view = new DataView(this.aadPrefix.buffer);
    view.setUint8(0, RECORD_VERSION);
    view.setUint32(1, this.epoch);
    view.setUint8(5, name.length);
    this.aadPrefix.set(name, 6);
  }

  /**
   * The AES-256 key of the records of `ino`: 32 raw bytes, because createCipheriv takes them as fast as a KeyObject and they can be
   * zeroed.
   */
  key(ino: number): Uint8Array {
    let key = this.#keys.get(ino);
    if (key === undefined) {
      writeU64(this.#message, this.#inodeOffset, ino);
      key = this.#root.digestShared(this.#message).slice();
      this.#keys.set(ino, key);
    }
    return key;
  }

  wipe(): void {
    for (const key of this.#keys.values()) key.fill(0);
    this.#keys.clear();
  }
}

/** Where the keys of a namespace come from (KeyRing). */
interface EpochSource {
  /** The newest epoch. */
  readonly current: EpochKeys;
  /** @throws IntegrityError for an unknown epoch. */
  epoch(epoch: number): EpochKeys;
}

/** Made by KeyRing.namespace(). */
export class NamespaceKeys {
  readonly namespace: string;
  readonly #ring: EpochSource;
  readonly #records = new Map<number, RecordKeys>();
  #sealing: RecordKeys;
  #name: HmacSha256 | undefined;
  #xattrName: HmacSha256 | undefined;
  /** The root folder's: it is named by no entry, and its first client and all others must agree. */
  readonly rootFileId: FileId;

  /** @throws RangeError for what isn't a namespace name. */
  constructor(ring: EpochSource, namespace: string) {
    if (!NAMESPACE_NAME_PATTERN.test(namespace)) throw new RangeError("expected a namespace name");
    this.namespace = namespace;
    this.#ring = ring;
    const first = ring.epoch(FIRST_EPOCH);
    this.#name = new HmacSha256(first.derive(namespaceInfo(KeyLabel.name, namespace)));
    this.#xattrName = new HmacSha256(first.derive(namespaceInfo(KeyLabel.xattrName, namespace)));
    this.rootFileId = Buffer.from(first.derive(namespaceInfo(KeyLabel.rootFileId, namespace))).toString("latin1", 0, FILE_ID_BYTES);
    this.#sealing = this.#recordKeys(ring.current);
  }

  #recordKeys(epochKeys: EpochKeys): RecordKeys {
    let keys = this.#records.get(epochKeys.epoch);
    if (keys === undefined) {
      keys = new RecordKeys(epochKeys, this.namespace);
      this.#records.set(epochKeys.epoch, keys);
    }
    return keys;
  }

  #requireAlive<T>(key: T | undefined): T {
    if (key === undefined) throw new Error("the key ring was wiped");
    return key;
  }

  /** Hashes names of directory entries. */
  get name(): HmacSha256 {
    return this.#requireAlive(this.#name);
  }

  /** Hashes names of extended attributes. */
  get xattrName(): HmacSha256 {
    return this.#requireAlive(this.#xattrName);
  }

  /** The record keys of the newest epoch. */
  get sealing(): RecordKeys {
    this.#requireAlive(this.#name);
    return this.#sealing;
  }

  /** The record keys of the epoch that a sealed record names. @throws IntegrityError for an unknown epoch. */
  opening(epoch: number): RecordKeys {
    return this.#records.get(epoch) ?? this.#recordKeys(this.#ring.epoch(epoch));
  }

  /** Called by the ring when it gets a newer epoch. */
  sealWith(epochKeys: EpochKeys): void {
    this.#sealing = this.#recordKeys(epochKeys);
  }

  /** Called by the ring. */
  wipe(): void {
    for (const keys of this.#records.values()) keys.wipe();
    this.#records.clear();
    this.#name = undefined;
    this.#xattrName = undefined;
  }
}
