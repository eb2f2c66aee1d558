/** In which order a program reads the subfolders of a folder, so that those that come next can be listed ahead (folder-prefetch.ts). */
import type { Name } from "../posix/vfs.ts";
import { FileType } from "../records/inode-record.ts";

/** Folders that are kept listed ahead of the reader: few where the guess may be wrong, twice as many after each that was right. */
const FOLDERS_AHEAD_MIN = 4;
export const FOLDERS_AHEAD_MAX = 16;
/** Folders of one parent that are read before the next ones are listed ahead. */
const READS_BEFORE = 2;

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

/** How a folder's subfolders are being read. */
export class FolderWalk {
  readonly #listed: Order;
  readonly #byName: Order;
  #order: Order;
  #last = 0;
  #reads = 0;
  /** Subfolders to keep listed ahead. */
  ahead = FOLDERS_AHEAD_MIN;

  constructor(entries: Iterable<[Name, { readonly number: number; readonly type: number }]>) {
    const subfolders = [...entries].filter(([, { type }]) => type === FileType.DIRECTORY);
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
