/** One namespace of a mount with what works on it. */

import type { BackingFile, StagedImages } from "../cache/images/backing-file.ts";
import { type FileReader, ReadPattern } from "./content/file-reader.ts";
import { COPY_MAX_BYTES, fallocate, seek, shareRange, truncate } from "./content/file-shape.ts";
import type { FailureLog, FileWriter } from "./content/file-writer.ts";
import { CAPABILITY_XATTR, changeAttributes, loadXattrs, pendingOf, removeXattr, replaceFlags } from "./inodes/attributes.ts";
import { requireMayWrite } from "./inodes/flags.ts";
import { Inode } from "./inodes/inode.ts";
import type { Namespace } from "./inodes/namespace.ts";
import { FolderReader } from "./names/folder-reader.ts";
import type { Tree } from "./names/tree.ts";
import { FsError } from "./posix/errno.ts";
import { addOffset } from "./posix/offsets.ts";
import {
  type Caller,
  FallocateMode,
  type KernelCache,
  type MaybePromise,
  type Offset,
  OpenFlag,
  type ReadResult,
  type SetAttr,
} from "./posix/vfs.ts";

/** An open file. */
export interface FileHandle {
  readonly kind: "file";
  readonly volume: Volume;
  readonly inode: Inode;
  /** O_DIRECT: past the client's caches. */
  readonly isDirect: boolean;
  readonly isWritable: boolean;
  readonly pattern: ReadPattern;
}

/** An open folder. */
export interface FolderHandle {
  readonly kind: "folder";
  readonly volume: Volume;
  readonly inode: Inode;
  readonly reader: FolderReader;
}

/** What a volume shares with the others of its mount. */
export interface VolumeTools {
  reader: FileReader;
  writer: FileWriter;
  log: FailureLog;
  /** Staged files that have a local image; null: none ever has. */
  images?: StagedImages | null;
}

export class Volume {
  readonly name: string;
  readonly namespace: Namespace;
  readonly tree: Tree;
  readonly #reader: FileReader;
  readonly #writer: FileWriter;
  readonly #log: FailureLog;
  readonly #images: StagedImages | null;
  #kernel: KernelCache | null = null;

  constructor(namespace: Namespace, tree: Tree, { reader, writer, log, images = null }: VolumeTools) {
    this.name = namespace.shard.name;
    this.namespace = namespace;
    this.tree = tree;
    this.#reader = reader;
    this.#writer = writer;
    this.#log = log;
    this.#images = images;
  }

  attach(kernel: KernelCache): void {
    this.#kernel = kernel;
    this.namespace.kernel = kernel;
  }

  /** The node has lost the deltas above this one. */
  tailLost(survivedSeq: number): void {
    for (const inode of this.namespace.tailLost(survivedSeq)) {
      this.#log.warn({ ino: inode.ino }, "the storage node has lost changes of this file: it can be written again when it is opened anew");
      this.#writer.discard(inode);
      // Nobody has it open who would have to know.
      if (inode.openCount === 0) inode.isWriteLost = false;
    }
  }

  /** A handle for a file that is current. */
  openHandle(inode: Inode, flags: number): FileHandle {
    if (inode.openCount === 0) inode.isWriteLost = false;
    inode.openCount++;
    if ((flags & OpenFlag.O_ACCMODE) === OpenFlag.O_RDONLY) this.namespace.dataCredit.fileIsRead(inode);
    return {
      kind: "file",
      volume: this,
      inode,
      isDirect: (flags & OpenFlag.O_DIRECT) !== 0,
      isWritable: (flags & OpenFlag.O_ACCMODE) !== OpenFlag.O_RDONLY,
      pattern: new ReadPattern(),
    };
  }

