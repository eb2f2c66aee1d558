/** Applies deltas inside the transaction that the shard has begun. */
import { NodeError } from "../../protocol/errors.ts";
import type { Check, Counters, Delta } from "../../protocol/messages.ts";
import { inodeOfKey, isAttrKey, isRegionKey, KEY_KIND_INODE, prefixEnd, regionPrefix } from "../../protocol/record-keys.ts";
import type { AppliedDeltas } from "./applied-deltas.ts";
import { chunkIdOf, chunkName, encodeChunkList, readableChunks } from "./chunk-list.ts";
import { DROP_AT_ONCE_MAX, type Drops } from "./drops.ts";
import type { CommitOutcome, NewChunks } from "./engine.ts";
import type { DeltaEffects, JournalEntry } from "./journal-entry.ts";
import { recordCrc, type Statements } from "./sqlite-database.ts";
import { NO_COUNTERS } from "./sqlite-reads.ts";

/** Kind and inode: a shorter prefix would take the records of many inodes with it, and their leases would not be known. */
const DELETE_PREFIX_MIN_BYTES = 9;
/** A delta to write: a JournalEntry is one. */
export type WriteRequest = Pick<JournalEntry, "session" | "delta" | "seq" | "timeMs">;

export class DeltaApplier {
  readonly #sql: Statements;
  readonly #applied: AppliedDeltas;
  readonly #drops: Drops;
  /** References that the delta may still count down itself. */
  #dropsLeft = 0;
  /** Attribute records in the shard, with what the present transaction has done. */
  inodes = 0;
  /** Of the values of all records, likewise. */
  bytes = 0;
  /** Written but for its records: see writeLater. */
  #pending: WriteRequest | null = null;

  constructor(sql: Statements, applied: AppliedDeltas, drops: Drops) {
    this.#drops = drops;
    drops.onRemoved = (bytes) => {
      this.bytes -= bytes;
    };
    this.#sql = sql;
    this.#applied = applied;
  }

