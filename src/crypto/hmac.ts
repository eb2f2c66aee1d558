/** HMAC-SHA256 and HKDF-SHA256 (RFC 2104, RFC 5869) on Bun's native hasher, for many short messages under one key. */
import { createHmac } from "node:crypto";

const SHA256_BYTES = 32;

/**
 * A keyed hasher whose two key blocks are hashed once. Measured with a 28-byte message: `copy`, `update`, `digest` into a
 * buffer 0.3 us, node:crypto's createHmac 0.7 us.
 */
export class HmacSha256 {
  readonly #keyed: Bun.CryptoHasher;

  /** The key can have any length; it is copied. */
  constructor(key: Uint8Array) {
    this.#keyed = new Bun.CryptoHasher("sha256", key);
  }

  /** The MAC of one message, as a view of a buffer that the next call overwrites. */
  digestShared(message: Uint8Array): Uint8Array {
    const hasher = this.#keyed.copy();
    hasher.update(message);
    hasher.digest(sharedDigest64);
    return sharedDigest;
  }
}

// Bun refuses to write a keyed digest into fewer than 64 bytes, whatever the hash's own length.
const sharedDigest64 = new Uint8Array(64);
const sharedDigest = sharedDigest64.subarray(0, SHA256_BYTES);

/**
 * HKDF-Extract: a pseudorandom key of 32 bytes. An empty salt stands for 32 zero bytes, as in the RFC. By node:crypto, which overwrites its state
 * when it is done: Bun's hasher leaves the key material in memory that it has freed.
 */
export function hkdfExtract(salt: Uint8Array, keyMaterial: Uint8Array): Uint8Array {
  return createHmac("sha256", salt.length === 0 ? new Uint8Array(SHA256_BYTES) : salt)
    .update(keyMaterial)
    .digest();
}

/** HKDF-Expand for exactly 32 bytes, which is one HMAC: T(1) = HMAC(prk, info | 0x01). */
export function hkdfExpand32(prk: HmacSha256, info: Uint8Array): Uint8Array {
  const message = new Uint8Array(info.length + 1);
  message.set(info);
  message[info.length] = 1;
  return prk.digestShared(message).slice();
}
