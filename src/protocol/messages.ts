/**
 * What client and storage node say to each other: the operations, and the shape of each request and answer. The bytes are
 * made and checked in codec.ts, the frames in frame.ts. The tenant is never in a message: it comes from the certificate.
 *
 * A shard is an ordered map from binary keys (record-keys.ts) to records. The node never opens a value.
 */

import type { EffectivePolicy } from "./policy.ts";

export const PROTOCOL_VERSION = 6;

/** Operation codes, one byte in the frame header. An answer carries the code of its request. */
export const Op = {
  hello: 1,
  ping: 2,
  bye: 3,
  keyList: 10,
  keyPut: 11,
  keyShred: 12,
  namespaceList: 20,
  namespaceCreate: 21,
  namespaceDelete: 22,
  namespaceState: 26,
  statfs: 23,
  policyGet: 24,
  gc: 25,
  credit: 27,
  tenantLimit: 28,
  inoGrant: 30,
  get: 31,
  inode: 32,
  lookup: 33,
  list: 34,
  range: 35,
  commit: 36,
  sync: 37,
  leaseRelease: 40,
  /** Node to client: leases that another session's commit ended; the client answers when its caches have let go. */
  recall: 41,
  chunkPut: 50,
  chunkGet: 51,
  chunkRelease: 52,
  discover: 60,
  rdmaOpen: 61,
  rdmaProbe: 62,
  rdmaPut: 63,
  rdmaGet: 64,
} as const;
export type OpName = keyof typeof Op;

/** Why the node refused a request. The text beside it is for logs; code that decides uses only this word. */
export const NODE_ERRORS = [
  "bad_request", // malformed or beyond a limit; never retried
  "not_authorized", // the certificate does not allow it
  "not_found", // no such namespace, chunk or session
  "exists", // namespace or key epoch exists already
  "not_empty", // namespace holds data
  "missing_chunk", // a commit refers to a chunk that the node does not hold: upload it again
  "no_space", // the node's disk is full
  "io", // the node's disk failed
  "damaged", // stored bytes fail the node's own checksum
  "over_quota", // the tenant has as much as it may: delete something
  "too_many", // the tenant has as many connections or sessions as it may
  "shutting_down", // try again, the node restarts
  "session_lost", // hello first
  "fabric", // the fabric did not carry a body: send it with the request
  "key_revoked", // the tenant's data keys were destroyed (keyShred): nothing of it can be opened any more, ever
] as const;
export type NodeErrorCode = (typeof NODE_ERRORS)[number];

/** One record of a shard. `version` is the sequence number of the delta that wrote it. */
export interface StoredRecord {
  version: number;
  /** A clear inode number that the node may follow (dentry -> inode), or 0. */
  link: number;
  value: Uint8Array;
}

/** A folder's counters, kept by the node in clear because changes to them must commute. Zero where never bumped. */
export interface Counters {
  /** Sum of bumps: subfolders. A folder's nlink is 2 + links. */
  links: number;
  /** Sum of bumps: entries. */
  entries: number;
  /** Greatest time given in a bump: ns since the epoch, in two parts because it exceeds 2^53. */
  mtimeSec: number;
  mtimeNsec: number;
  /** Number of deltas that have bumped it; tells a client whether it has missed one. */
  bumps: number;
}

/** An inode as one answer brings it. `attr` null: no such inode. `region0` null: none, too large, or not asked for. */
export interface InodeBundle {
  ino: number;
  attr: StoredRecord | null;
  counters: Counters | null;
  region0: StoredRecord | null;
  /** The node remembers that this session caches the inode, and recalls it before another session's change is answered. */
  leased: boolean;
}

/** How much of an inode an answer brings. */
export interface InodeWant {
  lease: boolean;
  /** Bring region 0 where its value has at most this many bytes; 0: never. */
  region0MaxBytes: number;
}

export type Check =
  | { kind: "version"; key: Uint8Array; version: number }
  | { kind: "absent"; key: Uint8Array }
  | { kind: "present"; key: Uint8Array }
  /** No key starts with the prefix (a folder is empty). */
  | { kind: "empty"; prefix: Uint8Array }
  /** The folder's counters have been bumped exactly `bumps` times. */
  | { kind: "bumps"; ino: number; bumps: number };

export interface Put {
  key: Uint8Array;
  link: number;
  /** The chunks that this record refers to, 32 bytes each, distinct; the node counts references by them. */
  chunks: Uint8Array[];
  value: Uint8Array;
}

/** Commutative change of a folder's counters. Time: the node keeps the greater of its own and this. */
export interface Bump {
  ino: number;
  links: number;
  entries: number;
  mtimeSec: number;
  mtimeNsec: number;
}