  /** The local file with the content of a file that is current, when there is one. What was written here and is not committed is in none. */
  imageOf(inode: Inode): BackingFile | null {
    if (this.#images === null || !inode.isRegular || needsWriteOut(inode)) return null;
    const image = this.#images.imageOf(this.name, inode.number, inode.version);
    return image !== null && image.bytes === inode.size ? image : null;
  }

  openFolder(inode: Inode): FolderHandle {
    inode.openCount++;
    return { kind: "folder", volume: this, inode, reader: new FolderReader(this.namespace, inode) };
  }

  /**
   * The inode as no other mount has changed it. Where it was not known to be, the kernel's copies may be older: it lets go of them first,
   * because opening alone doesn't make it ask for the size again.
   */
  current(number: number): MaybePromise<Inode> {
    const known = this.namespace.peek(number);
    const version = known?.version;
    const inode = this.namespace.getCurrent(number);
    if (inode instanceof Inode) return inode;
    return inode.then(async (fetched) => {
      if (fetched.version !== version) await this.#kernel?.invalidateInode(fetched.ino);
      return fetched;
    });
  }

  async truncate(inode: Inode, caller: Caller, change: SetAttr): Promise<void> {
    const { mode } = inode;
    requireKept(inode);
    await this.#dropCapabilities(inode);
    await inode.locked(() => truncate(this.namespace, this.#writer, inode, caller, change));
    await this.#tellOfMode(inode, mode);
  }

  /**
   * When the call returns the kernel must not go on honouring set-id bits that the call has ended: except by the answer to a setattr it does
   * not learn of them, and keeps attributes for attr_timeout.
   */
  async #tellOfMode(inode: Inode, before: number): Promise<void> {
    if (inode.mode !== before) await this.#kernel?.invalidateAttributes(inode.ino);
  }

  setattr(inode: Inode, caller: Caller, change: SetAttr): MaybePromise<Inode> {
    if (change.size !== undefined) {
      if (!inode.isRegular) throw new FsError(inode.isDirectory ? "EISDIR" : "EINVAL");
      return this.truncate(inode, caller, change).then(() => inode);
    }
    // A writer that sets times and modes before it closes (tar, cp, rsync) has them committed with its data.
    if (inode.isRegular && inode.pending !== null && !inode.isLocked) {
      inode.pending = { ...inode.pending, ...pendingOf(inode, change, caller) };
      return change.uid === undefined && change.gid === undefined ? inode : this.#dropCapabilities(inode).then(() => inode);
    }
    return this.#setattrNow(inode, caller, change);
  }

  async #setattrNow(inode: Inode, caller: Caller, change: SetAttr): Promise<Inode> {
    if (change.uid !== undefined || change.gid !== undefined) await this.#dropCapabilities(inode);
    await inode.locked(async () => {
      if (inode.pending === null) return await changeAttributes(this.namespace, inode, change, caller);
      inode.pending = { ...inode.pending, ...pendingOf(inode, change, caller) };
      await this.#writer.writeOutLocked(this.namespace, inode, false);
    });
    return inode;
  }

  /** What was written before belongs to the file as it was before it got the flags. */
  async setFlags(inode: Inode, flags: number): Promise<void> {
    await inode.locked(async () => {
      if (needsWriteOut(inode)) await this.#writer.writeOutLocked(this.namespace, inode, false);
      await replaceFlags(this.namespace, inode, flags);
    });
  }

  async #dropCapabilities(inode: Inode): Promise<void> {
    if (inode.stored.xattrSum === "") return;
    const { found } = await loadXattrs(this.namespace, inode);
    if (!found.has(CAPABILITY_XATTR)) return;
    await removeXattr(this.namespace, inode, CAPABILITY_XATTR).catch((error) => {
      if (!(error instanceof FsError && error.code === "ENODATA")) throw error;
    });
  }

  read(handle: FileHandle, caller: Caller, offset: Offset, size: number): MaybePromise<ReadResult> {
    const { inode } = handle;
    const fresh = handle.isDirect ? this.namespace.isCurrent(inode) : this.namespace.isFresh(inode);
    const result = fresh || inode.isOrphan ? this.#readNow(handle, offset, size) : this.#readRefreshed(handle, offset, size);
    return result instanceof Promise ? interruptible(caller, result) : result;
  }

