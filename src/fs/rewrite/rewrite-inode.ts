/**
 * Seals all of one inode anew: attributes, regions with their chunks, extended attributes.
 *
 * Mounts check the version of the attributes alone when they change an inode, so these go into every delta: whoever was faster makes the other one
 * begin again from the newer state. A region whose chunks were moved is written like any other change of content, with a new generation, so that
 * mounts forget which chunks they knew; what says the same as before keeps its generation, and mounts keep what they have.
 */

import type { FileId } from "../../crypto/file-id.ts";
import { IntegrityError } from "../../crypto/integrity-error.ts";
import { carriedFileId, openRecord } from "../../crypto/record-seal.ts";
import { NodeError } from "../../protocol/errors.ts";
import { COMMIT_TARGET_BYTES } from "../../protocol/limits.ts";
import type { Check, StoredRecord } from "../../protocol/messages.ts";
import { inodeKey, inodePrefix, isAttrKey, isRegionKey, prefixEnd, regionOfKey } from "../../protocol/record-keys.ts";
import { type ChunkSource, decodeRegion, encodeRegion, type StoredMap } from "../records/composition.ts";
import { ExtentMap } from "../records/extent-map.ts";
import {
  decodeInode,
  encodeInode,
  type InodeAttributes,
  nextGeneration,
  RecordFormatError,
  regionFits,
  withGenerations,
} from "../records/inode-record.ts";
import type { PlainPut } from "../shard/shard.ts";
import { afterKey, commitMoved, isOldRecord, type KeyedRecord, pages, type RewriteTools } from "./rewrite-tools.ts";

/** A delta ends after so many records, or so many bytes of moved chunks: what was moved is not lost when the rewrite ends. */
const RECORDS_PER_DELTA = 256;
const CHUNK_BYTES_PER_DELTA = 64 * 1024 * 1024;
/** So often in a row a mount may be faster; the waits between come to some 3 s. */
const CONFLICTS_MAX = 16;
const CONFLICT_WAIT_MS = 25;

interface OpenedAttributes {
  readonly record: StoredRecord;
  readonly attributes: InodeAttributes;
}

/** What one delta is to do. */
interface Batch {
  readonly checks: Check[];
  readonly puts: PlainPut[];
  /** Regions whose chunks have moved. */
  readonly regions: Set<number>;
  /** With which these are written. */
  readonly generation: number;
  bytes: number;
  chunkBytes: number;
  /** Where the next one begins; null: that was all. */
  next: Uint8Array | null;
}

/** Somebody was faster. */
class Changed extends Error {}

/** What was read does not fit together: somebody has changed it meanwhile, or, where the attributes are still the same, it is damaged. */
class Mismatch extends Changed {
  readonly version: number;

  constructor(version: number) {
    super();
    this.version = version;
  }
}

/** A record, or a chunk that it names, is not of the time of the attributes. */
class Unfit extends Error {}

/** Whether one of an inode's records, as listed, shows that there is something to be done; `fileId` null: its attributes can't be read. */
export function needsRewrite(tools: RewriteTools, { key, record }: KeyedRecord, fileId: FileId | null): boolean {
  const { keys } = tools;
  if (isOldRecord(keys, record)) return true;
  if (!isRegionKey(key) || fileId === null) return false;
  try {
    const { map } = decodeRegion(openRecord(keys, key, record.link, fileId, record.value));
    return map.extents.some(({ source }) => source.kind === "chunk" && source.ref.epoch < keys.sealing.epoch);
  } catch (error) {
    // Of the newest epoch and damaged: nothing of an earlier key can be had from it.
    if (isDamage(error)) return false;
    throw error;
  }
}

function isDamage(error: unknown): boolean {
  return error instanceof IntegrityError || error instanceof RecordFormatError || (error instanceof NodeError && error.code === "damaged");
}

/** Seals an inode anew. What can't be is in `skipped` afterwards. @throws NodeError, TransportError, FsError */
export async function rewriteInode(tools: RewriteTools, number: number): Promise<void> {
  const { skipped, stop } = tools;
  const prefix = inodePrefix(number);
  let conflicts = 0;
  let doubted: number | null = null;
  for (let from: Uint8Array | null = prefix; from !== null && !stop.aborted; ) {
    try {
      const opened = await openAttributes(tools, number);
      if (opened === null) return;
      const batch = await collect(tools, number, opened, from, doubted);
      if (batch.puts.length > 0 && !(await commit(tools, number, opened, batch))) throw new Changed();
      from = batch.next;
      conflicts = 0;
    } catch (error) {
      if (isDamage(error)) {
        skipped.set(number, "damaged");
        return;
      }
      if (!(error instanceof Changed)) throw error;
      if (error instanceof Mismatch) doubted = error.version;
      if (++conflicts > CONFLICTS_MAX) {
        skipped.set(number, "busy");
        return;
      }
      await Bun.sleep(CONFLICT_WAIT_MS * conflicts);
    }
  }
}

/** null: the inode is gone. */
async function openAttributes({ calls, keys }: RewriteTools, number: number): Promise<OpenedAttributes | null> {
  const key = inodeKey(number);
  const { answer } = await calls.call("get", { ns: keys.namespace, keys: [key] });
  const record = answer.records[0] ?? null;
  if (record === null) return null;
  const fileId = carriedFileId(record.value);
  return { record, attributes: decodeInode(openRecord(keys, key, record.link, fileId, record.value), fileId) };
}