/** One atomic mutation: applied whole if every check holds, else not at all. */
export interface Delta {
  /** Per session, rising; a delta that was applied is not applied again. */
  id: number;
  /** Every id below this one has been answered: the node may forget it. */
  answeredBelow: number;
  checks: Check[];
  puts: Put[];
  deletes: Uint8Array[];
  /** Every record whose key starts with one of these goes; for an inode prefix its counters go too. */
  deletePrefixes: Uint8Array[];
  bumps: Bump[];
  /** Inodes that the session will cache from here on, as if asked for with `lease` (those that this delta makes, say). */
  leases: number[];
  /** Answer only when this delta, and all before it, survive power loss. */
  durable: boolean;
}

export type CommitResult =
  | {
      ok: true;
      seq: number;
      /** The new counters, in the order of `bumps`. */
      counters: Counters[];
      /** Those of `leases` that were granted. */
      leased: number[];
      /** This id had been applied before; `counters` are today's. */
      replayed: boolean;
    }
  /** Indexes into `checks` of those that did not hold; nothing was applied. */
  | { ok: false; failed: number[] };

export interface ListEntry {
  /** The 16-byte name hash: the position in the folder's order. */
  hash: Uint8Array;
  dentry: StoredRecord;
  /** null where `inodes` was not asked for. */
  inode: InodeBundle | null;
}

/** How far a namespace has come on the node that says so. Sequence numbers of deltas. */
export interface NamespaceState {
  name: string;
  /** NAMESPACE_ID_BYTES, random: another namespace of the same name has another one. */
  id: Uint8Array;
  /** Of the newest delta. */
  seq: number;
  /** Of the newest delta that is known to survive power loss. */
  durableSeq: number;
  /** Of the newest delta that was there at each start since the one that hello named; 0: nobody knows. */
  recoveredSeq: number;
}

/** Which data a node has, and how it has come to it. */
export interface StoreState {
  /** INSTANCE_ID_BYTES of the data folder; another one after `kiseki serve --restored`. */
  instance: Uint8Array;
  /** Number of the present start: each is one greater than the one before. */
  start: number;
  /** Random INSTANCE_ID_BYTES of the present start. */
  startId: Uint8Array;
  /** The start that hello named is one of this data's: false when a backup from before it was restored. True where it named none. */
  knowsLastStart: boolean;
  /** Those that hello asked about. */
  namespaces: NamespaceState[];
}

/** What a search for chunks without reference has found; bytes as sealed. */
export interface GcReport {
  /** Looked at. */
  chunks: number;
  bytes: number;
  /** Deleted, or to be deleted. */
  freedChunks: number;
  freedBytes: number;
  /** Without reference, but held by a session, or put or named by a record a moment ago. */
  keptChunks: number;
  keptBytes: number;
}

/** A fabric by which a node moves bodies: libfabric's name of the provider, and of the domain (device) that the node uses. */
export interface FabricOffer {
  provider: string;
  domain: string;
}

/** A body in the client's memory. */
export interface RdmaBody {
  /** From the start of the memory. */
  at: number;
  bytes: number;
  /** Each counter once under one key: it is the nonce. */
  counter: number;
  /** AES-256-GMAC of the body under the macKey of rdmaOpen, nonce = counter as 96 bits. */
  mac: Uint8Array;
}

/** What a tenant's limits count. */
export const COUNTED = ["bytes", "inodes", "namespaces"] as const;
export type Counted = (typeof COUNTED)[number];

