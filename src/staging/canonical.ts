/** Records of a namespace as the node has them, sealed, with what they say when opened: opening is what verifies them. */

import { IntegrityError } from "../crypto/integrity-error.ts";
import { nameHash } from "../crypto/name-hash.ts";
import type { NamespaceKeys } from "../crypto/namespace-keys.ts";
import { carriedFileId, openRecord } from "../crypto/record-seal.ts";
import { decodeRegion, type StoredMap } from "../fs/records/composition.ts";
import { decodeDentry, decodeInode, type InodeAttributes, regionFits } from "../fs/records/inode-record.ts";
import type { FileRef } from "../fs/shard/shard.ts";
import { ROOT_INO } from "../protocol/limits.ts";
import type { AnswerOf, InodeBundle, RequestOf, StoredRecord } from "../protocol/messages.ts";
import { dentryKey, inodeKey, inodePrefix, prefixEnd, regionKey } from "../protocol/record-keys.ts";
import type { ClientRequestOp } from "../transport/node-client-options.ts";
import { abortable } from "./abortable.ts";
import type { AnyCalls } from "./any-calls.ts";

/** Records in one answer. */
const RANGE_LIMIT = 1_024;
/** A file that changes whenever it is read is given up after this many tries. */
const READS_MAX = 8;

/** All records of one inode, of one moment. */
export interface WholeInode {
  attr: StoredRecord;
  attributes: InodeAttributes;
  /** The attributes first, then regions and extended attributes, in key order. */
  records: { key: Uint8Array; record: StoredRecord }[];
}

/** A name, and what it leads to. */
export interface FoundEntry {
  readonly key: Uint8Array;
  readonly dentry: StoredRecord;
  readonly inode: InodeBundle;
  readonly attributes: InodeAttributes;
}

export class Canonical {
  readonly namespace: string;
  readonly #node: AnyCalls;
  readonly #keys: NamespaceKeys;
  readonly #signal: AbortSignal | null;

  /** @param signal ends every wait for the node */
  constructor(node: AnyCalls, keys: NamespaceKeys, signal: AbortSignal | null = null) {
    this.#node = node;
    this.#keys = keys;
    this.#signal = signal;
    this.namespace = keys.namespace;
  }

  async #ask<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<AnswerOf<O>> {
    const asked = this.#node.call(op, request);
    return (this.#signal === null ? await asked : await abortable(asked, this.#signal)).answer;
  }

  /** null: no such inode. */
  async inode(ino: number): Promise<InodeBundle | null> {
    const { inode } = await this.#ask("inode", { ns: this.namespace, ino, want: { lease: false, region0MaxBytes: 0 } });
    return inode.attr === null ? null : inode;
  }

  /** null: no such name. */
  async lookup(dir: FileRef, name: string): Promise<FoundEntry | null> {
    const key = dentryKey(dir.number, nameHash(this.#keys, dir.number, name));
    const want = { lease: false, region0MaxBytes: 0 };
    const { dentry, inode } = await this.#ask("lookup", { ns: this.namespace, key, want, leaseParent: false });
    if (dentry === null || inode === null || inode.attr === null) return null;
    const { attributes } = this.entry(dir, key, dentry, inode.attr);
    return { key, dentry, inode, attributes };
  }

  list(dir: number, after: Uint8Array, limit: number, region0MaxBytes: number): Promise<AnswerOf<"list">> {
    const want = { lease: false, region0MaxBytes };
    return this.#ask("list", { ns: this.namespace, dir, after, limit, inodes: true, want, leaseDir: false });
  }

  /** All records of an inode, which belong together: what several answers bring is asked for again when it changed between them. */
  async whole(ino: number): Promise<WholeInode | null> {
    const prefix = inodePrefix(ino);
    const to = prefixEnd(prefix) ?? prefix;
    const attrKey = Buffer.from(inodeKey(ino));
    for (let tries = 0; tries < READS_MAX; tries++) {
      const records: WholeInode["records"] = [];
      let pages = 0;
      for (let from: Uint8Array = prefix, more = true; more; pages++) {
        const answer = await this.#ask("range", { ns: this.namespace, from, to, limit: RANGE_LIMIT });
        for (const item of answer.records) records.push(item);
        more = answer.more && answer.records.length > 0;
        from = Buffer.concat([records.at(-1)?.key ?? prefix, new Uint8Array(1)]);
      }
      const attr = records.find(({ key }) => attrKey.equals(key))?.record;
      if (attr === undefined) return null;
      if (pages > 1 && (await this.inode(ino))?.attr?.version !== attr.version) continue;
      return { attr, attributes: this.attributes(ino, attr), records };
    }
    throw new Error(`inode ${ino} kept changing while it was staged`);
  }

  attributes(ino: number, record: StoredRecord): InodeAttributes {
    const fileId = carriedFileId(record.value);
    return decodeInode(openRecord(this.#keys, inodeKey(ino), record.link, fileId, record.value), fileId);
  }

  /** The attributes of the root folder. @throws IntegrityError when they are another one's */
  rootAttributes(record: StoredRecord): InodeAttributes {
    const attributes = this.attributes(ROOT_INO, record);
    if (attributes.fileId !== this.#keys.rootFileId) throw new IntegrityError("not the root folder");
    return attributes;
  }

  /** An entry of a folder and the attributes of what it leads to. @throws IntegrityError when they don't belong together */
  entry(dir: FileRef, key: Uint8Array, dentry: StoredRecord, attr: StoredRecord): { name: string; attributes: InodeAttributes } {
    const { name, fileId } = decodeDentry(openRecord(this.#keys, key, dentry.link, dir.fileId, dentry.value));
    const attributes = this.attributes(dentry.link, attr);
    if (attributes.fileId !== fileId) throw new IntegrityError(`inode ${dentry.link} is not the file that its name was given to`);
    return { name, attributes };
  }

  /** @throws IntegrityError also when the region is of another time than the attributes */
  region(ino: number, attributes: InodeAttributes, region: number, record: StoredRecord): StoredMap {
    const { map, generation } = decodeRegion(openRecord(this.#keys, regionKey(ino, region), record.link, attributes.fileId, record.value));
    if (!regionFits(attributes, region, generation)) throw new IntegrityError(`inode ${ino}: extents of another time than its attributes`);
    return map;
  }

  /** Opens the record of an extended attribute. @throws IntegrityError */
  xattr(key: Uint8Array, attributes: InodeAttributes, record: StoredRecord): { name: string; value: Uint8Array } {
    const plaintext = Buffer.from(openRecord(this.#keys, key, record.link, attributes.fileId, record.value));
    const nameLength = plaintext[0] ?? 0;
    return { name: plaintext.toString("latin1", 1, 1 + nameLength), value: plaintext.subarray(1 + nameLength) };
  }
}
