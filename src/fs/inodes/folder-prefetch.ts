/**
 * Programs that walk a tree (find, tar, rsync, git status) read one folder after the other. While one is being read, those that come next
 * are listed: the node and this client then work at the same time, and the program finds everything in memory.
 */

import { FileType } from "../records/inode-record.ts";
import type { Folder } from "./folder.ts";
import type { Inode } from "./inode.ts";
import type { Namespace } from "./namespace.ts";

/** Folders that are kept listed ahead of the reader: few where the guess may be wrong, twice as many after each that was right. */
const FOLDERS_AHEAD_MIN = 4;
const FOLDERS_AHEAD_MAX = 16;
/** Their entries together: some 2 MiB of answers. */
const ENTRIES_AHEAD_MAX = 4_096;
/** Folders of one parent that are read before the next ones are listed ahead. */
const READS_BEFORE = 2;
/** Larger folders are not listed on suspicion, nor looked for in larger parents. */
const ENTRIES_MAX = 2_048;
/** Larger folders are listed without the data of their small files: sibling-prefetch.ts brings it, when it is wanted. */
const ENTRIES_WITH_DATA_MAX = 256;
/** Folders looked at, for the few to list: bounds what one reading costs where most are in memory. */
const LOOKED_AT_MAX = 64;

/** An order of a folder's subfolders. */
class Order {
  readonly numbers: readonly number[];
  readonly #at = new Map<number, number>();

  constructor(numbers: readonly number[]) {
    this.numbers = numbers;
    for (const [at, number] of numbers.entries()) this.#at.set(number, at);
  }

  /** Where the next one after `number` stands; 0 when that isn't here. */
  next(number: number): number {
    return (this.#at.get(number) ?? -1) + 1;
  }
}

/**
 * Whether those who walk read the files too. Each folder of which a file is read pays for two that are listed with their small files' data:
 * so a walk that reads (tar, grep, cp) soon has the data of every folder before it comes there, and one that doesn't costs little.
 */
export class DataCredit {
  #folders = 0;

  fileIsRead(file: Inode): void {
    const folder = file.foundIn?.cachedFolder;
    if (folder == null || folder.areFilesRead) return;
    folder.areFilesRead = true;
    this.#folders = Math.min(this.#folders + 2, 2 * FOLDERS_AHEAD_MAX);
  }

  take(): boolean {
    if (this.#folders === 0) return false;
    this.#folders--;
    return true;
  }
}

/** How a folder's subfolders are being read. */
export class FolderWalk {
  readonly #listed: Order;
  readonly #byName: Order;
  #order: Order;
  #last = 0;
  #reads = 0;
  /** Subfolders to keep listed ahead. */
  ahead = FOLDERS_AHEAD_MIN;

  constructor(folder: Folder) {
    const subfolders = [...folder.entries].filter(([, { type }]) => type === FileType.DIRECTORY);
    this.#listed = new Order(subfolders.map(([, { number }]) => number));
    // Names hold one character per byte: this is the order of ls, of tar --sort=name, of git's index.
    subfolders.sort(([a], [b]) => (a < b ? -1 : 1));
    this.#byName = new Order(subfolders.map(([, { number }]) => number));
    this.#order = this.#listed;
  }

  /** Takes note that a subfolder is read. `wasAhead`: it had been listed before anybody asked. */
  read(number: number, wasAhead: boolean): void {
    if (number === this.#last) return;
    this.#reads++;
    this.ahead = wasAhead ? Math.min(2 * this.ahead, FOLDERS_AHEAD_MAX) : FOLDERS_AHEAD_MIN;
    for (const order of [this.#byName, this.#listed]) if (order.numbers[order.next(this.#last)] === number) this.#order = order;
    this.#last = number;
  }

  get isWalk(): boolean {
    return this.#reads >= READS_BEFORE;
  }

  /** The subfolders that come after one, as they have been read so far; 0: all. */
  *after(number: number): Generator<number> {
    const { numbers } = this.#order;
    for (let i = number === 0 ? 0 : this.#order.next(number); i < numbers.length; i++) yield numbers[i] as number;
  }
}

function walkOf(dir: Inode): FolderWalk | null {
  const folder = dir.cachedFolder;
  if ((dir.counters?.links ?? 0) === 0 || folder === null || !folder.isComplete || folder.presentCount > ENTRIES_MAX) return null;
  folder.walk ??= new FolderWalk(folder);
  return folder.walk;
}

/** To be called when a folder is listed for somebody, or was listed ahead and somebody uses it: lists those that come next. */
export function listAhead(namespace: Namespace, dir: Inode): void {
  const { folder } = dir;
  const wasAhead = folder.isAhead;
  folder.isAhead = false;
  const walk = dir.foundIn === null ? null : walkOf(dir.foundIn);
  walk?.read(dir.number, wasAhead);
  if (walk === null || !walk.isWalk) return;
  let folders = walk.ahead;
  let entries = ENTRIES_AHEAD_MAX;
  let lookedAt = 0;
  for (const next of upcoming(namespace, dir)) {
    if (++lookedAt > LOOKED_AT_MAX) return;
    const count = next.counters?.entries ?? 0;
    if (count > ENTRIES_MAX || !namespace.isFresh(next)) continue;
    const there = namespace.folderOf(next);
    if (there.isComplete && !there.isAhead) continue;
    entries -= count;
    if (folders-- === 0 || entries < 0) return;
    if (there.isComplete || there.listing !== null) continue;
    there.isAhead = true;
    const withData = count > 0 && count <= ENTRIES_WITH_DATA_MAX && namespace.dataCredit.take();
    namespace.listWhole(next, withData).catch(() => undefined);
  }
}

/** The folders that a walk comes to after `dir`, as far as they are known: those in it, those beside it, those beside its parents. */
function* upcoming(namespace: Namespace, dir: Inode): Generator<Inode> {
  yield* below(namespace, dir);
  for (let at = dir; at.foundIn !== null; at = at.foundIn) {
    const walk = walkOf(at.foundIn);
    if (walk === null || !walk.isWalk) return;
    for (const number of walk.after(at.number)) {
      const beside = namespace.peek(number);
      if (beside === undefined) continue;
      yield beside;
      yield* below(namespace, beside);
    }
  }
}

function* below(namespace: Namespace, dir: Inode): Generator<Inode> {
  const walk = walkOf(dir);
  if (walk === null) return;
  for (const number of walk.after(0)) {
    const inside = namespace.peek(number);
    if (inside === undefined) continue;
    yield inside;
    yield* below(namespace, inside);
  }
}
