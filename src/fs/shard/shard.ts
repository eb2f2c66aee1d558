/**
 * One namespace's shard as this client sees it: the node's records, opened and sealed here. It caches nothing.
 *
 * This folder is the way to the node: inode numbers, names and plaintext come in; opened records, or an FsError, go out.
 */
import { nameHash, xattrNameHash } from "../../crypto/name-hash.ts";
import type { NamespaceKeys } from "../../crypto/namespace-keys.ts";
import { openRecord, sealRecord } from "../../crypto/record-seal.ts";
import { readU32 } from "../../protocol/big-endian.ts";
import { NodeError } from "../../protocol/errors.ts";
import type { AnswerOf, Bump, Check, Counters, Delta, InodeBundle, InodeWant, RequestOf, StoredRecord } from "../../protocol/messages.ts";
import { dentryKey, inodeKey, prefixEnd, regionKey, regionOfKey, regionPrefix, xattrKey, xattrPrefix } from "../../protocol/record-keys.ts";
import type { ClientRequestOp } from "../../transport/node-client-options.ts";
import { FsError } from "../posix/errno.ts";
import type { Name } from "../posix/vfs.ts";
import { decodeRegion, type StoredMap } from "../records/composition.ts";
import { ExtentMap } from "../records/extent-map.ts";
import { decodeDentry, decodeInode, type InodeAttributes } from "../records/inode-record.ts";
import { type NodeCalls, toFsError } from "./node-calls.ts";
import { RecallLog } from "./recall-log.ts";

/** A record to write, not sealed yet. */
export interface PlainPut {
  key: Uint8Array;
  link: number;
  chunks: Uint8Array[];
  plaintext: Uint8Array;
}

/** A delta as the filesystem makes it: what it leaves out is empty. */
export interface Change {
  checks: Check[];
  puts?: PlainPut[];
  deletes?: Uint8Array[];
  deletePrefixes?: Uint8Array[];
  bumps?: Bump[];
  leases?: number[];
  durable?: boolean;
}

export type ChangeResult = { ok: true; seq: number; counters: Counters[]; leased: number[] } | { ok: false; failed: number[] };

/** A region as stored: version of its record (0: there is none) and the map. */
export interface StoredRegion {
  version: number;
  map: StoredMap;
}

/** An inode as opened from an answer. */
export interface LoadedInode {
  number: number;
  version: number;
  attributes: InodeAttributes;
  counters: Counters | null;
  region0: StoredRegion | null;
  leased: boolean;
}

export interface LoadedDentry {
  name: Name;
  number: number;
  type: number;
  version: number;
  /** Position in the folder's order: the first 52 bits of the name hash, moved above ".", ".." and the start. */
  cookie: number;
}

export interface LoadedEntry {
  dentry: LoadedDentry;
  inode: LoadedInode | null;
}

/** Extended attributes fetched per round trip; each has at most 64 KiB. */
const XATTRS_PER_ANSWER = 64;
/** Values of "." and ".." and the start of a folder lie below every cookie. */
export const COOKIE_MIN = 3;

/** The cookie of a 16-byte name hash. */
export function cookieOf(hash: Uint8Array): number {
  return Math.max(COOKIE_MIN, readU32(hash, 0) * 2 ** 20 + (readU32(hash, 4) >>> 12));
}

/** The greatest hash whose cookie is `cookie`: listing after it goes on with the next cookie. */
export function hashAfterCookie(cookie: number): Uint8Array {
  const hash = new Uint8Array(16).fill(0xff);
  const view = new DataView(hash.buffer);
  view.setUint32(0, Math.floor(cookie / 2 ** 20));
  view.setUint32(4, ((cookie % 2 ** 20) * 2 ** 12 + 0xfff) >>> 0);
  return hash;
}

export class Shard {
  readonly name: string;
  readonly #calls: NodeCalls;
  readonly #keys: NamespaceKeys;
  #nextId = 1;
  readonly #inFlight = new Set<number>();
  readonly #recalls = new RecallLog();
  /** Sequence number of the newest delta that this client knows of, and of the newest known to survive power loss. */
  lastSeq = 0;
  durableSeq = 0;

  constructor(calls: NodeCalls, keys: NamespaceKeys) {
    this.#calls = calls;
    this.#keys = keys;
    this.name = keys.namespace;
  }

