/**
 * What the parts of a rewrite share. This folder seals anew, under the newest data key, what a namespace has sealed under earlier ones
 * (kiseki tenant rotate --rewrite), beside mounts that go on. It keeps nothing: what is of the newest epoch already is left alone, so that whoever
 * begins again goes on where another one was interrupted.
 */
import type { NamespaceKeys } from "../../crypto/namespace-keys.ts";
import { epochOfRecord } from "../../crypto/record-seal.ts";
import { NodeError } from "../../protocol/errors.ts";
import type { AnswerOf, StoredRecord } from "../../protocol/messages.ts";
import { FsError } from "../posix/errno.ts";
import type { NodeCalls } from "../shard/node-calls.ts";
import type { Change, ChangeResult, Shard } from "../shard/shard.ts";
import type { ChunkMover } from "./chunk-mover.ts";
import type { Pace } from "./pace.ts";

/** Records in one answer: most answers end at ANSWER_TARGET_BYTES. */
const RECORDS_PER_ANSWER = 1_024;
/** What a record costs beside its bytes, in bytes that could have been moved meanwhile: a small commit takes the node some 40 us. */
const RECORD_COST_BYTES = 4_096;

/** Why something stays under an earlier key. */
export type SkipReason = "damaged" | "busy";

/** Records that were sealed anew, with the checks that they are what they were. */
type MovedRecords = Required<Pick<Change, "checks" | "puts">>;

/** What has been moved so far. */
export interface RewriteTally {
  records: number;
  chunks: number;
  /** Plaintext bytes of the chunks. */
  bytes: number;
}

export interface RewriteTools {
  readonly calls: Pick<NodeCalls, "call">;
  readonly keys: NamespaceKeys;
  readonly shard: Shard;
  readonly mover: ChunkMover;
  readonly pace: Pace;
  readonly tally: Pick<RewriteTally, "records">;
  /** By inode number: what could not be moved in this pass; a name counts for its folder. */
  readonly skipped: Map<number, SkipReason>;
  readonly stop: AbortSignal;
}

export type KeyedRecord = AnswerOf<"range">["records"][number];

/** Whether a record has to be sealed anew; also where nobody can say, since it is none. */
export function isOldRecord(keys: NamespaceKeys, record: StoredRecord): boolean {
  return (epochOfRecord(record.value) ?? 0) < keys.sealing.epoch;
}

/** The records with from <= key < to, in key order, a page at a time; ends early when the rewrite is to stop. */
export async function* pages({ calls, keys, stop }: RewriteTools, from: Uint8Array, to: Uint8Array): AsyncGenerator<KeyedRecord[]> {
  for (let at = from, more = true; more && !stop.aborted; ) {
    const { answer } = await calls.call("range", { ns: keys.namespace, from: at, to, limit: RECORDS_PER_ANSWER });
    const last = answer.records.at(-1);
    if (last === undefined) return;
    at = afterKey(last.key);
    more = answer.more;
    yield answer.records;
  }
}

/** The smallest key above this one. */
export function afterKey(key: Uint8Array): Uint8Array {
  return Buffer.concat([key, new Uint8Array(1)]);
}

/**
 * Commits records that were sealed anew. null: one of their chunks is gone, and has to be put again.
 * @throws NodeError, TransportError, FsError
 */
export async function commitMoved({ shard, pace, tally }: RewriteTools, change: MovedRecords): Promise<ChangeResult | null> {
  try {
    const result = await shard.commit(change);
    if (!result.ok) return result;
    tally.records += change.puts.length;
    await pace.spend(RECORD_COST_BYTES * change.puts.length);
    return result;
  } catch (error) {
    const cause = error instanceof FsError ? (error.cause ?? error) : error;
    if (cause instanceof NodeError && cause.code === "missing_chunk") return null;
    throw cause;
  }
}
