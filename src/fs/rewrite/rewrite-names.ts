/** Seals entries of folders anew. Each keeps its place, which is a hash of its name under the first epoch's key. */
import type { FileId } from "../../crypto/file-id.ts";
import { IntegrityError } from "../../crypto/integrity-error.ts";
import { carriedFileId, openRecord } from "../../crypto/record-seal.ts";
import { ROOT_INO } from "../../protocol/limits.ts";
import type { Check } from "../../protocol/messages.ts";
import { inodeKey, inodeOfKey } from "../../protocol/record-keys.ts";
import type { PlainPut } from "../shard/shard.ts";
import { commitMoved, isOldRecord, type KeyedRecord, type RewriteTools } from "./rewrite-tools.ts";

/** Entries in one delta. Each ends what mounts may trust of its folder, so they are not moved one by one. */
const ENTRIES_PER_DELTA = 256;

export class NameRewriter {
  readonly #tools: RewriteTools;
  /** The folder that was asked for last: entries come folder by folder. null: it is gone, or can't be read. */
  #folder: { readonly number: number; readonly fileId: FileId | null } = { number: 0, fileId: null };

  constructor(tools: RewriteTools) {
    this.#tools = tools;
  }

  /** Seals those of these entries anew that are old. @throws NodeError, TransportError, FsError */
  async rewrite(page: readonly KeyedRecord[]): Promise<void> {
    const old = page.filter(({ record }) => isOldRecord(this.#tools.keys, record));
    for (let at = 0; at < old.length && !this.#tools.stop.aborted; at += ENTRIES_PER_DELTA) {
      await this.#commit(await this.#open(old.slice(at, at + ENTRIES_PER_DELTA)));
    }
  }

  async #open(entries: readonly KeyedRecord[]): Promise<{ put: PlainPut; check: Check }[]> {
    const { keys, skipped } = this.#tools;
    const opened: { put: PlainPut; check: Check }[] = [];
    for (const { key, record } of entries) {
      const folder = inodeOfKey(key);
      const fileId = await this.#fileIdOf(folder);
      try {
        if (fileId === null) throw new IntegrityError("the folder's attributes can't be read");
        const plaintext = openRecord(keys, key, record.link, fileId, record.value);
        opened.push({
          put: { key, fileId, link: record.link, chunks: [], plaintext },
          check: { kind: "version", key, version: record.version },
        });
      } catch (error) {
        if (!(error instanceof IntegrityError)) throw error;
        skipped.set(folder, "damaged");
      }
    }
    return opened;
  }

  async #commit(entries: { put: PlainPut; check: Check }[]): Promise<void> {
    for (let left = entries; left.length > 0; ) {
      const result = await commitMoved(this.#tools, { checks: left.map(({ check }) => check), puts: left.map(({ put }) => put) });
      if (result?.ok !== false) return;
      // These were changed or removed meanwhile: the next pass looks again.
      const failed = new Set(result.failed);
      left = left.filter(({ put }, i) => {
        if (failed.has(i)) this.#tools.skipped.set(inodeOfKey(put.key), "busy");
        return !failed.has(i);
      });
    }
  }

  /** What the entries of a folder are bound to; it is true when one opens with it. */
  async #fileIdOf(number: number): Promise<FileId | null> {
    if (number === ROOT_INO) return this.#tools.shard.rootFileId;
    if (this.#folder.number === number) return this.#folder.fileId;
    const { calls, keys } = this.#tools;
    const { answer } = await calls.call("get", { ns: keys.namespace, keys: [inodeKey(number)] });
    let fileId: FileId | null = null;
    try {
      const record = answer.records[0] ?? null;
      if (record !== null) fileId = carriedFileId(record.value);
    } catch (error) {
      if (!(error instanceof IntegrityError)) throw error;
    }
    this.#folder = { number, fileId };
    return fileId;
  }
}
