/**
 * Data-key epochs that another client begins (kiseki tenant rotate) while this one runs: they are taken up when the node is asked for the keys
 * next, or before the first record that is sealed under one is opened.
 *
 * A chunk's epoch is never newer than that of the record which refers to it: a client takes an epoch up in its own ring first, and seals the
 * record last. So it is enough to look at records.
 */
import type { Pool } from "../cache/pool/pool.ts";
import { storeWrappedKeys } from "../cache/pool/wrapped-keys.ts";
import { type KeyRing, type WrappedKey, wipeMaterial } from "../crypto/key-ring.ts";
import { epochOfRecord } from "../crypto/record-seal.ts";
import type { Logger } from "../log.ts";
import type { AnswerOf, InodeBundle, OpName, StoredRecord } from "../protocol/messages.ts";
import type { TransferPool } from "../transfer/transfer-pool.ts";
import type { NodeClient } from "../transport/node-client.ts";

export interface KeyEpochsOptions {
  readonly node: NodeClient;
  readonly keys: KeyRing;
  readonly transfer: TransferPool;
  readonly pool: Pool | null;
  readonly log: Logger;
}

export class KeyEpochs {
  readonly #options: KeyEpochsOptions;
  #asking: Promise<void> | null = null;
  /** Epochs whose keys don't open, which the log knows of. */
  readonly #refused = new Set<number>();

  constructor(options: KeyEpochsOptions) {
    this.#options = options;
  }

  /** For NodeClient's beforeAnswer: null, unless the answer has a record of an epoch that must be asked for first. */
  before(op: OpName, answer: AnswerOf<OpName>): Promise<void> | null {
    switch (op) {
      case "lookup": {
        const { dentry, inode } = answer as AnswerOf<"lookup">;
        return this.#knows(dentry) && this.#knowsAllOf(inode) ? null : this.#ask();
      }
      case "inode":
        return this.#knowsAllOf((answer as AnswerOf<"inode">).inode) ? null : this.#ask();
      case "list": {
        const { entries } = answer as AnswerOf<"list">;
        return entries.every(({ dentry, inode }) => this.#knows(dentry) && this.#knowsAllOf(inode)) ? null : this.#ask();
      }
      case "get":
        return (answer as AnswerOf<"get">).records.every((record) => this.#knows(record)) ? null : this.#ask();
      case "range":
        return (answer as AnswerOf<"range">).records.every(({ record }) => this.#knows(record)) ? null : this.#ask();
      default:
        return null;
    }
  }

  #knows(record: StoredRecord | null): boolean {
    const epoch = record === null ? null : epochOfRecord(record.value);
    return epoch === null || this.#options.keys.has(epoch);
  }

  #knowsAllOf(inode: InodeBundle | null): boolean {
    return inode === null || (this.#knows(inode.attr) && this.#knows(inode.region0));
  }

  async #ask(): Promise<void> {
    this.#asking ??= this.#options.node
      .call("keyList", {})
      .then(({ answer }) => this.takeUp(answer.keys))
      .finally(() => {
        this.#asking = null;
      });
    await this.#asking;
  }

  /** Takes up those of the tenant's keys, as the node has them, that are new. */
  takeUp(wrapped: readonly WrappedKey[]): void {
    const { keys, transfer, pool, log } = this.#options;
    if (keys.isWiped || wrapped.every(({ epoch }) => keys.has(epoch))) return;
    let isNew = false;
    for (const key of wrapped) {
      try {
        isNew = keys.add(key) || isNew;
      } catch (error) {
        // Whoever has the tenant's TLS key can put one there. What it would open was sealed by nobody who has the KEK.
        if (!this.#refused.has(key.epoch)) log.error({ err: error, epoch: key.epoch }, "a new data key doesn't open, and is not used");
        this.#refused.add(key.epoch);
      }
    }
    if (!isNew) return;
    const material = keys.export();
    transfer.addKeys(material);
    wipeMaterial(material);
    log.info({ epoch: keys.current.epoch }, "a new data key was taken up: what is written from now on is sealed under it");
    if (pool === null) return;
    try {
      storeWrappedKeys(
        pool.path,
        wrapped.filter(({ epoch }) => keys.has(epoch)),
      );
    } catch (error) {
      log.warn({ err: error }, "the new data key could not be kept in the pool: a mount that takes it over needs a node for what is new");
    }
  }
}