/** Requests and answers by operation. `body` is the raw part of the frame. */
export interface Messages {
  hello: {
    /**
     * `lastStart`: startId that the client was answered last, empty where it was answered none. `namespaces`: those whose state it wants to compare
     * with what it knows; those that are not there any more are left out of the answer.
     */
    request: {
      protocol: number;
      sessionId: Uint8Array;
      clientVersion: string;
      role: "meta" | "data";
      lastStart: Uint8Array;
      namespaces: string[];
    };
    answer: { nodeVersion: string; cluster: string; tenant: string; leaseMs: number; resumed: boolean; store: StoreState };
  };
  ping: { request: Record<string, never>; answer: Record<string, never> };
  bye: { request: Record<string, never>; answer: Record<string, never> };
  /** Wrapped data keys of the tenant: opaque to the node. */
  keyList: { request: Record<string, never>; answer: { keys: { epoch: number; wrapped: Uint8Array }[] } };
  keyPut: { request: { epoch: number; wrapped: Uint8Array }; answer: Record<string, never> };
  /**
   * Destroys all wrapped data keys of the tenant, for good and before it is answered. Everything that the tenant asks from then on, hello
   * included, is refused as "key_revoked". `keys`: how many there were.
   */
  keyShred: { request: Record<string, never>; answer: { keys: number } };
  namespaceList: { request: Record<string, never>; answer: { names: string[] } };
  namespaceCreate: { request: { name: string }; answer: Record<string, never> };
  namespaceDelete: { request: { name: string; force: boolean }; answer: Record<string, never> };
  /** How far the namespace is now; `recoveredSeq` is `seq`. */
  namespaceState: { request: { ns: string }; answer: { state: NamespaceState } };
  statfs: { request: { ns: string }; answer: { totalBytes: number; freeBytes: number; inodes: number; freeInodes: number | null } };
  /** Changes what the tenant may store (null: no limit; undefined: as it is), which needs a certificate of who holds the CA; answers with what holds. */
  tenantLimit: {
    request: Record<Counted, number | null | undefined>;
    answer: { limits: Record<Counted, number | null>; used: Record<Counted, number> };
  };
  /**
   * From now on the session holds `bytes` of credit, or fewer where fewer are free (never fewer than it held, unless it asks for fewer): what it
   * puts and commits uses it up, and it counts as used for all others. `needed`: with fewer than these it can't go on; near the end of the space it
   * is granted little more. `overQuota`: fewer than `needed`, because of the tenant's limit and not of the disk.
   */
  credit: { request: { bytes: number; needed: number }; answer: { granted: number; overQuota: boolean } };
  /**
   * What applies to a session of these namespaces (none: all that the tenant has) that calls itself `workload` ("": nothing): the
   * narrowest where they differ. A node of before 0.2 does not know the question and closes the connection.
   */
  policyGet: { request: { namespaces: string[]; workload: string }; answer: { policy: EffectivePolicy } };
  inoGrant: { request: { ns: string; count: number }; answer: { first: number; count: number } };
  get: { request: { ns: string; keys: Uint8Array[] }; answer: { records: (StoredRecord | null)[] } };
  inode: { request: { ns: string; ino: number; want: InodeWant }; answer: { inode: InodeBundle } };
  /** One round trip from a name to the inode. `inode` is null when there is no such entry. */
  lookup: {
    request: { ns: string; key: Uint8Array; want: InodeWant; leaseParent: boolean };
    answer: { dentry: StoredRecord | null; inode: InodeBundle | null; parentLeased: boolean };
  };
  /** Entries of a folder in hash order, those with hash > after (empty: from the start). */
  list: {
    request: { ns: string; dir: number; after: Uint8Array; limit: number; inodes: boolean; want: InodeWant; leaseDir: boolean };
    answer: { entries: ListEntry[]; more: boolean; counters: Counters; dirLeased: boolean };
  };
  /** Records with from <= key < to (empty `to`: no end), in key order. */
  range: {
    request: { ns: string; from: Uint8Array; to: Uint8Array; limit: number };
    answer: { records: { key: Uint8Array; record: StoredRecord }[]; more: boolean };
  };
  commit: { request: { ns: string; delta: Delta }; answer: CommitResult };
  /** Answers when every delta answered before it survives power loss. */
  sync: { request: { ns: string }; answer: { seq: number } };
  leaseRelease: { request: { ns: string; inos: number[] }; answer: Record<string, never> };
  recall: { request: { ns: string; inos: number[] }; answer: Record<string, never> };
  /** Deletes those chunks whose ids begin with the byte `part` that nothing refers to and nobody holds; `dryRun`: says what it would delete. */
  gc: { request: { part: number; dryRun: boolean }; answer: GcReport };
  /** Body: the sealed chunk. It is kept for the session until this commits a record that names it, or releases it. */
  chunkPut: { request: { id: Uint8Array }; answer: { existed: boolean } };
  /** Puts that the session will not commit: one for each id, which may come several times. */
  chunkRelease: { request: { ids: Uint8Array[] }; answer: Record<string, never> };
  /** Answer's body: `length` bytes of the sealed chunk from `offset`, fewer at its end. */
  chunkGet: { request: { id: Uint8Array; offset: number; length: number }; answer: { totalBytes: number } };
  /** The fabrics by which the node can move the bodies of chunks, best first; how long that holds. */
  discover: { request: Record<string, never>; answer: { fabrics: FabricOffer[]; ttlMs: number } };
  /**
   * From now on the node may write to, and read from, `bytes` of the client's memory: RDMA to the endpoint `name` of the provider, from `base` on, under
   * `key`. One for each connection; another one takes its place. `macKey`: what puts are checked with.
   */
  rdmaOpen: {
    /** `domain`: one of those that discover answered for the provider; empty: the first. */
    request: { provider: string; domain: string; name: Uint8Array; base: Uint8Array; key: Uint8Array; bytes: number; macKey: Uint8Array };
    /** The node's end of a connected path; empty: the fabric has no connections. */
    answer: { name: Uint8Array };
  };
  /** The node fetches `bytes` from the start of the client's memory, checks them, and places them behind themselves. */
  rdmaProbe: { request: RdmaBody; answer: Record<string, never> };
  /** chunkPut, with the body at `at` in the client's memory. */
  rdmaPut: { request: { id: Uint8Array; body: RdmaBody }; answer: { existed: boolean } };
  /** chunkGet, with the answer's body placed at `at` in the client's memory; `placed`: how many bytes. */
  rdmaGet: {
    request: { id: Uint8Array; offset: number; length: number; at: number };
    answer: { totalBytes: number; placed: number };
  };
}
export type RequestOf<O extends OpName> = Messages[O]["request"];
export type AnswerOf<O extends OpName> = Messages[O]["answer"];
