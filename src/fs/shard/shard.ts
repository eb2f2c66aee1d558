/**
 * One namespace's shard as this client sees it: the node's records, opened and sealed here. It caches nothing.
 *
 * This folder is the way to the node: inode numbers, names and plaintext come in; opened records, or an FsError, go out.
 */
import type { ChunkRef } from "../../crypto/chunk-seal.ts";
import type { FileId } from "../../crypto/file-id.ts";
import { nameHash, xattrNameHash } from "../../crypto/name-hash.ts";
import type { NamespaceKeys } from "../../crypto/namespace-keys.ts";
import { carriedFileId, openRecord, sealRecord } from "../../crypto/record-seal.ts";
import { readU32 } from "../../protocol/big-endian.ts";
import { NodeError } from "../../protocol/errors.ts";
import { CHUNK_RELEASE_MAX } from "../../protocol/limits.ts";
import type {
  AnswerOf,
  Bump,
  Check,
  Counters,
  Delta,
  InodeBundle,
  InodeWant,
  NodeErrorCode,
  RequestOf,
  StoredRecord,
} from "../../protocol/messages.ts";
import { dentryKey, inodeKey, prefixEnd, regionKey, regionOfKey, regionPrefix, xattrKey, xattrPrefix } from "../../protocol/record-keys.ts";
import type { ClientRequestOp } from "../../transport/node-client-options.ts";
import { FsError } from "../posix/errno.ts";
import type { Name } from "../posix/vfs.ts";
import { decodeRegion, type StoredMap } from "../records/composition.ts";
import { ExtentMap } from "../records/extent-map.ts";
import { decodeDentry, decodeInode, FileType, type InodeAttributes, regionFits } from "../records/inode-record.ts";
import {
  DamageError,
  type DamageLog,
  DamageReport,
  hashOfStandIn,
  type KnownOfInode,
  standInAttributes,
  standInName,
  standInNumber,
} from "./damage.ts";
import { type NodeCalls, toFsError } from "./node-calls.ts";
import { RecallLog } from "./recall-log.ts";

/** A record to write, not sealed yet. */
export interface PlainPut {
  key: Uint8Array;
  /** Of the inode that the key belongs to (of a dentry: the folder). */
  fileId: FileId;
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

/** A region as stored: version of its record and generation with which it was written (0, both: there is none), and the map. */
export interface StoredRegion {
  version: number;
  generation: number;
  map: StoredMap;
}

/** An inode as it is asked for: its number alone could lead to another one. */
export interface FileRef {
  readonly number: number;
  readonly fileId: FileId;
}

/** An inode as opened from an answer. */
export interface LoadedInode {
  /** Its attributes can't be read: `attributes` stand in, and `version` is 0 where the inode is missing altogether. */
  isDamaged: boolean;
  number: number;
  version: number;
  attributes: InodeAttributes;
  counters: Counters | null;
  region0: StoredRegion | null;
  leased: boolean;
  /** This stands for an entry that can't be read: the inode that is removed with it, as it says itself that it has no other name. */
  goesWithIt?: { readonly number: number; readonly version: number } | null;
}

/** Extended attributes of an inode; values as stored. */
export interface Xattrs {
  readonly found: ReadonlyMap<Name, Uint8Array>;
  /** Record keys (hexadecimal) of those that can't be opened. */
  readonly damaged: ReadonlySet<string>;
}

export interface LoadedDentry {
  name: Name;
  number: number;
  fileId: FileId;
  type: number;
  version: number;
  /** The record can't be read: `name` stands for it (damage.ts). */
  isDamaged: boolean;
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
  readonly #damage: DamageReport;
  /** Sequence number of the newest delta that this client knows of, and of the newest known to survive power loss. */
  lastSeq = 0;
  durableSeq = 0;

  /** `log` is told once of each record that can't be read. */
  constructor(calls: NodeCalls, keys: NamespaceKeys, log: DamageLog | null = null) {
    this.#calls = calls;
    this.#keys = keys;
    this.#damage = new DamageReport(keys.namespace, log);
    this.name = keys.namespace;
  }

