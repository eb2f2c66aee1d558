/** Limits that client and storage node agree on. Each has its unit in its name and its reason beside it. */

export const KIB = 1024;
export const MIB = 1024 * KIB;

/** Plaintext bytes of one chunk at most: large enough that per-chunk costs vanish, small enough to buffer dozens. */
export const CHUNK_MAX_BYTES = 4 * MIB;
/** Chunk plaintext is sealed in blocks of this size, so that 4 KiB can be read without opening 4 MiB. */
export const BLOCK_BYTES = 64 * KIB;
/** AES-256-GCM tag, one after each sealed block or record (NIST SP 800-38D). */
export const TAG_BYTES = 16;
/** A chunk id is an HMAC-SHA256: crypto/chunk-seal.ts. */
export const CHUNK_ID_BYTES = 32;
/** Chunks are listed, and collected, in this many parts: by the first byte of their ids. */
export const CHUNK_PARTS = 256;
/** Clear header in front of a sealed chunk; see crypto/chunk-seal.ts. */
export const CHUNK_HEADER_BYTES = 32;
/** A whole sealed chunk: header, blocks, one tag a block. */
export const SEALED_CHUNK_MAX_BYTES = CHUNK_HEADER_BYTES + CHUNK_MAX_BYTES + (CHUNK_MAX_BYTES / BLOCK_BYTES) * TAG_BYTES;

/** One sealed record value at most: an extent region with 64 KiB inline data and 16,384 extents is about 1 MiB. */
export const RECORD_MAX_BYTES = 2 * MIB;
/** A record key at most: kind, inode, sub key and a 16-byte hash need 33. */
export const RECORD_KEY_MAX_BYTES = 64;
/** Chunk ids that one record may refer to (one per 4 KiB page of a 64 MiB region). */
export const RECORD_CHUNKS_MAX = 16_384;
/** Checks, puts, deletes and bumps of one commit together: bounds a transaction's time, 10 us for each. */
export const COMMIT_ITEMS_MAX = 1_024;
/**
 * What the records of one commit come to: a transaction can't be interrupted for others. Bytes of their values (of one record, and what a client
 * gathered before it): some 10 ms. References to chunks: as many as two regions can have, some 60 ms; with chunks of 4 MiB a region has 16.
 */
export const COMMIT_VALUES_MAX_BYTES = RECORD_MAX_BYTES + 1.25 * MIB;
export const COMMIT_CHUNKS_MAX = 2 * RECORD_CHUNKS_MAX;
/** A client begins another commit from here on. */
export const COMMIT_TARGET_BYTES = MIB;
export const COMMIT_TARGET_CHUNKS = 1_024;
/** Keys of one get: 3 us for each. */
export const GET_KEYS_MAX = 1_024;
/** Records in one answer to get, range or list. */
export const ANSWER_RECORDS_MAX = 4_096;
/** Answers stop growing after this many bytes and say that there is more. */
export const ANSWER_TARGET_BYTES = 1 * MIB;
/** Inode numbers in one leaseRelease or recall. */
export const LEASE_INOS_MAX = 4_096;
/** Chunk ids in one chunkRelease. */
export const CHUNK_RELEASE_MAX = 4_096;
/** Namespaces of one tenant at most: they come in one answer. */
export const NAMESPACES_MAX = 4_096;
/** Key epochs of one tenant at most: they come in one answer. */
export const KEY_EPOCHS_MAX = 4_096;
/** One wrapped data key (AES-KW of 32 bytes is 40), with room for other wrappings. */
export const WRAPPED_KEY_MAX_BYTES = 256;
/** Inode numbers granted at once at most. */
export const INO_GRANT_MAX = 65_536;

/** The msgpack header of one frame at most: a commit with several large records. */
export const FRAME_HEADER_MAX_BYTES = 8 * MIB;
/** Header and body of a frame before hello was answered: hello itself has some 200 bytes, and nobody is known yet. */
export const HELLO_PART_MAX_BYTES = 64 * KIB;
/** The raw body of one frame at most: one sealed chunk. */
export const FRAME_BODY_MAX_BYTES = SEALED_CHUNK_MAX_BYTES;
/** Requests in flight per connection at most; the node stops reading beyond it. */
export const IN_FLIGHT_MAX = 1_024;

/** Tenant and namespace names: what fits a file name, a URI segment and a log line. */
export const TENANT_NAME_PATTERN = /^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/;
export const NAMESPACE_NAME_PATTERN = TENANT_NAME_PATTERN;

/** What a client calls its job, so that a policy can apply to it: like a tenant's name, and capitals, as batch systems have them. */
export const WORKLOAD_NAME_PATTERN = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/;

/** Session ids are random, made by the client process. */
export const SESSION_ID_BYTES = 16;
/** Instance ids of data folders, and ids of their starts, are random. */
export const INSTANCE_ID_BYTES = 16;
/** Namespaces that one hello asks about: it is at most HELLO_PART_MAX_BYTES long. */
export const HELLO_NAMESPACES_MAX = 512;
/** Ids of namespaces. */
export const NAMESPACE_ID_BYTES = 8;
/** Inode numbers stay below 2^40, so that (namespace index, inode) fits a JavaScript integer. */
export const INO_MAX = 2 ** 40 - 1;
/** The root folder of each namespace (FUSE_ROOT_ID). */
export const ROOT_INO = 1;

/** A lease lasts this long after the last request that the node answered; a commit waits at most this long for a silent holder. */
export const LEASE_MS = 5_000;
/** A session that is silent for this long is ended: its deleted-but-open files go. */
export const SESSION_TIMEOUT_MS = 60_000;

/** Fabrics that a node offers. */
export const FABRICS_MAX = 16;
/** An endpoint's address: some 60 bytes in the longest known kind. */
export const FABRIC_NAME_MAX_BYTES = 256;
/** AES-256-GMAC. */
export const MAC_KEY_BYTES = 32;
/** Memory of one connection that a node may write to. */
export const RDMA_MEMORY_MAX_BYTES = 256 * MIB;
/** How long a node's answer to discover holds. */
export const DISCOVER_TTL_MS = 60_000;