  /**
   * What a delta comes to without being applied: a check fails, or it was applied before. Otherwise null: it applies.
   * @throws NodeError "bad_request"
   */
  check(session: Uint8Array, delta: Delta): CommitOutcome | null {
    this.settle();
    for (const prefix of delta.deletePrefixes) {
      if (prefix.length < DELETE_PREFIX_MIN_BYTES || prefixEnd(prefix) === null) {
        throw new NodeError("bad_request", `expected a prefix of at least ${DELETE_PREFIX_MIN_BYTES} bytes, got ${prefix.length}`);
      }
    }
    this.#refuseRevival(delta);
    const before = this.#applied.find(session, delta.id);
    if (before !== undefined) {
      const counters = delta.bumps.map(({ ino }): Counters => this.#sql.counters.get(ino) ?? { ...NO_COUNTERS });
      return { ok: true, seq: before, counters, replayed: true };
    }
    const failed: number[] = [];
    let index = 0;
    for (const check of delta.checks) {
      if (!this.#holds(check)) failed.push(index);
      index++;
    }
    if (failed.length > 0) return { ok: false, failed };
    this.#applied.checkRoom(session);
    return null;
  }

  /** An inode that is deleted in slices would have to be deleted at once to be written again, and no client ever does: numbers are not used again. */
  #refuseRevival({ puts, deletePrefixes }: Delta): void {
    for (const { key } of puts) {
      if (!isRegionKey(key)) continue;
      const inode = key.subarray(0, DELETE_PREFIX_MIN_BYTES);
      const isDeleted = deletePrefixes.some((prefix) => Buffer.compare(prefix, inode) === 0);
      if (this.#drops.hasInode(key) || (isDeleted && this.#drops.references(regionPrefix(inodeOfKey(key))) > DROP_AT_ONCE_MAX)) {
        throw new NodeError("bad_request", `inode ${inodeOfKey(key)} is being deleted`);
      }
    }
  }

  /**
   * Does what the delta says, whatever its checks. The same calls on the same state have the same result: a journal is replayed so.
   * @returns the counters that it bumped @throws NodeError "damaged", SQLite's errors: the transaction is spoiled then
   */
  write(request: WriteRequest): Counters[] {
    this.settle();
    this.#dropsLeft = DROP_AT_ONCE_MAX;
    for (const prefix of request.delta.deletePrefixes) this.#deletePrefix(prefix, request.timeMs);
    this.#writeRecords(request);
    return this.#bump(request.delta);
  }

  /**
   * Like write, but may leave the records to settle(): then their time is not part of the answer's. Everybody who reads or writes
   * records settles first, so nobody can tell. What replaces a list of chunks does not wait: the list may turn out to be damaged.
   */
  writeLater(request: WriteRequest): Counters[] {
    if (!this.#mayWait(request.delta)) return this.write(request);
    this.settle();
    this.#pending = request;
    return this.#bump(request.delta);
  }

  /** Writes what waits. @throws SQLite's errors: the transaction is spoiled then */
  settle(): void {
    if (this.#pending === null) return;
    const request = this.#pending;
    this.#pending = null;
    this.#writeRecords(request);
  }

  /** The transaction was rolled back: what waits is no part of it. */
  forgetPending(): void {
    this.#pending = null;
  }

  #mayWait({ deletePrefixes, deletes, puts }: DeltaEffects): boolean {
    if (deletePrefixes.length > 0) return false;
    for (const key of deletes) if (isRegionKey(key)) return false;
    for (const put of puts) {
      if (put.chunks.length > 0) return false;
      if (isRegionKey(put.key) && this.#sql.chunks.get(put.key)?.chunks != null) return false;
    }
    return true;
  }

  #writeRecords({ session, delta, seq, timeMs }: WriteRequest): void {
    for (const key of delta.deletes) this.#delete(key, timeMs);
    for (const put of delta.puts) {
      if (this.#drops.has(put.key)) this.#drops.finish(put.key);
      const chunks = encodeChunkList(put.chunks);
      const old = this.#sql.chunks.get(put.key);
      if (old === null && isAttrKey(put.key)) this.inodes++;
      this.bytes += put.value.length - (old?.bytes ?? 0);
      if (chunks !== null || (old !== null && old.chunks !== null)) this.#moveRefs(old === null ? null : old.chunks, put.chunks, timeMs);
      this.#sql.put.run(put.key, seq, put.link, recordCrc(put.key, seq, put.link, put.value), chunks, put.value);
    }
    this.#applied.add(session, delta.id, seq, delta.answeredBelow);
  }

  #bump({ bumps }: DeltaEffects): Counters[] {
    return bumps.map(
      ({ ino, links, entries, mtimeSec, mtimeNsec }): Counters =>
        this.#sql.bump.get(ino, links, entries, mtimeSec, mtimeNsec) ?? { ...NO_COUNTERS },
    );
  }

  #holds(check: Check): boolean {
    switch (check.kind) {
      case "version":
        return !this.#drops.has(check.key) && this.#sql.version.get(check.key)?.version === check.version;
      case "absent":
        return this.#drops.has(check.key) || this.#sql.version.get(check.key) === null;
      case "present":
        return !this.#drops.has(check.key) && this.#sql.version.get(check.key) !== null;
      case "empty": {
        const end = prefixEnd(check.prefix);
        if (end === null || check.prefix.length === 0) throw new NodeError("bad_request", "expected a prefix that has an end");
        return this.#sql.anyInRange.get(check.prefix, end) === null;
      }
      case "bumps":
        return (this.#sql.counters.get(check.ino)?.bumps ?? 0) === check.bumps;
    }
  }

  #delete(key: Uint8Array, timeMs: number): void {
    if (this.#drops.has(key)) return;
    const old = this.#sql.chunks.get(key);
    if (old === null) return;
    if (isRegionKey(key) && this.#mustWait(key)) {
      this.#drops.note(key, timeMs);
      return;
    }
    if (old.chunks !== null) this.#moveRefs(old.chunks, [], timeMs);
    if (isAttrKey(key)) this.inodes--;
    this.bytes -= old.bytes;
    this.#sql.remove.run(key);
  }

  #deletePrefix(prefix: Uint8Array, timeMs: number): void {
    const end = prefixEnd(prefix);
    if (end === null) return;
    const regions = prefix[0] === KEY_KIND_INODE && prefix.length === DELETE_PREFIX_MIN_BYTES ? regionPrefix(inodeOfKey(prefix)) : null;
    if (regions !== null && this.#mustWait(regions)) {
      this.#drops.note(regions, timeMs);
      this.#deleteRange(prefix, regions, timeMs);
      this.#deleteRange(prefixEnd(regions) ?? end, end, timeMs);
    } else this.#deleteRange(prefix, end, timeMs);
    if (prefix.length === DELETE_PREFIX_MIN_BYTES && prefix[0] === KEY_KIND_INODE) this.#sql.removeCounters.run(inodeOfKey(prefix));
  }

  #deleteRange(from: Uint8Array, to: Uint8Array, timeMs: number): void {
    let found = false;
    for (const { key, chunks, bytes } of this.#sql.rangeChunks.all(from, to)) {
      found = true;
      // A record that is noted as deleted is counted down by its note alone.
      if (this.#drops.has(key)) {
        this.#drops.finish(key);
        continue;
      }
      if (chunks !== null) this.#moveRefs(chunks, [], timeMs);
      this.bytes -= bytes;
      if (isAttrKey(key)) this.inodes--;
    }
    if (found) this.#sql.removeRange.run(from, to);
  }

  /** Whether there is too much to delete for this delta; otherwise it has that much less left. */
  #mustWait(prefix: Uint8Array): boolean {
    const references = this.#drops.references(prefix);
    if (references > this.#dropsLeft) return true;
    this.#dropsLeft -= references;
    return false;
  }

  #moveRefs(oldList: Uint8Array | null, newChunks: readonly Uint8Array[], timeMs: number): void {
    const gone = readableChunks(oldList);
    for (const id of newChunks) {
      if (!gone.delete(chunkName(id))) this.#sql.addRef.run(id);
    }
    for (const name of gone) this.#sql.dropRef.run(timeMs, chunkIdOf(name));
  }
}

export function newChunksOf(sql: Statements, drops: Drops, puts: Delta["puts"]): NewChunks {
  const added = new Map<string, Uint8Array>();
  for (const put of puts) {
    if (put.chunks.length === 0) continue;
    const old = readableChunks(drops.has(put.key) ? null : (sql.chunks.get(put.key)?.chunks ?? null));
    for (const id of put.chunks) {
      const name = chunkName(id);
      if (!old.has(name)) added.set(name, id);
    }
  }
  const ids = [...added.values()];
  return { added: ids, unreferenced: ids.filter((id) => (sql.refs.get(id)?.refs ?? 0) === 0) };
}
