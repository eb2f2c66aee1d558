/** Writing: takes over an application's bytes, keeps the amount of dirty data bounded, and writes out in time. */
import type { ChunkRef } from "../../crypto/chunk-seal.ts";
import { BLOCK_BYTES, KIB, TAG_BYTES } from "../../protocol/limits.ts";
import type { FileContent } from "../inodes/file-content.ts";
import type { Inode } from "../inodes/inode.ts";
import type { Namespace } from "../inodes/namespace.ts";
import { modeAfterWrite } from "../inodes/set-id.ts";
import { now } from "../posix/clock.ts";
import { FsError } from "../posix/errno.ts";
import { addOffset, maxOffset } from "../posix/offsets.ts";
import type { Caller, MaybePromise, Offset } from "../posix/vfs.ts";
import type { NodeCalls } from "../shard/node-calls.ts";
import type { ContentStore } from "./content-store.ts";
import { Reservations } from "./reservations.ts";
import { type Owed, SpaceCredit } from "./space-credit.ts";
import { placeAppended, writeOutLocked } from "./write-out.ts";

/** Dirty data is committed after this long at the latest, so that a crash of the client loses no more. */
const DIRTY_MAX_MS = 5_000;
const DIRTY_CHECK_MS = 1_000;
/**
 * From this part of the dirty cells on, full segments are sent before anybody asks for it, a few at a time. Later than at once, because
 * what a random writer writes again meanwhile need not be sent twice; sooner than when all is full, because writers wait then.
 */
const EARLY_UPLOAD_PART = 0.5;
const EARLY_UPLOADS_MAX = 3;
/** A segment that begins and one that ends may each need a cell beyond the bytes' own. */
const SPARE_CELLS = 2;
/**
 * What dirty bytes take at the node at most. A cell: its bytes, a tag, and its share of a chunk's header and of the entry that names the chunk. A
 * file: the rest of its records, and what stands inline in one and is copied into a chunk with what is new. A write: the extents that it adds, 16
 * bytes each, and those that it cuts in two.
 */
const CELL_OWES_BYTES = BLOCK_BYTES + TAG_BYTES + 240;
const FILE_OWES_BYTES = 128 * KIB;
const WRITE_OWES_BYTES = 64;
/** Set aside for what is to be written later: pages of 4 KiB. */
const WRITES_PER_CELL = 16;

export interface FailureLog {
  warn(fields: object, message: string): void;
}

interface DirtyFile {
  readonly namespace: Namespace;
  /** That made what is dirty. */
  writes: number;
}

