/**
 * What the storage node needs of a metadata engine. An engine keeps shards; a shard is an ordered map of binary keys to sealed records,
 * with counters beside it, changed by deltas only. Every engine passes conformance.ts.
 *
 * Order inside one delta: checks are evaluated first, then deletePrefixes, deletes, puts and bumps are applied in this order, so that a
 * put wins over a delete of the same key.
 */
import type { Counters, Delta, InodeBundle, ListEntry, StoredRecord } from "../../protocol/messages.ts";

export type MaybePromise<T> = T | Promise<T>;

/** Thrown values of engines are NodeError: no_space, io, damaged, bad_request. */
export interface MetadataEngine {
  /** Names of the tenant's namespaces, sorted. */
  list(tenant: string): string[];
  /** A namespace's shard, made where it does not exist. The same object until it is deleted. */
  open(tenant: string, namespace: string): Promise<Shard>;
  /** Closes and deletes a namespace. Deltas still queued are refused. */
  delete(tenant: string, namespace: string): Promise<void>;
  /** Applies what is queued, checkpoints, closes all shards. */
  close(): Promise<void>;
}

/** What a delta did, or the indexes of the checks that failed (then nothing was applied). */
export type CommitOutcome = { ok: true; seq: number; counters: Counters[]; replayed: boolean } | { ok: false; failed: number[] };

export interface CommitRequest {
  /** 16 bytes; with the delta's id the name under which it is remembered. */
  session: Uint8Array;
  delta: Delta;
  /** Called in the same turn in which the delta became visible to reads, before it is durable. Not called when a check failed. */
  onApplied?: () => void;
}

export interface RangeAnswer {
  records: { key: Uint8Array; record: StoredRecord }[];
  more: boolean;
}

/** What puts say of chunks (32 bytes each, distinct in each list). */
export interface NewChunks {
  /** Named by a record that did not name them before. */
  added: Uint8Array[];
  /** Of these, those to which no record of the shard refers yet. */
  unreferenced: Uint8Array[];
}

/** One applied delta, for those that keep copies. */
export interface ShardEvent {
  seq: number;
  /** Inode numbers whose records or counters the delta touched. */
  inos: number[];
}

/** What a shard holds. */
export interface ShardUsage {
  /** With an attribute record. */
  inodes: number;
  /** Of the values of all records. */
  bytes: number;
}

/** How far a shard has come. Sequence numbers of deltas. */
export interface ShardState {
  /** NAMESPACE_ID_BYTES, random: of this shard alone. */
  id: Uint8Array;
  /** Of the newest. */
  seq: number;
  /** Of the newest that survives power loss. */
  durableSeq: number;
  /** Of the newest when it was opened in this run of the node. */
  recoveredSeq: number;
}

/** Bundles come with `leased: false`: leases are the node's business. */
export interface Shard {
  /** null: they have more than `maxBytes` together, of which no more are read. */
  get(keys: readonly Uint8Array[], maxBytes?: number): MaybePromise<(StoredRecord | null)[] | null>;
  /** from <= key < to (null: no end). Stops at `limit` records or after `maxBytes` of keys and values, whichever is first. */
  range(from: Uint8Array, to: Uint8Array | null, limit: number, maxBytes: number): MaybePromise<RangeAnswer>;
  inode(ino: number, region0MaxBytes: number): MaybePromise<InodeBundle>;
  lookup(key: Uint8Array, region0MaxBytes: number): MaybePromise<{ dentry: StoredRecord | null; inode: InodeBundle | null }>;
  /** Entries with hash > after (16 bytes or empty), in hash order; `region0MaxBytes` null: without inodes. */
  list(
    dir: number,
    after: Uint8Array,
    limit: number,
    maxBytes: number,
    region0MaxBytes: number | null,
  ): MaybePromise<{ entries: ListEntry[]; more: boolean; counters: Counters }>;

  /** Every delta queued in one turn of the event loop becomes one transaction. A durable one resolves when it survives power loss. */
  commit(request: CommitRequest): Promise<CommitOutcome>;
  /** Resolves, with the last sequence number, when every delta applied before survives power loss. */
  sync(): Promise<number>;
  /** Listener for deltas from here on; call the result to stop. */
  watch(listener: (event: ShardEvent) => void): () => void;

  state(): MaybePromise<ShardState>;
  /** Leaves out more sequence and inode numbers than a lost future of this data can have used. */
  skipNumbers(): Promise<void>;
  /** Numbers never handed out before, also not before a crash. */
  grantInos(count: number): Promise<{ first: number; count: number }>;
  usage(): MaybePromise<ShardUsage>;

  newChunks(puts: Delta["puts"]): MaybePromise<NewChunks>;
  /** Whether a record refers to the chunk, or did so within the last `graceMs`. */
  holdsChunk(id: Uint8Array, graceMs: number): MaybePromise<boolean>;
  /** Chunks that records did refer to, and none has for `graceMs`: the longest unreferenced first, `limit` at most. */
  looseChunks(graceMs: number, limit: number): MaybePromise<Uint8Array[]>;
  /** Those of them to which still no record refers are named by looseChunks no more. */
  forgetChunks(ids: readonly Uint8Array[]): Promise<void>;
  /** Forgets the deltas that a session has committed: it has ended. */
  forgetSession(session: Uint8Array): Promise<void>;
  /** Reads everything and compares checksums and reference counts; one line for each damage found. `onChunk` gets each chunk referred to. */
  verify(onChunk: (id: Uint8Array) => void): AsyncIterable<string>;
}

/** The first namespace of every tenant. */
export const DEFAULT_NAMESPACE = "default";
