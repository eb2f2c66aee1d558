/**
 * One way of reading a node at a time: the kernel's rule for passthrough (fs/fuse/iomode.c, Linux 6.9 to 6.18), and what follows from it.
 *
 * The kernel either caches a file's pages or reads its backing file; who opens a node in another way than those who have it open fails
 * with EIO. While a backing file is in use, FOPEN_DIRECT_IO is allowed only together with the same backing file, and a mapping of such a
 * descriptor is one of the backing file: what is written through it would end there, and never reach us. So:
 * - The first open decides. While a node is open in the ordinary way, all who come open it so.
 * - While it is open by passthrough, those who read the same image follow, O_DIRECT ones with FOPEN_DIRECT_IO as well.
 * - Anybody else (writers, readers of a newer version) must not open this node. The file gets a new node number, and the open fails with
 *   ESTALE, upon which the kernel looks the name up again and opens the new node (do_filp_open): the program notices nothing. Descriptors
 *   of the old node go on reading the image.
 * - What has no name to look up (/proc/self/fd/N) comes a second time by the old number: a reader then gets what the descriptor that it
 *   came from reads, a writer EBUSY.
 */
import type { BackingFile } from "../cache/images/backing-file.ts";
import { FsError } from "../fs/posix/errno.ts";
import { type HandleId, type Opened, OpenFlag } from "../fs/posix/vfs.ts";
import type { NodeNumbers } from "./node-numbers.ts";

/** The kernel's backing files; see BackingTable. */
export interface BackingIds {
  /** Acquires the file. Returns the kernel's id, above 0; or 0: the kernel can't read this file now, and nothing was acquired. */
  open(file: BackingFile): number;
  /** Releases the file. */
  close(file: BackingFile, id: number): void;
}

/** An open as the kernel asks for it. */
export interface OpenRequest {
  readonly ino: number;
  /** Of the node number that it came by. */
  readonly edition: number;
  readonly flags: number;
  /** The thread that asks; 0 where the kernel can't tell. */
  readonly pid: number;
}

/** A node that is open by passthrough. */
interface Reading {
  readonly file: BackingFile;
  readonly id: number;
  readonly key: string;
  handles: number;
}

/** Between a refused open and the next attempt of the same thread lies one lookup: after this long it counts as a new open. */
const RETRY_MS = 1_000;

function keyOf(ino: number, edition: number): string {
  return `${ino}.${edition}`;
}

function isWriting(flags: number): boolean {
  return (flags & OpenFlag.O_ACCMODE) !== OpenFlag.O_RDONLY || (flags & OpenFlag.O_TRUNC) !== 0;
}

export class IoModes {
  readonly #ids: BackingIds;
  readonly #nodes: NodeNumbers;
  readonly #onOutdated: (ino: number, edition: number) => Promise<void>;
  readonly #nowMs: () => number;
  #lettingGo: Promise<void> | null = null;
  /** Handles that are open in the ordinary way, by inode: all of the current node. */
  readonly #ordinary = new Map<number, number>();
  /** Nodes that are open by passthrough, current ones and older ones. */
  readonly #readings = new Map<string, Reading>();
  readonly #readingOf = new Map<HandleId, Reading>();
  /** Ordinary handles of older nodes. */
  readonly #strays = new Set<HandleId>();
  /** The last open of a thread, while it was refused: it should come again, by another node number. */
  readonly #refused = new Map<number, { ino: number; atMs: number }>();

  /** `onOutdated`: what the kernel knows of a file by the number with this edition is outdated. Resolves when it has let go of that. */
  constructor(
    ids: BackingIds,
    nodes: NodeNumbers,
    onOutdated: (ino: number, edition: number) => Promise<void> = () => Promise.resolve(),
    nowMs: () => number = () => performance.now(),
  ) {
    this.#ids = ids;
    this.#nodes = nodes;
    this.#onOutdated = onOutdated;
    this.#nowMs = nowMs;
  }

