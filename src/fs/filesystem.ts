/**
 * The filesystem of a mount: finds the volume that an inode number or a handle belongs to, and passes the call on. With one namespace its
 * root is the mount's; with several, the mount's root is a folder of their names that exists only here.
 */
import { ROOT_INO } from "../protocol/limits.ts";
import { getXattr, loadXattrs, removeXattr, setXattr } from "./inodes/attributes.ts";
import { requireMayChange, requireMayOpen, requireMaySetAttributes, requireMaySetFlags } from "./inodes/flags.ts";
import { Inode } from "./inodes/inode.ts";
import { NAMESPACE_SPAN } from "./inodes/namespace.ts";
import type { MountRoot } from "./mount-root.ts";
import { FsError } from "./posix/errno.ts";
import { addOffset } from "./posix/offsets.ts";
import {
  type Attr,
  type Caller,
  type FillEntry,
  type HandleId,
  type MaybePromise,
  type Name,
  type Offset,
  type Opened,
  OpenFlag,
  type ReadResult,
  RenameFlag,
  type SetAttr,
  type StatFs,
  type Vfs,
} from "./posix/vfs.ts";
import { FileType } from "./records/inode-record.ts";
import { hashOfStandIn } from "./shard/damage.ts";
import type { FileHandle, FolderHandle, Volume } from "./volume.ts";

/** f_bsize: what stat and df count in. */
const STATFS_BLOCK_BYTES = 4096;
/** statfs answers are remembered this long: df and file managers ask in bursts. */
const STATFS_TTL_MS = 1_000;
const NAME_MAX_BYTES = 255;
/** umount(8) asks first thing, and must not wait for a node that is not there: after this long the last answer counts. */
const STATFS_PATIENCE_MS = 2_000;
/** And this long when it is known that there is no connection: find(1) asks, too, and needs only the type. */
const STATFS_AWAY_MS = 20;
const STATFS_UNKNOWN: StatFs = {
  blockSize: STATFS_BLOCK_BYTES,
  totalBlocks: 0,
  freeBlocks: 0,
  totalFiles: 0,
  freeFiles: 0,
  nameMax: NAME_MAX_BYTES,
};
const RENAME_FLAGS_KNOWN = RenameFlag.NOREPLACE | RenameFlag.EXCHANGE;
/** One for all: the kernel asks for capabilities before a file's first write and before each exec, and making an Error takes 9 us. */
const NO_XATTR = new FsError("ENODATA");
const EMPTY_READ: ReadResult = { pieces: [] };

export interface FilesystemOptions {
  /** One: the mount's root is its root. */
  volumes: Volume[];
  /** Set when the mount's root lists namespaces: finds those that come later. */
  root: MountRoot | null;
}

export class Filesystem implements Vfs {
  readonly #volumes: Volume[];
  readonly #root: MountRoot | null;
  readonly #handles = new Map<HandleId, FileHandle | FolderHandle | { kind: "root" }>();
  #nextHandle = 1;
  /** Set by refuse(). */
  refusal: FsError | null = null;
  #statfs: { result: StatFs; atMs: number; refusals: number } | null = null;

  constructor({ volumes, root }: FilesystemOptions) {
    this.#volumes = volumes;
    this.#root = root;
  }

  /** From now on every request is answered with this error. */
  refuse(error: FsError): void {
    this.refusal = error;
  }

  // ---- finding ----

