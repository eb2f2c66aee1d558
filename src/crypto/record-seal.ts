/**
 * Sealed records: what the node stores as the value of an inode, dentry, region or xattr record.
 *
 *     version u8 = 2 | epoch u32 | (attributes only: file id 16) | nonce 12 | ciphertext | tag 16          integers big-endian
 *
 * AES-256-GCM under the record key of the inode that the record's key names (a dentry: of its folder). Nonces are random, 96 bits:
 * the key serves one inode, and 2^32 records of one inode keep the chance of a repeated nonce below 2^-32 (NIST SP 800-38D, 8.3).
 * AAD = version u8, epoch u32, length of the namespace name u8, the name, link u64, file id, record key. So the node can't move a value to another
 * record, namespace or epoch, nor make a dentry lead to another inode; and what was sealed for a file opens for no other that ever has the same
 * number. (The file id of a dentry's AAD is its folder's.) It can answer with an older value of the same record: what notices that stands in the
 * attributes (fs/records/inode-record.ts). Attributes carry their file id in clear, so that they can be opened by who knows only a number.
 */
import { createCipheriv, createDecipheriv, randomFillSync } from "node:crypto";
import { readU32, writeU32, writeU64 } from "../protocol/big-endian.ts";
import { RECORD_KEY_MAX_BYTES, TAG_BYTES } from "../protocol/limits.ts";
import { INODE_SUB_ATTR, inodeOfKey, KEY_KIND_INODE } from "../protocol/record-keys.ts";
import { FILE_ID_BYTES, type FileId } from "./file-id.ts";
import { IntegrityError } from "./integrity-error.ts";
import { type NamespaceKeys, RECORD_VERSION, type RecordKeys } from "./namespace-keys.ts";
import { prefixViews } from "./scratch.ts";

const NONCE_BYTES = 12;
const NONCE_OFFSET = 5;
const CIPHERTEXT_OFFSET = NONCE_OFFSET + NONCE_BYTES;
/** Where the file id of attributes stands; all that follows comes after it. */
const FILE_ID_OFFSET = NONCE_OFFSET;
/** What sealing adds to a record; to attributes FILE_ID_BYTES more. */
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

const AAD_MAX_BYTES = 6 + 255 + 8 + FILE_ID_BYTES + RECORD_KEY_MAX_BYTES;
/** aadViews[n]: the first n bytes of one scratch buffer. */
const aadViews = prefixViews(AAD_MAX_BYTES);
const aad = aadViews[AAD_MAX_BYTES] as Uint8Array;

/** The AAD of a record, as a view of the scratch buffer. */
function recordAad(keys: RecordKeys, recordKey: Uint8Array, link: number, fileId: FileId): Uint8Array {
  if (recordKey.length > RECORD_KEY_MAX_BYTES) {
    throw new RangeError(`record key: expected at most ${RECORD_KEY_MAX_BYTES} bytes, got ${recordKey.length}`);
  }
  const prefix = keys.aadPrefix;
  aad.set(prefix);
  writeU64(aad, prefix.length, link);
  const fileIdAt = prefix.length + 8;
  for (let i = 0; i < FILE_ID_BYTES; i++) aad[fileIdAt + i] = fileId.charCodeAt(i);
  aad.set(recordKey, fileIdAt + FILE_ID_BYTES);
  return aadViews[fileIdAt + FILE_ID_BYTES + recordKey.length] as Uint8Array;
}

/** Whether a key is that of an inode's attributes, which carry their file id. */
function carriesFileId(recordKey: Uint8Array): boolean {
  return recordKey[0] === KEY_KIND_INODE && recordKey[9] === INODE_SUB_ATTR;
}

/**
 * Seals a record's plaintext for the place that `recordKey` (record-keys.ts) and `link` (its clear inode number, or 0) name.
 * @param fileId of the inode that `recordKey` belongs to (of a dentry: the folder)
 * @returns a new array, RECORD_OVERHEAD_BYTES longer than `plaintext`, attributes FILE_ID_BYTES more
 */