  /**
   * Before the filesystem is asked. Throws FsError ESTALE when this node can't be opened so; EBUSY when nothing else can be.
   * @returns true: the kernel has no newer number for it, although there is one
   */
  isStray(request: OpenRequest): boolean {
    const { ino, edition, flags, pid } = request;
    const isOld = edition !== this.#nodes.edition(ino);
    if (isOld && this.#wasRefused(ino, pid)) {
      this.#refused.delete(pid);
      if (isWriting(flags) && this.#reading(ino, edition) !== undefined) throw new FsError("EBUSY");
      return true;
    }
    if (isWriting(flags) && (this.#makeWay(ino, flags, null) || isOld)) throw this.#refusal(ino, pid);
    if (!isOld && this.#refused.size > 0) this.#refused.delete(pid);
    return false;
  }

  /**
   * After the filesystem has opened it: takes note of the handle, and changes `opened` to what the kernel allows. Throws FsError ESTALE
   * when this node can't be opened so: the handle is then to be released.
   * @returns the backing id, 0: no passthrough
   */
  enter(request: OpenRequest, isStray: boolean, opened: Opened): number {
    const { ino, edition, flags, pid } = request;
    if (isStray) {
      const reading = this.#reading(ino, edition);
      return reading === undefined ? this.#enterStray(opened) : this.#follow(reading, opened);
    }
    // The kernel comes back once: the node that it finds then must be one that can be opened so.
    const hasMoved = this.#makeWay(ino, flags, opened.backing);
    if (hasMoved || edition !== this.#nodes.edition(ino)) throw this.#refusal(ino, pid);
    const reading = this.#reading(ino, edition);
    return reading === undefined ? this.#begin(ino, edition, opened) : this.#follow(reading, opened);
  }

  /** The same for a file that was found where one should be made: the answer names the node, so that nothing need be refused. */
  enterFound(ino: number, flags: number, opened: Opened): number {
    this.#makeWay(ino, flags, opened.backing);
    return this.enter({ ino, edition: this.#nodes.edition(ino), flags, pid: 0 }, false, opened);
  }

  /** Gives the file a new node when the current one is read from another image than `backing`. Returns whether it did. */
  #makeWay(ino: number, flags: number, backing: BackingFile | null): boolean {
    const edition = this.#nodes.edition(ino);
    const reading = this.#reading(ino, edition);
    if (reading === undefined || (!isWriting(flags) && backing === reading.file)) return false;
    if (!this.#nodes.canMove(ino)) throw new FsError("EBUSY");
    this.#nodes.move(ino);
    this.#letGo(ino, edition);
    return true;
  }

  #letGo(ino: number, edition: number): void {
    const lettingGo: Promise<void> = Promise.all([this.#lettingGo, this.#onOutdated(ino, edition)]).then(() => {
      if (this.#lettingGo === lettingGo) this.#lettingGo = null;
    });
    this.#lettingGo = lettingGo;
  }

  /** Resolves when the kernel has let go of what is outdated so far: answers that make something outdated wait for it. Null: nothing is. */
  get lettingGo(): Promise<void> | null {
    return this.#lettingGo;
  }

  #reading(ino: number, edition: number): Reading | undefined {
    return this.#readings.size === 0 ? undefined : this.#readings.get(keyOf(ino, edition));
  }

  #begin(ino: number, edition: number, opened: Opened): number {
    const ordinary = this.#ordinary.get(ino) ?? 0;
    if (opened.backing !== null && !opened.directIo && ordinary === 0 && this.#nodes.canMove(ino) && !this.#isAwaited(ino)) {
      const id = this.#ids.open(opened.backing);
      if (id > 0) {
        const reading = { file: opened.backing, id, key: keyOf(ino, edition), handles: 0 };
        this.#readings.set(reading.key, reading);
        return this.#follow(reading, opened);
      }
    }
    this.#ordinary.set(ino, ordinary + 1);
    if (this.#nodes.hasMoved(ino)) opened.keepCache = false;
    return 0;
  }

  #follow(reading: Reading, opened: Opened): number {
    reading.handles++;
    this.#readingOf.set(opened.handle, reading);
    // The kernel refuses FOPEN_KEEP_CACHE together with passthrough.
    opened.keepCache = false;
    return reading.id;
  }

  /** Its pages would be a second copy, which nothing keeps right. */
  #enterStray(opened: Opened): number {
    this.#strays.add(opened.handle);
    opened.keepCache = false;
    opened.directIo = true;
    return 0;
  }

  #refusal(ino: number, pid: number): FsError {
    const atMs = this.#nowMs();
    // Entries are in order of time; those that were not come back for are few.
    for (const [thread, refused] of this.#refused) {
      if (atMs - refused.atMs < RETRY_MS) break;
      this.#refused.delete(thread);
    }
    this.#refused.delete(pid);
    this.#refused.set(pid, { ino, atMs });
    return new FsError("ESTALE");
  }

  #wasRefused(ino: number, pid: number): boolean {
    const refused = this.#refused.get(pid);
    return pid !== 0 && refused?.ino === ino && this.#nowMs() - refused.atMs < RETRY_MS;
  }

  /** Somebody whom passthrough kept from opening it is about to try again, and must not be refused twice. */
  #isAwaited(ino: number): boolean {
    if (this.#refused.size === 0) return false;
    const nowMs = this.#nowMs();
    for (const refused of this.#refused.values()) if (refused.ino === ino && nowMs - refused.atMs < RETRY_MS) return true;
    return false;
  }

  /** Attributes were changed by the number with this edition: what the kernel has cached by the current one can be outdated. */
  changed(ino: number, edition: number): void {
    const current = this.#nodes.edition(ino);
    if (edition !== current) this.#letGo(ino, current);
  }

  /** The handle is closed. */
  leave(ino: number, handle: HandleId): void {
    const reading = this.#readingOf.size === 0 ? undefined : this.#readingOf.get(handle);
    if (reading !== undefined) {
      this.#readingOf.delete(handle);
      if (--reading.handles > 0) return;
      this.#readings.delete(reading.key);
      this.#ids.close(reading.file, reading.id);
      return;
    }
    if (this.#strays.delete(handle)) return;
    const left = (this.#ordinary.get(ino) ?? 0) - 1;
    if (left > 0) this.#ordinary.set(ino, left);
    else this.#ordinary.delete(ino);
  }

  /** Nodes that are open by passthrough. */
  get readingCount(): number {
    return this.#readings.size;
  }

  /** The session is over: releases every image. */
  close(): void {
    for (const reading of this.#readings.values()) this.#ids.close(reading.file, reading.id);
    this.#readings.clear();
    this.#readingOf.clear();
  }
}
