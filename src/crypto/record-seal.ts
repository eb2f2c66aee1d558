/**
 * Sealed records: what the node stores as the value of an inode, dentry, region or xattr record.
 *
 *     version u8 = 1 | epoch u32 | nonce 12 | ciphertext | tag 16          integers big-endian
 *
 * AES-256-GCM under the record key of the inode that the record's key names (a dentry: of its folder). Nonces are random, 96 bits:
 * the key serves one inode, and 2^32 records of one inode keep the chance of a repeated nonce below 2^-32 (NIST SP 800-38D, 8.3).
 * AAD = version u8, epoch u32, length of the namespace name u8, the name, link u64, record key. So the node can't move a value to another
 * record, namespace or epoch, nor make a dentry lead to another inode. It can answer with an older value of the same record.
 */
import { createCipheriv, createDecipheriv, randomFillSync } from "node:crypto";
import { readU32, writeU32, writeU64 } from "../protocol/big-endian.ts";
import { RECORD_KEY_MAX_BYTES, TAG_BYTES } from "../protocol/limits.ts";
import { inodeOfKey } from "../protocol/record-keys.ts";
import { IntegrityError } from "./integrity-error.ts";
import { type NamespaceKeys, RECORD_VERSION, type RecordKeys } from "./namespace-keys.ts";
import { prefixViews } from "./scratch.ts";

const NONCE_BYTES = 12;
const NONCE_OFFSET = 5;
const CIPHERTEXT_OFFSET = NONCE_OFFSET + NONCE_BYTES;
/** What sealing adds to a record. */
export const RECORD_OVERHEAD_BYTES = CIPHERTEXT_OFFSET + TAG_BYTES;

// createCipheriv, update, final and getAuthTag are 0.9 us whatever the length, so the rest stays off the heap: scratch buffers, one set
// a thread, since nothing here awaits. A subarray of a small fresh array is avoided for a reason: it moves the array out of the
// JavaScript heap, which costs 0.25 us. Random bytes come from a pool: a randomFillSync a nonce would be 0.55 us, pooled it is 0.003.
const nonce = new Uint8Array(NONCE_BYTES);
const tag = new Uint8Array(TAG_BYTES);
const NONCES_PER_FILL = 512;
const randomPool = new Uint8Array(NONCE_BYTES * NONCES_PER_FILL);
let randomUsed = randomPool.length;

function nextNonce(): void {
  if (randomUsed === randomPool.length) {
    randomFillSync(randomPool);
    randomUsed = 0;
  }
  for (let i = 0; i < NONCE_BYTES; i++) nonce[i] = randomPool[randomUsed++] as number;
}

const AAD_MAX_BYTES = 6 + 255 + 8 + RECORD_KEY_MAX_BYTES;
/** aadViews[n]: the first n bytes of one scratch buffer. */
const aadViews = prefixViews(AAD_MAX_BYTES);
const aad = aadViews[AAD_MAX_BYTES] as Uint8Array;

/** The AAD of a record, as a view of the scratch buffer. */
function recordAad(keys: RecordKeys, recordKey: Uint8Array, link: number): Uint8Array {
  if (recordKey.length > RECORD_KEY_MAX_BYTES) {
    throw new RangeError(`record key: expected at most ${RECORD_KEY_MAX_BYTES} bytes, got ${recordKey.length}`);
  }
  const prefix = keys.aadPrefix;
  aad.set(prefix);
  writeU64(aad, prefix.length, link);
  aad.set(recordKey, prefix.length + 8);
  return aadViews[prefix.length + 8 + recordKey.length] as Uint8Array;
}

/**
 * Seals a record's plaintext for the place that `recordKey` (record-keys.ts) and `link` (its clear inode number, or 0) name.
 * @returns a new array, RECORD_OVERHEAD_BYTES longer than `plaintext`
 */
export function sealRecord(keys: NamespaceKeys, recordKey: Uint8Array, link: number, plaintext: Uint8Array): Uint8Array {
  const epochKeys = keys.sealing;
  const sealed = new Uint8Array(plaintext.length + RECORD_OVERHEAD_BYTES);
  sealed[0] = RECORD_VERSION;
  writeU32(sealed, 1, epochKeys.epoch);
  nextNonce();
  sealed.set(nonce, NONCE_OFFSET);
  const cipher = createCipheriv("aes-256-gcm", epochKeys.key(inodeOfKey(recordKey)), nonce);
  cipher.setAAD(recordAad(epochKeys, recordKey, link));
  sealed.set(cipher.update(plaintext), CIPHERTEXT_OFFSET);
  // GCM is a stream mode: final() has no bytes, it makes the tag.
  cipher.final();
  sealed.set(cipher.getAuthTag(), CIPHERTEXT_OFFSET + plaintext.length);
  return sealed;
}

/**
 * Opens what sealRecord made for the same namespace, record key and link.
 * @throws IntegrityError when the bytes are not that
 */
export function openRecord(keys: NamespaceKeys, recordKey: Uint8Array, link: number, sealed: Uint8Array): Uint8Array {
  if (sealed.length < RECORD_OVERHEAD_BYTES) throw new IntegrityError("a sealed record is too short");
  if (sealed[0] !== RECORD_VERSION) throw new IntegrityError(`a sealed record has an unknown format version: ${sealed[0]}`);
  const epochKeys = keys.opening(readU32(sealed, 1));
  const tagAt = sealed.length - TAG_BYTES;
  for (let i = 0; i < NONCE_BYTES; i++) nonce[i] = sealed[NONCE_OFFSET + i] as number;
  for (let i = 0; i < TAG_BYTES; i++) tag[i] = sealed[tagAt + i] as number;
  const decipher = createDecipheriv("aes-256-gcm", epochKeys.key(inodeOfKey(recordKey)), nonce);
  decipher.setAAD(recordAad(epochKeys, recordKey, link));
  decipher.setAuthTag(tag);
  const plaintext = decipher.update(sealed.subarray(CIPHERTEXT_OFFSET, tagAt));
  try {
    decipher.final();
  } catch {
    throw new IntegrityError("a sealed record does not open: it was changed, or belongs elsewhere");
  }
  return plaintext;
}