  #readNow(handle: FileHandle, offset: Offset, size: number): MaybePromise<ReadResult> {
    const { inode, isDirect } = handle;
    const result = this.#reader.read(this.namespace, inode, offset, size, isDirect);
    if (!isDirect) this.#reader.readAhead(inode, handle.pattern, offset, size);
    if (!(result instanceof Promise)) return result;
    return result.catch((error) => {
      // A chunk that the node no longer has: another mount has replaced the content since we learned of it.
      if (!(error instanceof FsError && error.code === "ESTALE")) throw error;
      inode.content.forgetStored();
      this.namespace.giveUpStaged(inode);
      return this.#readRefreshed(handle, offset, size);
    });
  }

  async #readRefreshed({ inode, isDirect }: FileHandle, offset: Offset, size: number): Promise<ReadResult> {
    if (isDirect) await this.namespace.fetch(inode.number);
    else await this.namespace.refetch(inode);
    return await this.#reader.read(this.namespace, inode, offset, size, isDirect);
  }

  write(handle: FileHandle, caller: Caller, offset: Offset, data: Uint8Array, append: boolean): MaybePromise<number> {
    const { inode, isDirect } = handle;
    requireKept(inode);
    requireMayWrite(inode, append);
    if (isDirect || inode.stored.xattrSum !== "") return this.#writeThrough(handle, caller, offset, new Uint8Array(data), append);
    const { mode } = inode;
    const written = this.#writer.write(this.namespace, inode, caller, offset, data, append);
    if (caller.killPriv !== true || (typeof written === "number" && inode.mode === mode)) return written;
    return this.#written(inode, mode, written);
  }

  async #written(inode: Inode, modeBefore: number, writing: MaybePromise<number>): Promise<number> {
    const written = await writing;
    await this.#tellOfMode(inode, modeBefore);
    return written;
  }

  async #writeThrough({ inode, isDirect }: FileHandle, caller: Caller, offset: Offset, data: Uint8Array, append: boolean): Promise<number> {
    const { mode } = inode;
    let written: number;
    try {
      await this.#dropCapabilities(inode);
      written = await this.#writer.write(this.namespace, inode, caller, offset, data, append);
    } finally {
      // A copy of ours, which nothing refers to any more; freed memory keeps what is in it.
      data.fill(0);
    }
    if (isDirect) await this.#writer.writeOut(this.namespace, inode, false);
    await this.#tellOfMode(inode, mode);
    return written;
  }

  /** Times that a writer of the mount was refused for want of room. */
  get refusals(): number {
    return this.#writer.refusals;
  }

  /** What fallocate has set aside in all files of the mount. */
  get reservedBytes(): number {
    return this.#writer.reservedBytes;
  }

  /** close(2): other mounts that open the file from here on see what was written. */
  flush({ inode, isWritable }: FileHandle): MaybePromise<void> {
    if (isWritable) requireKept(inode);
    if (!needsWriteOut(inode)) return;
    if (inode.isOrphan && inode.openCount === 1) return;
    return this.#writer.writeOut(this.namespace, inode, false);
  }

  /** What is dirty of a file that has lost its last name and is not open can't be read by anyone. */
  forgetDeleted(inode: Inode): void {
    if (inode.isOrphan && inode.openCount === 0 && inode.isRegular) this.#writer.discard(inode);
  }

  release(handle: FileHandle | FolderHandle): void {
    const { inode } = handle;
    inode.openCount--;
    if (inode.openCount > 0 || !inode.isOrphan || inode.isDirectory) return;
    if (inode.isGone) {
      this.#writer.unreserve(inode, 0, Number.MAX_SAFE_INTEGER);
      this.namespace.drop(inode.number);
      return;
    }
    this.#writer.discard(inode);
    this.tree.dropOrphan(inode).catch((error) => {
      this.#log.warn(
        { ino: inode.ino, err: error },
        "a deleted file could not be dropped after its last close; the node drops it when the session ends",
      );
    });
  }

  async fsync(inode: Inode): Promise<void> {
    await this.#writer.writeOut(this.namespace, inode, true);
    requireKept(inode);
  }

  /** Every change that was committed survives power loss. */
  async sync(): Promise<void> {
    const { shard } = this.namespace;
    if (shard.lastSeq > shard.durableSeq) await shard.sync();
  }

  /** The same for all that has been written, too. */
  async syncAll(): Promise<void> {
    await this.#writer.writeOutAll();
    await this.sync();
  }

  async fallocate({ inode }: FileHandle, caller: Caller, mode: number, offset: Offset, length: Offset): Promise<void> {
    const { mode: before } = inode;
    requireKept(inode);
    requireMayWrite(inode, (mode & ~FallocateMode.KEEP_SIZE) === 0);
    await this.#dropCapabilities(inode);
    await inode.locked(() => fallocate(this.namespace, this.#writer, inode, caller, mode, offset, length));
    await this.#tellOfMode(inode, before);
  }

  async seek({ inode }: FileHandle, offset: Offset, whence: number): Promise<Offset> {
    if (inode.isGone) throw new FsError("ESTALE");
    await this.#writer.writeOut(this.namespace, inode, false);
    return await seek(this.namespace, inode, offset, whence);
  }

  async copyRange(
    caller: Caller,
    from: { handle: FileHandle; offset: Offset },
    to: { handle: FileHandle; offset: Offset },
    length: number,
  ): Promise<number> {
    const [source, target] = [from.handle.inode, to.handle.inode];
    requireKept(target);
    requireMayWrite(target, false);
    const { namespace } = from.handle.volume;
    await this.#writer.writeOut(namespace, source, false);
    // The chunks that are known of it may be deleted when another mount has written it.
    if (!source.isOrphan && !namespace.isFresh(source)) await namespace.refetch(source);
    const wanted = Math.min(length, COPY_MAX_BYTES);
    addOffset(to.offset, wanted);
    const { mode } = target;
    await this.#dropCapabilities(target);
    const shared = await target.locked(async () => {
      await this.#writer.writeOutLocked(this.namespace, target, false);
      return await shareRange(this.namespace, caller, source, from.offset, target, to.offset, wanted);
    });
    for (const { offset, data } of shared.inline) {
      await this.#writer.write(this.namespace, target, caller, offset, data, false);
    }
    await this.#tellOfMode(target, mode);
    return shared.length;
  }
}

/** @throws FsError EIO: what was written before is gone, and what is written now must not hide that */
function requireKept(inode: Inode): void {
  if (!inode.isWriteLost) return;
  throw new FsError("EIO", `inode ${inode.ino}: the storage node has lost what was written before, as by a power failure: open it anew`);
}

function needsWriteOut(inode: Inode): boolean {
  return inode.pending !== null || (inode.hasContent && inode.content.isDirty);
}

/** Fails with EINTR when the caller gets a signal; what the read brings later is released. */
function interruptible(caller: Caller, result: Promise<ReadResult>): Promise<ReadResult> {
  return new Promise((resolve, reject) => {
    let interrupted = false;
    caller.onInterrupt(() => {
      interrupted = true;
      reject(new FsError("EINTR"));
    });
    result.then((read) => {
      if (interrupted) read.release?.();
      else resolve(read);
    }, reject);
  });
}