  #isRoot(ino: number): boolean {
    return this.#root !== null && ino === ROOT_INO;
  }

  #volume(ino: number): Volume {
    if (this.#root !== null) return this.#root.volume(ino);
    const [volume] = this.#volumes;
    if (volume === undefined || ino >= NAMESPACE_SPAN) throw new FsError("ESTALE");
    return volume;
  }

  #number(ino: number): number {
    return ino % NAMESPACE_SPAN;
  }

  /** The inode and its volume; the mount's own root can't be changed. */
  #get(ino: number): MaybePromise<Inode> {
    if (this.#isRoot(ino)) throw new FsError("EPERM");
    return this.#volume(ino).namespace.get(this.#number(ino));
  }

  #folder(ino: number): MaybePromise<Inode> {
    if (this.#isRoot(ino)) throw new FsError("EPERM");
    return this.#volume(ino).namespace.getFolder(this.#number(ino));
  }

  #file(handle: HandleId): FileHandle {
    const found = this.#handles.get(handle);
    if (found?.kind !== "file") throw new FsError("EBADF");
    return found;
  }

  #register(handle: FileHandle | FolderHandle | { kind: "root" }): HandleId {
    const id = this.#nextHandle++;
    this.#handles.set(id, handle);
    return id;
  }

  // ---- inodes and names ----

  /** "." and "..": the kernel has forgotten a file of which somebody has a handle. */
  lookup(parent: number, name: Name): MaybePromise<Attr | null> {
    if (name === ".") return this.#byNumber(parent);
    if (name === "..") return this.#parentOf(parent);
    if (this.#isRoot(parent)) return (this.#root as MountRoot).lookup(name);
    const { namespace } = this.#volume(parent);
    const dir = namespace.getFolder(this.#number(parent));
    if (dir instanceof Inode) return namespace.lookup(dir, name);
    return dir.then((folder) => namespace.lookup(folder, name));
  }

  async #byNumber(ino: number): Promise<Attr> {
    const attr = await this.getattr(ino);
    // Only who was opening it when it was deleted may still read what is in memory.
    if (attr instanceof Inode && attr.isGone && attr.openCount === 0) throw new FsError("ESTALE");
    return attr;
  }

  async #parentOf(ino: number): Promise<Attr> {
    if (this.#isRoot(ino)) return await this.getattr(ino);
    const volume = this.#volume(ino);
    const { stored, number } = await volume.namespace.get(this.#number(ino));
    if (stored.parent === 0 || number === ROOT_INO) return await this.getattr(this.#root === null ? ino : ROOT_INO);
    return await volume.namespace.get(stored.parent);
  }

  getattr(ino: number): MaybePromise<Attr> {
    if (this.#isRoot(ino)) return (this.#root as MountRoot).attr();
    return this.#volume(ino).namespace.get(this.#number(ino));
  }

  async setattr(caller: Caller, ino: number, change: SetAttr): Promise<Attr> {
    const inode = await this.#get(ino);
    requireMaySetAttributes(inode, change);
    return await this.#volumeFor(ino).setattr(inode, caller, change);
  }

  readlink(ino: number): MaybePromise<Name> {
    const inode = this.#get(ino);
    return inode instanceof Inode ? targetOf(inode) : inode.then(targetOf);
  }

  async mknod(caller: Caller, parent: number, name: Name, mode: number, rdev: number): Promise<Attr> {
    const type = mode & FileType.MASK;
    const isDevice = type === FileType.BLOCK || type === FileType.CHARACTER;
    return await this.#make(caller, parent, name, type === 0 ? mode | FileType.REGULAR : mode, isDevice ? { rdev } : {});
  }

  async mkdir(caller: Caller, parent: number, name: Name, mode: number): Promise<Attr> {
    return await this.#make(caller, parent, name, FileType.DIRECTORY | (mode & ~FileType.MASK));
  }

  async symlink(caller: Caller, parent: number, name: Name, target: Name): Promise<Attr> {
    return await this.#make(caller, parent, name, FileType.SYMLINK | 0o777, { target });
  }

  async #make(caller: Caller, parent: number, name: Name, mode: number, more: { rdev?: number; target?: Name } = {}): Promise<Inode> {
    requireNewName(name);
    const dir = await this.#folder(parent);
    return await this.#volume(parent).tree.make(caller, dir, name, mode, more);
  }

  async link(_caller: Caller, ino: number, newParent: number, newName: Name): Promise<Attr> {
    const volume = this.#volumeFor(newParent);
    if (this.#volumeFor(ino) !== volume) throw new FsError("EXDEV");
    requireNewName(newName);
    const inode = await this.#get(ino);
    if (inode.isDirectory) throw new FsError("EPERM");
    await volume.tree.link(inode, await this.#folder(newParent), newName);
    return inode;
  }

  async unlink(_caller: Caller, parent: number, name: Name): Promise<void> {
    const volume = this.#volumeFor(parent);
    volume.forgetDeleted(await volume.tree.unlink(await this.#folder(parent), name));
  }

  async rmdir(_caller: Caller, parent: number, name: Name): Promise<void> {
    await this.#volumeFor(parent).tree.rmdir(await this.#folder(parent), name);
  }

  async rename(_caller: Caller, parent: number, name: Name, newParent: number, newName: Name, flags: number): Promise<void> {
    if ((flags & ~RENAME_FLAGS_KNOWN) !== 0 || flags === RENAME_FLAGS_KNOWN) throw new FsError("EINVAL");
    requireNewName(newName);
    if ((flags & RenameFlag.EXCHANGE) !== 0) requireNewName(name);
    const volume = this.#volumeFor(parent);
    if (this.#volumeFor(newParent) !== volume) throw new FsError("EXDEV");
    const replaced = await volume.tree.rename(await this.#folder(parent), name, await this.#folder(newParent), newName, flags);
    if (replaced !== null) volume.forgetDeleted(replaced);
  }

  /** The volume of something that is to be changed; the mount's own root can't be. */
  #volumeFor(ino: number): Volume {
    if (this.#isRoot(ino)) throw new FsError("EPERM");
    return this.#volume(ino);
  }

  // ---- files ----

  async create(caller: Caller, parent: number, name: Name, mode: number, flags: number): Promise<{ attr: Attr; opened: Opened }> {
    requireNewName(name);
    const volume = this.#volumeFor(parent);
    const dir = await this.#folder(parent);
    try {
      const inode = await volume.tree.make(caller, dir, name, FileType.REGULAR | (mode & ~FileType.MASK));
      return { attr: inode, opened: this.#opened(volume, inode, flags) };
    } catch (error) {
      const existed = error instanceof FsError && error.code === "EEXIST" && (flags & OpenFlag.O_EXCL) === 0;
      if (!existed) throw error;
    }
    // Another mount was faster: without O_EXCL that is as good.
    const found = await volume.namespace.lookupNow(dir, name);
    if (found === null) throw new FsError("ESTALE");
    if (!found.inode.isRegular) throw new FsError(found.inode.isDirectory ? "EISDIR" : "ESTALE");
    return { attr: found.inode, opened: await this.open(caller, found.inode.ino, flags & ~OpenFlag.O_CREAT) };
  }

  open(caller: Caller, ino: number, flags: number): MaybePromise<Opened> {
    const volume = this.#volumeFor(ino);
    const inode = volume.current(this.#number(ino));
    if (inode instanceof Inode) return this.#openCurrent(volume, inode, caller, flags);
    return inode.then((current) => this.#openCurrent(volume, current, caller, flags));
  }

  #openCurrent(volume: Volume, inode: Inode, caller: Caller, flags: number): MaybePromise<Opened> {
    if (inode.isVanishing) return inode.locked(async () => undefined).then(() => this.open(caller, inode.ino, flags));
    // The kernel looks the name up again, but only once: a reader may have what is still in memory.
    const readsWhatIsLeft = inode.isGone && inode.isWholeKnown && (flags & (OpenFlag.O_ACCMODE | OpenFlag.O_TRUNC)) === OpenFlag.O_RDONLY;
    if (inode.isOrphan && inode.openCount === 0 && !readsWhatIsLeft) throw new FsError("ESTALE");
    requireMayOpen(inode, flags);
    if ((flags & OpenFlag.O_TRUNC) === 0) return this.#opened(volume, inode, flags);
    return this.#openEmpty(volume, inode, caller, flags);
  }

  async #openEmpty(volume: Volume, inode: Inode, caller: Caller, flags: number): Promise<Opened> {
    // Counted before it is open: an unlink that comes between must leave it something to open.
    inode.openCount++;
    try {
      await volume.truncate(inode, caller, { size: 0 });
      return this.#opened(volume, inode, flags);
    } finally {
      inode.openCount--;
    }
  }

  #opened(volume: Volume, inode: Inode, flags: number): Opened {
    const handle = this.#register(volume.openHandle(inode, flags));
    const keepCache = inode.kernelGeneration === inode.stored.generation;
    inode.kernelGeneration = inode.stored.generation;
    // The kernel can't tell us of writable shared mappings, which it makes on handles that read and write: those go past its cache, and
    // so do appending ones, whose offset only we know.
    const access = flags & OpenFlag.O_ACCMODE;
    const directIo = access === OpenFlag.O_RDWR || (flags & (OpenFlag.O_DIRECT | OpenFlag.O_APPEND)) !== 0;
    const backing = access === OpenFlag.O_RDONLY ? volume.imageOf(inode) : null;
    return { handle, keepCache, directIo, noFlush: access === OpenFlag.O_RDONLY, backing };
  }

  read(caller: Caller, _ino: number, handle: HandleId, offset: Offset, size: number): MaybePromise<ReadResult> {
    if (size === 0) return EMPTY_READ;
    const file = this.#file(handle);
    return file.volume.read(file, caller, offset, size);
  }

  write(caller: Caller, _ino: number, handle: HandleId, offset: Offset, data: Uint8Array, append: boolean): MaybePromise<number> {
    if (data.length === 0) return 0;
    const file = this.#file(handle);
    if (!file.isWritable) throw new FsError("EBADF");
    return file.volume.write(file, caller, offset, data, append);
  }

  flush(_caller: Caller, _ino: number, handle: HandleId): MaybePromise<void> {
    const file = this.#file(handle);
    return file.volume.flush(file);
  }

  release(_ino: number, handle: HandleId): void {
    const file = this.#file(handle);
    this.#handles.delete(handle);
    file.volume.release(file);
  }

  fsync(_caller: Caller, _ino: number, handle: HandleId): Promise<void> {
    const { volume, inode } = this.#file(handle);
    return volume.fsync(inode);
  }

  async fallocate(caller: Caller, _ino: number, handle: HandleId, mode: number, offset: Offset, length: Offset): Promise<void> {
    const file = this.#file(handle);
    if (!file.isWritable) throw new FsError("EBADF");
    addOffset(offset, length);
    await file.volume.fallocate(file, modifier(caller), mode, offset, length);
  }

  lseek(_ino: number, handle: HandleId, offset: Offset, whence: number): MaybePromise<Offset> {
    const file = this.#file(handle);
    return file.volume.seek(file, offset, whence);
  }

  async copyFileRange(
    caller: Caller,
    from: { ino: number; handle: HandleId; offset: Offset },
    to: { ino: number; handle: HandleId; offset: Offset },
    length: number,
  ): Promise<number> {
    const source = this.#file(from.handle);
    const target = this.#file(to.handle);
    if (!target.isWritable) throw new FsError("EBADF");
    // The kernel copies through memory instead.
    if (source.volume !== target.volume) throw new FsError("EXDEV");
    return await target.volume.copyRange(
      modifier(caller),
      { handle: source, offset: from.offset },
      { handle: target, offset: to.offset },
      length,
    );
  }

  // ---- folders ----

  opendir(ino: number): MaybePromise<HandleId> {
    if (this.#isRoot(ino)) return this.#register({ kind: "root" });
    const volume = this.#volume(ino);
    const dir = volume.namespace.getFolder(this.#number(ino));
    if (dir instanceof Inode) return this.#register(volume.openFolder(dir));
    return dir.then((folder) => this.#register(volume.openFolder(folder)));
  }

  readdir(_ino: number, handle: HandleId, offset: number, withAttr: boolean, fill: FillEntry): MaybePromise<void> {
    const found = this.#handles.get(handle);
    if (found?.kind === "root") return (this.#root as MountRoot).readdir(offset, fill);
    if (found?.kind !== "folder") throw new FsError("EBADF");
    return found.reader.read(offset, withAttr, this.#parentIno(found.volume, found.inode), fill);
  }

  #parentIno(volume: Volume, dir: Inode): number {
    if (dir.stored.parent !== 0) return volume.namespace.mountIno(dir.stored.parent);
    return this.#root === null ? dir.ino : ROOT_INO;
  }

  releasedir(handle: HandleId): void {
    const found = this.#handles.get(handle);
    this.#handles.delete(handle);
    if (found?.kind === "folder") found.volume.release(found);
  }

  async fsyncdir(ino: number): Promise<void> {
    // Of the mount's root it means everything: syncfs(2) doesn't reach a FUSE server, and umount needs a way to ask for it.
    if (ino === ROOT_INO) {
      const volumes = this.#root?.volumes ?? this.#volumes;
      await Promise.all(volumes.map((volume) => volume.syncAll()));
      return;
    }
    await this.#volume(ino).sync();
  }

  async statfs(ino: number): Promise<StatFs> {
    const known = this.#statfs;
    const volume = this.#isRoot(ino) ? this.#root?.anyVolume() : this.#volume(ino);
    if (volume === undefined) return STATFS_UNKNOWN;
    // Who was refused looks at once, and must not be told of the room that there was.
    const isFresh = known !== null && performance.now() - known.atMs < STATFS_TTL_MS && known.refusals === volume.refusals;
    if (isFresh) return known.result;
    const asked = this.#askStatfs(volume);
    // When it fails after all, nobody waits for it any more.
    asked.catch(() => {});
    const patienceMs = volume.namespace.isConnected ? STATFS_PATIENCE_MS : STATFS_AWAY_MS;
    return await Promise.race([asked, Bun.sleep(patienceMs).then(() => known?.result ?? STATFS_UNKNOWN)]);
  }

  async #askStatfs(volume: Volume): Promise<StatFs> {
    const { refusals } = volume;
    const { totalBytes, freeBytes, inodes, freeInodes } = await volume.namespace.shard.statfs();
    // The node counts what the mount may still write as free; some of that is set aside.
    const freeBlocks = Math.floor(Math.max(0, freeBytes - volume.reservedBytes) / STATFS_BLOCK_BYTES);
    // Inodes take what space there is: as many are free as 4 KiB blocks, or as the tenant may still make.
    const freeFiles = Math.min(freeBlocks, freeInodes ?? freeBlocks);
    const result: StatFs = {
      blockSize: STATFS_BLOCK_BYTES,
      totalBlocks: Math.floor(totalBytes / STATFS_BLOCK_BYTES),
      freeBlocks,
      totalFiles: inodes + freeFiles,
      freeFiles,
      nameMax: NAME_MAX_BYTES,
    };
    this.#statfs = { result, atMs: performance.now(), refusals };
    return result;
  }

  // ---- extended attributes ----

  async setxattr(_caller: Caller, ino: number, name: Name, value: Uint8Array, flags: number): Promise<void> {
    const inode = await this.#get(ino);
    requireMayChange(inode);
    await setXattr(this.#volumeFor(ino).namespace, inode, name, value, flags);
  }

  getxattr(ino: number, name: Name): MaybePromise<Uint8Array> {
    if (this.#isRoot(ino)) throw new FsError("ENODATA");
    const inode = this.#get(ino);
    if (inode instanceof Inode && inode.stored.xattrSum === "") throw NO_XATTR;
    return this.#getXattr(ino, name);
  }

  async #getXattr(ino: number, name: Name): Promise<Uint8Array> {
    return await getXattr(this.#volume(ino).namespace, await this.#get(ino), name);
  }

  async listxattr(ino: number): Promise<Name[]> {
    if (this.#isRoot(ino)) return [];
    return [...(await loadXattrs(this.#volume(ino).namespace, await this.#get(ino))).found.keys()];
  }

  async removexattr(_caller: Caller, ino: number, name: Name): Promise<void> {
    const inode = await this.#get(ino);
    requireMayChange(inode);
    await removeXattr(this.#volumeFor(ino).namespace, inode, name);
  }

  // ---- chattr ----

  getFlags(ino: number): MaybePromise<number> {
    if (this.#isRoot(ino)) return 0;
    const inode = this.#get(ino);
    return inode instanceof Inode ? inode.stored.flags : inode.then(({ stored }) => stored.flags);
  }

  async setFlags(caller: Caller, ino: number, flags: number): Promise<void> {
    const inode = await this.#get(ino);
    requireMaySetFlags(inode, caller, flags);
    await this.#volumeFor(ino).setFlags(inode, flags);
  }
}

/** Throws EINVAL for a name that stands for an entry that can't be read. */
function requireNewName(name: Name): void {
  if (hashOfStandIn(name) !== null) throw new FsError("EINVAL");
}

function targetOf(inode: Inode): Name {
  if (inode.type !== FileType.SYMLINK) throw new FsError("EINVAL");
  return inode.stored.target;
}

/** Who changes content by a call for which the kernel does not say whether set-id bits go (Linux 6.18: fallocate, copy_file_range). */
function modifier(caller: Caller): Caller {
  const { uid, gid, pid, umask } = caller;
  return {
    uid,
    gid,
    pid,
    umask,
    killPriv: uid !== 0,
    isInGroup: (group) => caller.isInGroup?.(group) === true,
    onInterrupt: (listener) => caller.onInterrupt(listener),
  };
}