/** What the next delta is to do, of the records from `from` on. `doubted`: version of attributes that something did not fit to. @throws Changed */
async function collect(
  tools: RewriteTools,
  number: number,
  { record, attributes }: OpenedAttributes,
  from: Uint8Array,
  doubted: number | null,
): Promise<Batch> {
  const { keys, skipped } = tools;
  const generation = nextGeneration(attributes.generation);
  const batch: Batch = { checks: [], puts: [], regions: new Set(), generation, bytes: 0, chunkBytes: 0, next: null };
  const attributesAreOld = isOldRecord(keys, record);
  for await (const page of pages(tools, from, prefixEnd(inodePrefix(number)) as Uint8Array)) {
    for (const item of page) {
      if (batch.puts.length >= RECORDS_PER_DELTA || batch.bytes >= COMMIT_TARGET_BYTES || batch.chunkBytes >= CHUNK_BYTES_PER_DELTA)
        return batch;
      batch.next = afterKey(item.key);
      if (isAttrKey(item.key)) continue;
      try {
        await collectOne(tools, attributes, item, batch);
      } catch (error) {
        if (error instanceof Unfit && record.version !== doubted) throw new Mismatch(record.version);
        if (!(error instanceof Unfit || isDamage(error))) throw error;
        skipped.set(number, "damaged");
      }
    }
  }
  batch.next = null;
  if (batch.puts.length === 0 && attributesAreOld) batch.puts.push(attributesPut(number, attributes));
  return batch;
}

/** One record of an inode that is not its attributes. @throws Unfit, IntegrityError, RecordFormatError, NodeError, TransportError */
async function collectOne(tools: RewriteTools, attributes: InodeAttributes, { key, record }: KeyedRecord, batch: Batch): Promise<void> {
  const { keys } = tools;
  const { fileId } = attributes;
  const plaintext = openRecord(keys, key, record.link, fileId, record.value);
  const add = (put: Pick<PlainPut, "chunks" | "plaintext">): void => {
    batch.puts.push({ key, fileId, link: record.link, ...put });
    batch.checks.push({ kind: "version", key, version: record.version });
    batch.bytes += put.plaintext.length;
  };
  if (!isRegionKey(key)) {
    if (isOldRecord(keys, record)) add({ chunks: [], plaintext });
    return;
  }
  const region = regionOfKey(key);
  const stored = decodeRegion(plaintext);
  // An older record of the region must not come under attributes that would vouch for it.
  if (!regionFits(attributes, region, stored.generation)) throw new Unfit();
  const { map, chunkBytes } = await moveChunks(tools, stored.map);
  if (chunkBytes > 0) {
    add(encodeRegion(map, batch.generation));
    batch.regions.add(region);
    batch.chunkBytes += chunkBytes;
  } else if (isOldRecord(keys, record)) {
    add({ plaintext, chunks: encodeRegion(map, stored.generation).chunks });
  }
}

/** The map with chunks of earlier epochs replaced, and how many bytes these have. */
async function moveChunks({ keys, mover }: RewriteTools, map: StoredMap): Promise<{ map: StoredMap; chunkBytes: number }> {
  const moved = new Map<string, ChunkSource>();
  const after: StoredMap = new ExtentMap();
  let chunkBytes = 0;
  for (const { start, end, source, offset } of map.extents) {
    if (source.kind === "inline" || source.ref.epoch >= keys.sealing.epoch) {
      after.set(start, end, source, offset);
      continue;
    }
    let target = moved.get(source.key);
    if (target === undefined) {
      target = await moveOne(mover, source);
      moved.set(source.key, target);
      chunkBytes += source.ref.bytes;
    }
    after.set(start, end, target, offset);
  }
  return { map: after, chunkBytes };
}

async function moveOne(mover: RewriteTools["mover"], source: ChunkSource): Promise<ChunkSource> {
  try {
    return await mover.move(source);
  } catch (error) {
    // Its file was changed meanwhile, and the node has deleted what nobody refers to.
    if (error instanceof NodeError && error.code === "not_found") throw new Unfit();
    throw error;
  }
}

/** false: somebody else was faster. */
async function commit(tools: RewriteTools, number: number, { record, attributes }: OpenedAttributes, batch: Batch): Promise<boolean> {
  const after = { ...attributes };
  if (batch.regions.size > 0) {
    after.generation = batch.generation;
    after.regionGenerations = withGenerations(attributes.regionGenerations, batch.regions, after.generation);
  }
  const puts = batch.puts.filter(({ key }) => !isAttrKey(key));
  const result = await commitMoved(tools, {
    checks: [{ kind: "version", key: inodeKey(number), version: record.version }, ...batch.checks],
    puts: [...puts, attributesPut(number, after)],
  });
  if (result === null) tools.mover.forget();
  return result?.ok === true;
}

function attributesPut(number: number, attributes: InodeAttributes): PlainPut {
  return { key: inodeKey(number), fileId: attributes.fileId, link: 0, chunks: [], plaintext: encodeInode(attributes) };
}
