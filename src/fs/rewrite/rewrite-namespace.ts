/** One pass over a namespace: every record is looked at once, and what is of an earlier epoch is sealed anew. */
import type { FileId } from "../../crypto/file-id.ts";
import { IntegrityError } from "../../crypto/integrity-error.ts";
import { carriedFileId } from "../../crypto/record-seal.ts";
import { inodeOfKey, isAttrKey, KEY_KIND_DENTRY, KEY_KIND_INODE, KEY_KIND_ORPHAN } from "../../protocol/record-keys.ts";
import { needsRewrite, rewriteInode } from "./rewrite-inode.ts";
import { NameRewriter } from "./rewrite-names.ts";
import { type KeyedRecord, pages, type RewriteTools } from "./rewrite-tools.ts";

/** Inodes that are sealed anew at once: hides the way to the node, and leaves most of its disk to others. */
const INODES_AT_ONCE = 4;

/** `onInode` is called for each inode that was looked at. @throws NodeError ("not_found": the namespace is gone), TransportError, FsError */
export async function rewriteNamespace(tools: RewriteTools, onInode: () => void): Promise<void> {
  await rewriteInodes(tools, onInode);
  const names = new NameRewriter(tools);
  for await (const page of pages(tools, Uint8Array.of(KEY_KIND_DENTRY), Uint8Array.of(KEY_KIND_ORPHAN))) await names.rewrite(page);
}

async function rewriteInodes(tools: RewriteTools, onInode: () => void): Promise<void> {
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  const begin = async (number: number): Promise<void> => {
    while (running.size >= INODES_AT_ONCE) await Promise.race(running);
    const work = rewriteInode(tools, number)
      .catch((error: unknown) => void failures.push(error))
      .finally(() => running.delete(work));
    running.add(work);
  };
  let current = 0;
  let fileId: FileId | null = null;
  let isOld = false;
  try {
    for await (const page of pages(tools, Uint8Array.of(KEY_KIND_INODE), Uint8Array.of(KEY_KIND_DENTRY))) {
      for (const item of page) {
        const number = inodeOfKey(item.key);
        if (number !== current) {
          if (isOld) await begin(current);
          if (failures.length > 0) throw failures[0];
          current = number;
          fileId = null;
          isOld = false;
          onInode();
        }
        if (isAttrKey(item.key)) fileId = fileIdOf(item);
        isOld ||= needsRewrite(tools, item, fileId);
      }
    }
    if (isOld) await begin(current);
  } finally {
    await Promise.all(running);
  }
  if (failures.length > 0) throw failures[0];
}

/** null: the attributes can't be read. */
function fileIdOf({ record }: KeyedRecord): FileId | null {
  try {
    return carriedFileId(record.value);
  } catch (error) {
    if (error instanceof IntegrityError) return null;
    throw error;
  }
}