  /** The hash of a name; that of an entry which can't be read is in the name that stands for it. */
  nameHash(parent: number, name: Name): Uint8Array {
    return hashOfStandIn(name) ?? nameHash(this.#keys, parent, name);
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

  get rootFileId(): FileId {
    return this.#keys.rootFileId;
  }

  /** The node has answered what can't be true: it is not to be believed any more. Returns the error for who asked. */
  mistrust(number: number, what: string): FsError {
    const message = `inode ${number} of ${this.name}: ${what}`;
    this.#calls.mistrust?.(message);
    return new FsError("EIO", message);
  }

  /** The inode, whichever it is, or null when there is none. `known`: what stands in where its attributes can't be read. */
  async inode(number: number, want: InodeWant, known: KnownOfInode): Promise<LoadedInode | null> {
    const askedAt = this.#recalls.now;
    const { answer } = await this.#call("inode", { ns: this.name, ino: number, want });
    return this.#openInode(answer.inode, askedAt, known);
  }

  /** A name and what it leads to, in one round trip. */
  async lookup(dir: FileRef, name: Name, want: InodeWant): Promise<{ entry: LoadedEntry | null; parentLeased: boolean }> {
    const parent = dir.number;
    const hash = this.nameHash(parent, name);
    const key = dentryKey(parent, hash);
    const askedAt = this.#recalls.now;
    const { answer } = await this.#call("lookup", { ns: this.name, key, want, leaseParent: want.lease });
    const { dentry, inode } = answer;
    const parentLeased = answer.parentLeased && this.#recalls.allows(parent, askedAt);
    if (dentry === null) return { entry: null, parentLeased };
    const entry = this.#openEntry(dir, hash, dentry, inode, askedAt);
    // The entry behind a name that stands for a damaged one has been repaired, and has its own name again.
    return { entry: hashOfStandIn(name) !== null && !entry.dentry.isDamaged ? null : entry, parentLeased };
  }

  /** Entries of a folder after a hash, in hash order. */
  async list(
    dir: FileRef,
    after: Uint8Array,
    options: { limit: number; inodes: boolean; want: InodeWant },
  ): Promise<{ entries: LoadedEntry[]; lastHash: Uint8Array; more: boolean; counters: Counters; dirLeased: boolean }> {
    const askedAt = this.#recalls.now;
    const { answer } = await this.#call("list", { ns: this.name, dir: dir.number, after, ...options, leaseDir: options.want.lease });
    const entries = answer.entries.map(({ hash, dentry, inode }) => this.#openEntry(dir, hash, dentry, inode, askedAt));
    const dirLeased = answer.dirLeased && this.#recalls.allows(dir.number, askedAt);
    const lastHash = answer.entries.at(-1)?.hash ?? after;
    return { entries, lastHash, more: answer.more, counters: answer.counters, dirLeased };
  }

  /** The stored regions with these numbers, in order. */
  async regions(file: FileRef, regions: readonly number[]): Promise<StoredRegion[]> {
    const keys = regions.map((region) => regionKey(file.number, region));
    const { answer } = await this.#call("get", { ns: this.name, keys });
    return keys.map((key, i) => this.#openRegion(file, key, answer.records[i] ?? null));
  }

  /** Region 0 of each of these inodes, in order; null where it can't be opened. */
  async firstRegions(files: readonly FileRef[]): Promise<(StoredRegion | null)[]> {
    const keys = files.map(({ number }) => regionKey(number, 0));
    const { answer } = await this.#call("get", { ns: this.name, keys });
    return files.map((file, i) => this.#openRegionOrNull(file, keys[i] as Uint8Array, answer.records[i] ?? null));
  }

  /** Up to `limit` stored regions with numbers of `from` or more, in order. */
  async regionsFrom(file: FileRef, from: number, limit: number): Promise<{ found: (StoredRegion & { region: number })[]; more: boolean }> {
    const to = prefixEnd(regionPrefix(file.number)) ?? new Uint8Array();
    const { answer } = await this.#call("range", { ns: this.name, from: regionKey(file.number, from), to, limit });
    const found = answer.records.map(({ key, record }) => ({ region: regionOfKey(key), ...this.#openRegion(file, key, record) }));
    return { found, more: answer.more };
  }

  /** All extended attributes of an inode. */
  async xattrs(file: FileRef): Promise<Xattrs> {
    const prefix = xattrPrefix(file.number);
    const to = prefixEnd(prefix) ?? new Uint8Array();
    const found = new Map<Name, Uint8Array>();
    const damaged = new Set<string>();
    for (let from = prefix, more = true; more; ) {
      const { answer } = await this.#call("range", { ns: this.name, from, to, limit: XATTRS_PER_ANSWER });
      for (const { key, record } of answer.records) {
        from = Buffer.concat([key, new Uint8Array(1)]);
        const opened = this.#damage.attempt(`an extended attribute of inode ${file.number}`, key, () =>
          openRecord(this.#keys, key, record.link, file.fileId, record.value),
        );
        if (opened === null) {
          damaged.add(Buffer.from(key).toString("hex"));
          continue;
        }
        const plaintext = Buffer.from(opened);
        const nameLength = plaintext[0] ?? 0;
        found.set(plaintext.toString("latin1", 1, 1 + nameLength), new Uint8Array(plaintext.subarray(1 + nameLength)));
      }
      more = answer.more && answer.records.length > 0;
    }
    return { found, damaged };
  }

  /** Has the node say how far the namespace is, so that a mount which only reads notices, too, when it has gone back. */
  noteState(): void {
    this.#calls.call("namespaceState", { ns: this.name }).catch(() => undefined);
  }

  async statfs(): Promise<AnswerOf<"statfs">> {
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

  /** Gives up chunks that were put and will not be committed. Failures don't matter: they are given up with the session. */
  releaseChunks(refs: readonly ChunkRef[]): void {
    for (let at = 0; at < refs.length; at += CHUNK_RELEASE_MAX) {
      const ids = refs.slice(at, at + CHUNK_RELEASE_MAX).map(({ id }) => id);
      this.#calls.call("chunkRelease", { ids }).catch(() => undefined);
    }
  }

  /** Applies a change, whole or not at all. One that was to be durable may not be: durableSeq tells. */
  async commit(change: Change): Promise<ChangeResult> {
    const id = this.#nextId++;
    this.#inFlight.add(id);
    // A Set keeps the order of insertion: its first element is the oldest delta without an answer.
    const answeredBelow = this.#inFlight.values().next().value ?? id;
    const puts = (change.puts ?? []).map(({ key, link, chunks, fileId, plaintext }) => ({
      key,
      link,
      chunks,
      value: sealRecord(this.#keys, key, link, fileId, plaintext),
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
    } catch (error) {
      if (!isRefusal(error, "missing_chunk")) throw error;
      // The node looks for chunks before it looks at checks: those of an older state may be deleted.
      const failed = await this.#outdated(change.checks);
      if (failed.length === 0) throw error;
      return { ok: false, failed };
    } finally {
      this.#inFlight.delete(id);
    }
  }

  /** Which of these checks name a version that a record doesn't have any more. */
  async #outdated(checks: readonly Check[]): Promise<number[]> {
    const named = checks.flatMap((check, index) => (check.kind === "version" ? [{ ...check, index }] : []));
    if (named.length === 0) return [];
    const { answer } = await this.#call("get", { ns: this.name, keys: named.map(({ key }) => key) });
    return named.filter(({ version }, i) => answer.records[i]?.version !== version).map(({ index }) => index);
  }

  /** A delta that the node's disk did not take is applied all the same, or not: the node says which when it is asked again. */
  async #commit(delta: Delta): Promise<{ answer: AnswerOf<"commit">; durable: boolean }> {
    const { durable } = delta;
    try {
      return { ...(await this.#call("commit", { ns: this.name, delta })), durable };
    } catch (error) {
      if (!durable || !isRefusal(error, "io")) throw error;
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

  /** null: there is none. `known` stands in where its attributes can't be read. */
  #openInode(bundle: InodeBundle, askedAt: number, known: KnownOfInode): LoadedInode | null {
    const { ino, attr, counters, region0 } = bundle;
    if (attr === null) return null;
    const { version } = attr;
    const attributes = this.#damage.attempt(`the attributes of inode ${ino}`, inodeKey(ino), () => this.#openAttributes(ino, attr));
    if (attributes === null) {
      return { number: ino, version, isDamaged: true, attributes: standInAttributes(known), counters, region0: null, leased: false };
    }
    const leased = bundle.leased && this.#recalls.allows(ino, askedAt);
    const file = { number: ino, fileId: attributes.fileId };
    const first = region0 && this.#openRegionOrNull(file, regionKey(ino, 0), region0);
    // Both are of one moment.
    if (first !== null && !regionFits(attributes, 0, first.generation))
      throw this.mistrust(ino, "its first extents are of another time than its attributes");
    return { number: ino, version, isDamaged: false, attributes, counters, region0: first, leased };
  }

  #openAttributes(ino: number, attr: StoredRecord): InodeAttributes {
    const fileId = carriedFileId(attr.value);
    return decodeInode(openRecord(this.#keys, inodeKey(ino), attr.link, fileId, attr.value), fileId);
  }

  #openEntry(dir: FileRef, hash: Uint8Array, record: StoredRecord, bundle: InodeBundle | null, askedAt: number): LoadedEntry {
    const { number: parent } = dir;
    const key = dentryKey(parent, hash);
    const dentry = this.#damage.attempt(`the name of an entry of folder ${parent}`, key, () => this.#openDentry(dir, hash, record));
    if (dentry === null) return this.#standIn(parent, hash, record.version, bundle, askedAt);
    const inode = bundle && this.#openInode(bundle, askedAt, { type: dentry.type, parent, fileId: dentry.fileId });
    if (inode === null || inode.isDamaged) return { dentry, inode };
    if (inode.attributes.fileId !== dentry.fileId) throw this.mistrust(record.link, "not the file that its name was given to");
    if (!this.#isNamedBy(inode, dentry, hash)) throw this.mistrust(record.link, `not what it is called in folder ${parent}`);
    return { dentry, inode };
  }

  /** What stands for an entry that can't be read. What it led to is believed where that says itself that it has this name, and no other. */
  #standIn(parent: number, hash: Uint8Array, version: number, bundle: InodeBundle | null, askedAt: number): LoadedEntry {
    const nothing = { type: FileType.REGULAR, parent, fileId: "" };
    const own = { name: standInName(hash), version, cookie: cookieOf(hash), isDamaged: true };
    const inode = bundle && this.#openInode(bundle, askedAt, nothing);
    let goesWithIt: LoadedInode["goesWithIt"] = null;
    if (inode !== null && !inode.isDamaged && inode.attributes.nlink === 1 && inode.attributes.nameSum === hashText(hash)) {
      const { number, attributes } = inode;
      const { fileId, mode } = attributes;
      const type = mode & FileType.MASK;
      // What is in a folder can be reached, and saved under a new name. A file goes with its name.
      if (type === FileType.DIRECTORY) return { dentry: { ...own, type, number, fileId }, inode };
      goesWithIt = { number, version: inode.version };
    }
    const number = standInNumber(hash);
    const rest = { counters: null, region0: null, leased: false, goesWithIt };
    return {
      dentry: { ...own, ...nothing, number },
      inode: { number, version: 0, isDamaged: true, attributes: standInAttributes(nothing), ...rest },
    };
  }

  /** Whether an inode says of itself what an entry says of it. Both are of one moment, unless one is of a snapshot. */
  #isNamedBy({ number, attributes }: LoadedInode, dentry: LoadedDentry, hash: Uint8Array): boolean {
    if ((attributes.mode & FileType.MASK) !== dentry.type) return false;
    if (attributes.nlink !== 1 || this.#calls.isStaged?.(this.name, number) === true) return true;
    return attributes.nameSum === hashText(hash);
  }

  #openDentry(dir: FileRef, hash: Uint8Array, record: StoredRecord): LoadedDentry {
    const key = dentryKey(dir.number, hash);
    const { name, type, fileId } = decodeDentry(openRecord(this.#keys, key, record.link, dir.fileId, record.value));
    return { name, type, fileId, number: record.link, version: record.version, isDamaged: false, cookie: cookieOf(hash) };
  }

  /** @throws FsError EIO */
  #openRegion(file: FileRef, key: Uint8Array, record: StoredRecord | null): StoredRegion {
    const region = this.#openRegionOrNull(file, key, record);
    if (region === null) throw new DamageError(`region ${regionOfKey(key)} of inode ${file.number}`);
    return region;
  }

  /** null: it can't be opened; who needs it asks for it alone, and is told. */
  #openRegionOrNull(file: FileRef, key: Uint8Array, record: StoredRecord | null): StoredRegion | null {
    if (record === null) return { version: 0, generation: 0, map: new ExtentMap() };
    const opened = this.#damage.attempt(`region ${regionOfKey(key)} of inode ${file.number}`, key, () =>
      decodeRegion(openRecord(this.#keys, key, record.link, file.fileId, record.value)),
    );
    return opened === null ? null : { version: record.version, ...opened };
  }
}

function isRefusal(error: unknown, code: NodeErrorCode): boolean {
  return error instanceof FsError && error.cause instanceof NodeError && error.cause.code === code;
}

/** A name hash as it is summed up in attributes. */
export function hashText(hash: Uint8Array): string {
  return Buffer.from(hash.buffer, hash.byteOffset, hash.byteLength).toString("latin1");
}