export class FileWriter implements Owed {
  readonly #store: ContentStore;
  readonly #log: FailureLog;
  readonly #dirty = new Map<Inode, DirtyFile>();
  readonly #credit: SpaceCredit;
  readonly #reservations = new Reservations({
    blockBytes: CELL_OWES_BYTES + WRITES_PER_CELL * WRITE_OWES_BYTES,
    onceBytes: owedFor(SPARE_CELLS + 1),
  });
  #relief: Promise<void> | null = null;
  #flush: Promise<void> | null = null;
  readonly #timer: Timer;
  /** Of the dirty files, and what clean ones had. */
  #writes = 0;
  #settledWrites = 0;
  #settledFiles = 0;

  constructor(store: ContentStore, log: FailureLog, calls: Pick<NodeCalls, "call">) {
    this.#store = store;
    this.#log = log;
    this.#credit = new SpaceCredit(calls, this);
    // Where none is to be had, the write-out itself meets the refusal.
    store.onCopied = () => (this.#credit.spare >= 0 ? Promise.resolve() : this.#credit.obtain(0).catch(() => undefined));
    this.#timer = setInterval(() => {
      this.#writeOutOld();
      this.#credit.rest();
    }, DIRTY_CHECK_MS);
  }

  get bytes(): number {
    return this.writtenBytes + this.#reservations.owedBytes;
  }

  get writtenBytes(): number {
    return this.#store.dirtyCells * CELL_OWES_BYTES + this.#dirty.size * FILE_OWES_BYTES + this.#writes * WRITE_OWES_BYTES;
  }

  get settledBytes(): number {
    return this.#store.releasedCells * CELL_OWES_BYTES + this.#settledFiles * FILE_OWES_BYTES + this.#settledWrites * WRITE_OWES_BYTES;
  }

  /** There is a new connection to the node. */
  onConnected(): void {
    this.#credit.declare();
  }

  /**
   * Takes the bytes over; they are copied before this returns. `append`: they go to the file's end.
   * @throws FsError EDQUOT, ENOSPC: the node has no room for them. For what was taken over there is.
   */
  write(namespace: Namespace, inode: Inode, caller: Caller, offset: Offset, data: Uint8Array, append: boolean): MaybePromise<number> {
    const cellsWanted = Math.ceil(data.length / BLOCK_BYTES) + SPARE_CELLS;
    if (
      this.#store.dirtyCells + cellsWanted <= this.#store.dirtyCellsMax &&
      this.#credit.spare >= this.#needed(inode, offset, data.length, append, cellsWanted)
    ) {
      const cells = this.#store.arena.tryTake(cellsWanted);
      if (cells !== null) return this.#apply(namespace, inode, caller, offset, data, append, cells);
    }
    // A copy by constructor: slice() of a Buffer would be a view of the request's memory.
    return this.#writeSlowly(namespace, inode, caller, offset, new Uint8Array(data), append, cellsWanted);
  }

  /** `data`: a copy that is ours, and is overwritten. */
  async #writeSlowly(
    namespace: Namespace,
    inode: Inode,
    caller: Caller,
    offset: Offset,
    data: Uint8Array,
    append: boolean,
    cellsWanted: number,
  ): Promise<number> {
    try {
      for (;;) {
        while (this.#store.dirtyCells + cellsWanted > this.#store.dirtyCellsMax) await this.#relieve();
        for (;;) {
          const needed = this.#needed(inode, offset, data.length, append, cellsWanted);
          if (this.#credit.spare >= needed) break;
          await this.#obtain(needed);
        }
        const cells = await this.#store.arena.take(cellsWanted);
        // Others may have used it meanwhile.
        if (this.#credit.spare >= this.#needed(inode, offset, data.length, append, cellsWanted))
          return this.#apply(namespace, inode, caller, offset, data, append, cells);
        this.#store.arena.unpinAll(cells);
      }
    } finally {
      // Freed memory keeps what is in it.
      data.fill(0);
    }
  }

  /** Bytes of credit that a write takes, beyond what is set aside for it. Negative: less than that. */
  #needed(inode: Inode, offset: Offset, length: number, append: boolean, cellsWanted: number): number {
    const position = append ? (inode.content.appendedEnd ?? inode.size) : offset;
    return owedFor(cellsWanted) - this.#reservations.owedIn(inode, position, length);
  }

  /** See SpaceCredit. */
  get refusals(): number {
    return this.#credit.refusals;
  }

  /** What is set aside in all files, as df is to leave it out. */
  get reservedBytes(): number {
    return this.#reservations.owedBytes;
  }

  /**
   * Sets room aside for bytes [start, end) of a file, of which `holes` have none yet. The caller holds the inode's lock.
   * @throws FsError EDQUOT, ENOSPC: the node has no room for them
   */
  async reserve(inode: Inode, holes: readonly { start: number; end: number }[]): Promise<void> {
    const missing = holes.reduce((sum, { start, end }) => sum + this.#reservations.missingIn(inode, start, end), 0);
    if (missing === 0) return;
    const wanted = this.#reservations.owedForMore(missing);
    while (this.#credit.spare < wanted) await this.#obtain(wanted);
    for (const { start, end } of holes) this.#reservations.add(inode, start, end);
  }

  /** What was set aside there is not needed any more. */
  unreserve(inode: Inode, start: Offset, end: Offset): void {
    if (inode.reservedBytes === 0) return;
    this.#reservations.remove(inode, start, end);
    this.#credit.released();
  }

  /** Asks the node for room; where there is too little, again when everything dirty is stored, which takes less than it might have. */
  async #obtain(bytes: number): Promise<void> {
    try {
      await this.#credit.obtain(bytes);
      return;
    } catch (error) {
      if (!(error instanceof FsError && (error.code === "EDQUOT" || error.code === "ENOSPC"))) throw error;
    }
    // What can't be written out is for its own writer to learn.
    this.#flush ??= this.writeOutAll()
      .catch(() => undefined)
      .finally(() => {
        this.#flush = null;
      });
    await this.#flush;
    await this.#credit.obtain(bytes);
  }

  #apply(namespace: Namespace, inode: Inode, caller: Caller, offset: Offset, data: Uint8Array, append: boolean, cells: number[]): number {
    const { content } = inode;
    const taken = cells.length;
    try {
      if (append && content.frozen === null) placeAppended(namespace, inode);
      const position = append ? (content.appendedEnd ?? inode.size) : offset;
      const end = addOffset(position, data.length);
      if (append) content.active.appendFrom ??= position;
      const complete = content.write(position, data, cells, this.#store.arena);
      const time = now();
      const pending = { ...inode.pending, size: maxOffset(inode.pending?.size ?? 0, end), mtime: time, ctime: time };
      if (caller.killPriv === true) {
        const mode = modeAfterWrite(inode, caller);
        if (mode !== inode.mode) pending.mode = mode;
      }
      inode.pending = pending;
      this.#wasWritten(inode, namespace);
      this.#reservations.remove(inode, position, end);
      // A failure shows when the file is written out, which tries again.
      for (const segment of complete) this.#store.upload(segment).catch(() => undefined);
      if (this.#store.dirtyCells > this.#store.dirtyCellsMax * EARLY_UPLOAD_PART) this.#uploadEarly(content);
      return data.length;
    } finally {
      this.#store.dirtyCells += taken - cells.length;
      this.#store.arena.unpinAll(cells);
      this.#credit.used();
    }
  }

  #wasWritten(inode: Inode, namespace: Namespace): void {
    let dirty = this.#dirty.get(inode);
    if (dirty === undefined) {
      dirty = { namespace, writes: 0 };
      this.#dirty.set(inode, dirty);
    }
    dirty.writes++;
    this.#writes++;
  }

  /** Some of an inode's writes are committed. */
  #recount(inode: Inode): void {
    const dirty = this.#dirty.get(inode);
    if (dirty === undefined) return;
    const settled = Math.max(0, dirty.writes - inode.content.dirtyWrites);
    dirty.writes -= settled;
    this.#writes -= settled;
    this.#settledWrites += settled;
  }

  /** Sends the oldest segment that is full, unless enough are being sent. */
  #uploadEarly(content: FileContent): void {
    if (this.#store.uploadCount >= EARLY_UPLOADS_MAX) return;
    for (const segment of content.active.segments) {
      if (segment.roomBytes > 0 || !segment.isMutable) continue;
      this.#store.upload(segment).catch(() => undefined);
      return;
    }
  }

  /** Commits everything dirty of an inode. */
  writeOut(namespace: Namespace, inode: Inode, durable: boolean): Promise<void> {
    return inode.locked(() => this.writeOutLocked(namespace, inode, durable));
  }

  /** The same for a caller that holds the inode's lock. */
  async writeOutLocked(namespace: Namespace, inode: Inode, durable: boolean): Promise<void> {
    await writeOutLocked(namespace, this.#store, inode, durable);
    if (needsWriteOut(inode)) this.#recount(inode);
    else this.isClean(inode);
  }

  /** Another delta has committed what was pending. */
  isClean(inode: Inode): void {
    const dirty = this.#dirty.get(inode);
    if (dirty === undefined) return;
    this.#dirty.delete(inode);
    this.#writes -= dirty.writes;
    this.#settledWrites += dirty.writes;
    this.#settledFiles++;
  }

  /** Gives up what is dirty: nobody can read it any more. */
  discard(inode: Inode): void {
    const { shard } = this.#dirty.get(inode)?.namespace ?? {};
    const sent: ChunkRef[] = [];
    for (const segment of inode.content.discardDirty()) {
      // One that is being sent gives its cells up itself when it is done.
      if (segment.upload !== null) {
        segment.upload.then(
          ({ ref }) => shard?.releaseChunks([ref]),
          () => this.#store.release(segment),
        );
      } else if (segment.stored !== null) sent.push(segment.stored.ref);
      else this.#store.release(segment);
    }
    shard?.releaseChunks(sent);
    inode.pending = null;
    this.unreserve(inode, 0, Number.MAX_SAFE_INTEGER);
    this.isClean(inode);
  }

  /** Gives up everything that is dirty: it is lost. Returns of how many files that was. */
  discardAll(): number {
    const inodes = [...this.#dirty.keys()].filter(needsWriteOut);
    for (const inode of inodes) this.discard(inode);
    for (const inode of [...this.#dirty.keys()]) this.isClean(inode);
    return inodes.length;
  }

  /** Commits everything dirty; throws the first failure after having tried all. */
  async writeOutAll(): Promise<void> {
    const results = await Promise.allSettled([...this.#dirty].map(([inode, { namespace }]) => this.writeOut(namespace, inode, false)));
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  /** Inodes with bytes that the node does not have. */
  get dirtyCount(): number {
    return this.#dirty.size;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** Writes out what holds most memory; those who wait for room share the wait. Throws when nothing can be written out. */
  #relieve(): Promise<void> {
    this.#relief ??= this.#writeOutLargest().finally(() => {
      this.#relief = null;
    });
    return this.#relief;
  }

  async #writeOutLargest(): Promise<void> {
    if (await this.#store.uploadDone()) return;
    const largest = [...this.#dirty].sort(([a], [b]) => b.content.dirtyBytes - a.content.dirtyBytes)[0];
    if (largest === undefined) return await Bun.sleep(1);
    await this.writeOut(largest[1].namespace, largest[0], false);
  }

  #writeOutOld(): void {
    const oldest = performance.now() - DIRTY_MAX_MS;
    for (const [inode, { namespace }] of this.#dirty) {
      if (!needsWriteOut(inode)) {
        this.isClean(inode);
        continue;
      }
      if (inode.isLocked || inode.content.dirtySinceMs > oldest) continue;
      // A deleted file's bytes need not leave this machine. Chunks that did wait at the node for their commit.
      if (inode.isOrphan && !inode.content.hasSent) continue;
      this.writeOut(namespace, inode, false).catch((error) => {
        // Deleted by another mount: nobody can read it any more.
        if (error instanceof FsError && error.code === "ESTALE") this.discard(inode);
        this.#log.warn({ ino: inode.ino, err: error }, "writing out in the background failed; the data stays in memory and is tried again");
      });
    }
  }
}

/** What a write of so many cells may add to what is owed. */
function owedFor(cells: number): number {
  return cells * CELL_OWES_BYTES + FILE_OWES_BYTES + WRITE_OWES_BYTES;
}

function needsWriteOut(inode: Inode): boolean {
  return inode.pending !== null || inode.content.isDirty;
}