  nameHash(parent: number, name: Name): Uint8Array {
    return nameHash(this.#keys, parent, name);
  }

  xattrKey(number: number, name: Name): Uint8Array {
    return xattrKey(number, xattrNameHash(this.#keys, number, name));
  }

  /** The node ends these leases: answers to what was asked before don't grant them any more. */
  recalled(numbers: readonly number[]): void {
    this.#recalls.add(numbers);
  }

  /** All leases have ended. */
  recalledAll(): void {
    this.#recalls.addAll();
  }

  async grantInos(count: number): Promise<{ first: number; count: number }> {
    return (await this.#call("inoGrant", { ns: this.name, count })).answer;
  }

  /** The inode, or null when there is none. */
  async inode(number: number, want: InodeWant): Promise<LoadedInode | null> {
    const askedAt = this.#recalls.now;
    const { answer } = await this.#call("inode", { ns: this.name, ino: number, want });
    return this.#openInode(answer.inode, askedAt);
  }

  /** A name and what it leads to, in one round trip. */
  async lookup(parent: number, name: Name, want: InodeWant): Promise<{ entry: LoadedEntry | null; parentLeased: boolean }> {
    const hash = this.nameHash(parent, name);
    const key = dentryKey(parent, hash);
    const askedAt = this.#recalls.now;
    const { answer } = await this.#call("lookup", { ns: this.name, key, want, leaseParent: want.lease });
    const { dentry, inode } = answer;
    const parentLeased = answer.parentLeased && this.#recalls.allows(parent, askedAt);
    if (dentry === null) return { entry: null, parentLeased };
    return { entry: { dentry: this.#openDentry(parent, hash, dentry), inode: inode && this.#openInode(inode, askedAt) }, parentLeased };
  }

  /** Entries of a folder after a hash, in hash order. */
  async list(
    dir: number,
    after: Uint8Array,
    options: { limit: number; inodes: boolean; want: InodeWant },
  ): Promise<{ entries: LoadedEntry[]; lastHash: Uint8Array; more: boolean; counters: Counters; dirLeased: boolean }> {
    const askedAt = this.#recalls.now;
    const { answer } = await this.#call("list", { ns: this.name, dir, after, ...options, leaseDir: options.want.lease });
    const entries = answer.entries.map(({ hash, dentry, inode }) => ({
      dentry: this.#openDentry(dir, hash, dentry),
      inode: inode && this.#openInode(inode, askedAt),
    }));
    const dirLeased = answer.dirLeased && this.#recalls.allows(dir, askedAt);
    const lastHash = answer.entries.at(-1)?.hash ?? after;
    return { entries, lastHash, more: answer.more, counters: answer.counters, dirLeased };
  }

  /** The stored regions with these numbers, in order. */
  async regions(number: number, regions: readonly number[]): Promise<StoredRegion[]> {
    const keys = regions.map((region) => regionKey(number, region));
    const { answer } = await this.#call("get", { ns: this.name, keys });
    return keys.map((key, i) => this.#openRegion(key, answer.records[i] ?? null));
  }

  /** Region 0 of each of these inodes, in order. */
  async firstRegions(numbers: readonly number[]): Promise<StoredRegion[]> {
    const keys = numbers.map((number) => regionKey(number, 0));
    const { answer } = await this.#call("get", { ns: this.name, keys });
    return keys.map((key, i) => this.#openRegion(key, answer.records[i] ?? null));
  }

  /** Up to `limit` stored regions with numbers of `from` or more, in order. */
  async regionsFrom(number: number, from: number, limit: number): Promise<{ found: { region: number; map: StoredMap }[]; more: boolean }> {
    const to = prefixEnd(regionPrefix(number)) ?? new Uint8Array();
    const { answer } = await this.#call("range", { ns: this.name, from: regionKey(number, from), to, limit });
    const found = answer.records.map(({ key, record }) => ({ region: regionOfKey(key), map: this.#openRegion(key, record).map }));
    return { found, more: answer.more };
  }

  /** All extended attributes of an inode; values as stored. */
  async xattrs(number: number): Promise<Map<Name, Uint8Array>> {
    const prefix = xattrPrefix(number);
    const to = prefixEnd(prefix) ?? new Uint8Array();
    const found = new Map<Name, Uint8Array>();
    for (let from = prefix, more = true; more; ) {
      const { answer } = await this.#call("range", { ns: this.name, from, to, limit: XATTRS_PER_ANSWER });
      for (const { key, record } of answer.records) {
        const plaintext = Buffer.from(openRecord(this.#keys, key, record.link, record.value));
        const nameLength = plaintext[0] ?? 0;
        found.set(plaintext.toString("latin1", 1, 1 + nameLength), new Uint8Array(plaintext.subarray(1 + nameLength)));
        from = Buffer.concat([key, new Uint8Array(1)]);
      }
      more = answer.more && answer.records.length > 0;
    }
    return found;
  }

  async statfs(): Promise<{ totalBytes: number; freeBytes: number; inodes: number }> {
    return (await this.#call("statfs", { ns: this.name })).answer;
  }

  /** Makes every delta that was answered before survive power loss. */
  async sync(): Promise<void> {
    const { answer } = await this.#call("sync", { ns: this.name });
    this.durableSeq = Math.max(this.durableSeq, answer.seq);
  }

  /** Gives up leases; the node need not recall them. Not answered to anyone, so failures don't matter. */
  releaseLeases(numbers: number[]): void {
    this.#calls.call("leaseRelease", { ns: this.name, inos: numbers }).catch(() => undefined);
  }

  /** Applies a change, whole or not at all. One that was to be durable may not be: durableSeq tells. */
  async commit(change: Change): Promise<ChangeResult> {
    const id = this.#nextId++;
    this.#inFlight.add(id);
    // A Set keeps the order of insertion: its first element is the oldest delta without an answer.
    const answeredBelow = this.#inFlight.values().next().value ?? id;
    const puts = (change.puts ?? []).map(({ key, link, chunks, plaintext }) => ({
      key,
      link,
      chunks,
      value: sealRecord(this.#keys, key, link, plaintext),
    }));
    const delta = {
      id,
      answeredBelow,
      checks: change.checks,
      puts,
      deletes: change.deletes ?? [],
      deletePrefixes: change.deletePrefixes ?? [],
      bumps: change.bumps ?? [],
      leases: change.leases ?? [],
      durable: change.durable ?? false,
    };
    const askedAt = this.#recalls.now;
    try {
      const { answer, durable } = await this.#commit(delta);
      if (!answer.ok) return answer;
      this.lastSeq = Math.max(this.lastSeq, answer.seq);
      if (durable) this.durableSeq = Math.max(this.durableSeq, answer.seq);
      return { ...answer, leased: answer.leased.filter((number) => this.#recalls.allows(number, askedAt)) };
    } finally {
      this.#inFlight.delete(id);
    }
  }

  /** A delta that the node's disk did not take is applied all the same, or not: the node says which when it is asked again. */
  async #commit(delta: Delta): Promise<{ answer: AnswerOf<"commit">; durable: boolean }> {
    const { durable } = delta;
    try {
      return { ...(await this.#call("commit", { ns: this.name, delta })), durable };
    } catch (error) {
      const refused = error instanceof FsError && error.cause instanceof NodeError && error.cause.code === "io";
      if (!durable || !refused) throw error;
      return { ...(await this.#call("commit", { ns: this.name, delta: { ...delta, durable: false } })), durable: false };
    }
  }

  async #call<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<{ answer: AnswerOf<O> }> {
    try {
      return await this.#calls.call(op, request);
    } catch (error) {
      throw toFsError(error, op);
    }
  }

  #openInode(bundle: InodeBundle, askedAt: number): LoadedInode | null {
    const { ino, attr, counters, region0 } = bundle;
    if (attr === null) return null;
    const leased = bundle.leased && this.#recalls.allows(ino, askedAt);
    return {
      number: ino,
      version: attr.version,
      attributes: decodeInode(openRecord(this.#keys, inodeKey(ino), attr.link, attr.value)),
      counters,
      region0: region0 && this.#openRegion(regionKey(ino, 0), region0),
      leased,
    };
  }

  #openDentry(parent: number, hash: Uint8Array, record: StoredRecord): LoadedDentry {
    const { name, type } = decodeDentry(openRecord(this.#keys, dentryKey(parent, hash), record.link, record.value));
    return { name, type, number: record.link, version: record.version, cookie: cookieOf(hash) };
  }

  #openRegion(key: Uint8Array, record: StoredRecord | null): StoredRegion {
    if (record === null) return { version: 0, map: new ExtentMap() };
    return { version: record.version, map: decodeRegion(openRecord(this.#keys, key, record.link, record.value)) };
  }
}