export function sealRecord(keys: NamespaceKeys, recordKey: Uint8Array, link: number, fileId: FileId, plaintext: Uint8Array): Uint8Array {
  if (fileId.length !== FILE_ID_BYTES) throw new RangeError(`file id: expected ${FILE_ID_BYTES} bytes, got ${fileId.length}`);
  const epochKeys = keys.sealing;
  const shift = carriesFileId(recordKey) ? FILE_ID_BYTES : 0;
  const sealed = new Uint8Array(plaintext.length + RECORD_OVERHEAD_BYTES + shift);
  sealed[0] = RECORD_VERSION;
  writeU32(sealed, 1, epochKeys.epoch);
  for (let i = 0; i < shift; i++) sealed[FILE_ID_OFFSET + i] = fileId.charCodeAt(i);
  nextNonce();
  sealed.set(nonce, NONCE_OFFSET + shift);
  const cipher = createCipheriv("aes-256-gcm", epochKeys.key(inodeOfKey(recordKey)), nonce);
  cipher.setAAD(recordAad(epochKeys, recordKey, link, fileId));
  sealed.set(cipher.update(plaintext), CIPHERTEXT_OFFSET + shift);
  // GCM is a stream mode: final() has no bytes, it makes the tag.
  cipher.final();
  sealed.set(cipher.getAuthTag(), CIPHERTEXT_OFFSET + shift + plaintext.length);
  return sealed;
}

/**
 * Opens what sealRecord made for the same namespace, record key, link and file id.
 * @throws IntegrityError when the bytes are not that
 */
export function openRecord(keys: NamespaceKeys, recordKey: Uint8Array, link: number, fileId: FileId, sealed: Uint8Array): Uint8Array {
  const shift = carriesFileId(recordKey) ? FILE_ID_BYTES : 0;
  if (sealed.length < RECORD_OVERHEAD_BYTES + shift) throw new IntegrityError("a sealed record is too short");
  if (sealed[0] !== RECORD_VERSION) throw new IntegrityError(`a sealed record has an unknown format version: ${sealed[0]}`);
  for (let i = 0; i < shift; i++) {
    if (sealed[FILE_ID_OFFSET + i] !== fileId.charCodeAt(i)) throw new IntegrityError("sealed attributes are another file's");
  }
  const epochKeys = keys.opening(readU32(sealed, 1));
  const tagAt = sealed.length - TAG_BYTES;
  for (let i = 0; i < NONCE_BYTES; i++) nonce[i] = sealed[NONCE_OFFSET + shift + i] as number;
  for (let i = 0; i < TAG_BYTES; i++) tag[i] = sealed[tagAt + i] as number;
  const decipher = createDecipheriv("aes-256-gcm", epochKeys.key(inodeOfKey(recordKey)), nonce);
  decipher.setAAD(recordAad(epochKeys, recordKey, link, fileId));
  decipher.setAuthTag(tag);
  const plaintext = decipher.update(sealed.subarray(CIPHERTEXT_OFFSET + shift, tagAt));
  try {
    decipher.final();
  } catch {
    throw new IntegrityError("a sealed record does not open: it was changed, or belongs elsewhere");
  }
  return plaintext;
}

/** The epoch that a sealed record names; null: the bytes are no such record. */
export function epochOfRecord(sealed: Uint8Array): number | null {
  return sealed.length >= RECORD_OVERHEAD_BYTES && sealed[0] === RECORD_VERSION ? readU32(sealed, 1) : null;
}

/**
 * The file id that an inode's sealed attributes carry. It is true when openRecord opens them with it.
 * @throws IntegrityError when the bytes are too short
 */
export function carriedFileId(sealed: Uint8Array): FileId {
  if (sealed.length < RECORD_OVERHEAD_BYTES + FILE_ID_BYTES) throw new IntegrityError("a sealed record is too short");
  return Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength).toString(
    "latin1",
    FILE_ID_OFFSET,
    FILE_ID_OFFSET + FILE_ID_BYTES,
  );
}
