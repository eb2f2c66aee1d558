/**
 * The numbers by which the kernel knows files. A node number is the inode number with an edition above it: once the kernel reads a file
 * from a backing file, it refuses every other way of opening that node (see io-modes.ts), so a file that must be opened otherwise gets a
 * new edition, a node of its own. The kernel finds it by looking the name up again. Programs see the inode number alone.
 *
 * Only the high word of the kernel's 64 bits differs: bits 0 to 20 belong to the inode number (below 2^53), 21 to 31 are the edition.
 */

const EDITION_SHIFT = 21;
const INO_HIGH_MASK = 2 ** EDITION_SHIFT - 1;
/** The last that fits into 11 bits. */
const EDITION_MAX = 2 ** (32 - EDITION_SHIFT) - 1;
/** Files that were ever given a new edition by one mount (some 50 bytes each, kept: the kernel may know the old number for as long). */
const MOVED_MAX = 65_536;

/** The high word of the inode number in a node number's high word. */
export function inoHigh(high: number): number {
  return high & INO_HIGH_MASK;
}

/** The edition in a node number's high word. */
export function editionOf(high: number): number {
  return high >>> EDITION_SHIFT;
}

/** What an edition adds to the high word. */
export function editionBits(edition: number): number {
  return (edition << EDITION_SHIFT) >>> 0;
}

/** The current editions of files; 0 for all but those that were moved. */
export class NodeNumbers {
  readonly #editions = new Map<number, number>();

  /** The edition that a lookup of this inode leads to. */
  edition(ino: number): number {
    return this.#editions.size === 0 ? 0 : (this.#editions.get(ino) ?? 0);
  }

  /** The kernel may know it by several numbers: what it remembers under one can be outdated by what it does under another. */
  hasMoved(ino: number): boolean {
    return this.#editions.size > 0 && this.#editions.has(ino);
  }

  canMove(ino: number): boolean {
    const edition = this.#editions.get(ino);
    return edition === undefined ? this.#editions.size < MOVED_MAX : edition < EDITION_MAX;
  }

  /** Gives it the next edition. */
  move(ino: number): void {
    if (!this.canMove(ino)) throw new Error(`inode ${ino} has had all its editions`);
    this.#editions.set(ino, this.edition(ino) + 1);
  }
}
