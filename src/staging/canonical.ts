/** Records of a namespace as the node has them, sealed, with what they say when opened: opening is what verifies them. */

import { nameHash } from "../crypto/name-hash.ts";
import type { NamespaceKeys } from "../crypto/namespace-keys.ts";
import { openRecord } from "../crypto/record-seal.ts";
import { decodeRegion, type StoredMap } from "../fs/records/composition.ts";
import { decodeDentry, decodeInode, type InodeAttributes } from "../fs/records/inode-record.ts";
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
  async lookup(dir: number, name: string): Promise<{ key: Uint8Array; dentry: StoredRecord; inode: InodeBundle } | null> {
    const key = dentryKey(dir, nameHash(this.#keys, dir, name));
    const want = { lease: false, region0MaxBytes: 0 };
    const { dentry, inode } = await this.#ask("lookup", { ns: this.namespace, key, want, leaseParent: false });
    return dentry === null || inode === null || inode.attr === null ? null : { key, dentry, inode };
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
    return decodeInode(openRecord(this.#keys, inodeKey(ino), record.link, record.value));
  }

  dentry(key: Uint8Array, record: StoredRecord): { name: string; type: number } {
    return decodeDentry(openRecord(this.#keys, key, record.link, record.value));
  }

  region(ino: number, region: number, record: StoredRecord): StoredMap {
    return decodeRegion(openRecord(this.#keys, regionKey(ino, region), record.link, record.value));
  }

  /** Opens a record whose content nobody needs now. @throws IntegrityError */
  verify(key: Uint8Array, record: StoredRecord): void {
    openRecord(this.#keys, key, record.link, record.value);
  }
}
