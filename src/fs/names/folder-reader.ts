/**
 * Reading a folder: entries in the order of their name hashes, which never changes, so that a position stays valid while others come
 * and go. A folder that fits in memory is read from a snapshot taken at its start, a larger one page by page.
 */
import { FOLDER_ENTRIES_MAX } from "../inodes/folder.ts";
import { listAhead } from "../inodes/folder-prefetch.ts";
import type { Inode } from "../inodes/inode.ts";
import type { Namespace } from "../inodes/namespace.ts";
import type { FillEntry, Name } from "../posix/vfs.ts";
import { FileType } from "../records/inode-record.ts";
import { COOKIE_MIN, hashAfterCookie } from "../shard/shard.ts";

const COOKIE_DOT = 1;
const COOKIE_DOT_DOT = 2;

interface Item {
  name: Name;
  number: number;
  type: number;
  cookie: number;
}

/** Entries from one cookie to another, in order. */
interface Page {
  items: Item[];
  /** Every entry with a cookie above this one, up to that of the last item, is in. */
  after: number;
  /** There are entries beyond the last item. */
  more: boolean;
}

export class FolderReader {
  readonly #namespace: Namespace;
  readonly #dir: Inode;
  #page: Page | null = null;

  constructor(namespace: Namespace, dir: Inode) {
    this.#namespace = namespace;
    this.#dir = dir;
  }

  /** Offers the entries after `offset` to `fill` until it has no room or there are no more. Returns at once if all are in memory. */
  read(offset: number, withAttr: boolean, parentIno: number, fill: FillEntry): Promise<void> | undefined {
    if (offset === 0) {
      this.#page = null;
      if (this.#dir.folder.isAhead) listAhead(this.#namespace, this.#dir);
    }
    const attr = withAttr ? this.#dir : null;
    if (offset < COOKIE_DOT && !fill(".", this.#dir.ino, FileType.DIRECTORY, COOKIE_DOT, attr)) return undefined;
    if (offset < COOKIE_DOT_DOT && !fill("..", parentIno, FileType.DIRECTORY, COOKIE_DOT_DOT, null)) return undefined;
    const after = Math.max(offset, COOKIE_MIN - 1);
    this.#page ??= this.#snapshot();
    if (this.#page === null || after < this.#page.after) return this.#readPages(after, withAttr, fill);
    const next = this.#offer(this.#page, after, withAttr, fill);
    return next === null ? undefined : this.#readPages(next, withAttr, fill);
  }

  async #readPages(after: number, withAttr: boolean, fill: FillEntry): Promise<void> {
    const entries = this.#dir.counters?.entries ?? 0;
    if (this.#page === null && entries <= FOLDER_ENTRIES_MAX) {
      const listed = this.#namespace.listOrRemember(this.#dir);
      listAhead(this.#namespace, this.#dir);
      await listed;
      this.#page = this.#snapshot();
    }
    for (let next: number | null = after; next !== null; ) {
      if (this.#page === null || next < this.#page.after || isUsedUp(this.#page, next)) this.#page = await this.#fetch(next);
      next = this.#offer(this.#page, next, withAttr, fill);
    }
  }

  /** Everything, if it is in memory. */
  #snapshot(): Page | null {
    const entries = this.#namespace.wholeFolder(this.#dir);
    if (entries === null) return null;
    const items: Item[] = [];
    for (const [name, { number, type, cookie }] of entries) if (number !== 0) items.push({ name, number, type, cookie });
    // A folder that was listed and not changed since is in order already.
    if (!isSorted(items)) items.sort((a, b) => a.cookie - b.cookie);
    return { items, after: 0, more: false };
  }

  async #fetch(after: number): Promise<Page> {
    const hash = after < COOKIE_MIN ? new Uint8Array() : hashAfterCookie(after);
    const { entries, more } = await this.#namespace.listPage(this.#dir, hash);
    const items = entries.map(({ dentry }) => ({ name: dentry.name, number: dentry.number, type: dentry.type, cookie: dentry.cookie }));
    return { items, after, more };
  }

  /** Offers a page's entries after a cookie. Returns the cookie to go on after on the next page, or null when done or full. */
  #offer(page: Page, after: number, withAttr: boolean, fill: FillEntry): number | null {
    const { items } = page;
    const folder = this.#namespace.folderOf(this.#dir);
    let last = after;
    for (let i = firstAfter(items, after); i < items.length; i++) {
      const { name, number, type, cookie } = items[i] as Item;
      last = cookie;
      const known = folder.find(name);
      // Removed since, here or (by what the node told us) elsewhere.
      if (known !== undefined && known.number !== number) continue;
      const inode = withAttr ? this.#namespace.peek(number) : undefined;
      const attr = inode !== undefined && this.#namespace.isFresh(inode) ? inode : null;
      if (!fill(name, this.#namespace.mountIno(number), type, cookie, attr)) return null;
    }
    return page.more ? last : null;
  }
}

function isSorted(items: readonly Item[]): boolean {
  let last = 0;
  for (const { cookie } of items) {
    if (cookie < last) return false;
    last = cookie;
  }
  return true;
}

function isUsedUp(page: Page, after: number): boolean {
  return page.more && (page.items.at(-1)?.cookie ?? page.after) <= after;
}

/** Index of the first item with a cookie above `after`. */
function firstAfter(items: readonly Item[], after: number): number {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((items[middle] as Item).cookie > after) high = middle;
    else low = middle + 1;
  }
  return low;
}
