/**
 * A filesystem in memory for the tests of src/mount: just enough semantics to see what arrives from the kernel and what goes back. Some
 * file names misbehave on purpose, see `misbehave`.
 */
import { ImageFile } from "../../cache/images/image-file.ts";
import { FsError } from "../../fs/posix/errno.ts";
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
  type SetAttr,
  type StatFs,
  type Vfs,
} from "../../fs/posix/vfs.ts";

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

interface Node {
  ino: number;
  mode: number;
  uid: number;
  gid: number;
  rdev: number;
  nlink: number;
  data: Uint8Array;
  size: Offset;
  mtime: { sec: number; nsec: number };
  atime: { sec: number; nsec: number };
  target: Name;
  children: Map<Name, number>;
  xattrs: Map<Name, Uint8Array>;
  flags: number;
}

export class MemoryVfs implements Vfs {
  /** Calls, by the name of the operation. */
  readonly calls = new Map<string, number>();
  /** The last write's killPriv, and the largest read and write seen. */
  killPriv = false;
  largestRead = 0;
  largestWrite = 0;
  /** Names of files that have a local image, as staged ones do; see image(). */
  readonly #images = new Map<number, ImageFile>();
  readonly #nodes = new Map<number, Node>();
  #nextIno = 2;
  #nextHandle = 1;

  constructor() {
    this.#nodes.set(1, this.#node(1, S_IFDIR | 0o777, { uid: 0, gid: 0 }));
  }

  #node(ino: number, mode: number, owner: { uid: number; gid: number }): Node {
    const now = { sec: Math.floor(Date.now() / 1000), nsec: 123456789 };
    const empty = {
      data: new Uint8Array(0),
      size: 0,
      target: "",
      children: new Map<Name, number>(),
      xattrs: new Map<Name, Uint8Array>(),
      flags: 0,
    };
    return { ino, mode, uid: owner.uid, gid: owner.gid, rdev: 0, nlink: 1, mtime: now, atime: now, ...empty };
  }

  #count(operation: string): void {
    this.calls.set(operation, (this.calls.get(operation) ?? 0) + 1);
  }

  #get(ino: number): Node {
    const node = this.#nodes.get(ino);
    if (node === undefined) throw new FsError("ESTALE");
    return node;
  }

  #attr(node: Node): Attr {
    return {
      ino: node.ino,
      mode: node.mode,
      nlink: node.nlink,
      uid: node.uid,
      gid: node.gid,
      rdev: node.rdev,
      size: node.size,
      blocks: Math.ceil(node.data.length / 512),
      atimeSec: node.atime.sec,
      atimeNsec: node.atime.nsec,
      mtimeSec: node.mtime.sec,
      mtimeNsec: node.mtime.nsec,
      ctimeSec: node.mtime.sec,
      ctimeNsec: node.mtime.nsec,
    };
  }

  #add(caller: Caller, parent: number, name: Name, mode: number): Node {
    const { children } = this.#get(parent);
    if (children.has(name)) throw new FsError("EEXIST");
    const node = this.#node(this.#nextIno++, mode, caller);
    this.#nodes.set(node.ino, node);
    children.set(name, node.ino);
    return node;
  }

  /** What another mount would do: changes a file's content without the kernel's knowledge. Returns its inode. */
  changeBehindKernel(name: Name, content: Uint8Array): number {
    const ino = this.#get(1).children.get(name);
    if (ino === undefined) throw new FsError("ENOENT");
    const node = this.#get(ino);
    node.data = content;
    node.size = content.length;
    return ino;
  }

  /** From now on the file in the root folder has this image, or none. Changing the file takes it away. Returns the image. */
  setImage(name: Name, path: string | null): ImageFile | null {
    const ino = this.#get(1).children.get(name);
    if (ino === undefined) throw new FsError("ENOENT");
    const image = path === null ? null : new ImageFile(path, Number(this.#get(ino).size));
    if (image === null) this.#images.delete(ino);
    else this.#images.set(ino, image);
    return image;
  }

  /** Removes a name without the kernel's knowledge. */
  removeBehindKernel(name: Name): void {
    this.#get(1).children.delete(name);
  }

  /** Names that fail in ways that a filesystem should not. */
  #misbehave(name: Name): MaybePromise<Attr | null> | undefined {
    switch (name) {
      case "throws":
        throw new TypeError("thrown on purpose");
      case "rejects":
        return Promise.reject(new TypeError("rejected on purpose"));
      case "rejects-later":
        return Bun.sleep(5).then(() => Promise.reject(new FsError("EDQUOT")));
      default:
        return undefined;
    }
  }

  lookup(parent: number, name: Name): MaybePromise<Attr | null> {
    this.#count("lookup");
    const bad = this.#misbehave(name);
    if (bad !== undefined) return bad;
    const ino = this.#get(parent).children.get(name);
    if (name.startsWith("later-")) return Bun.sleep(1).then(() => (ino === undefined ? null : this.#attr(this.#get(ino))));
    return ino === undefined ? null : this.#attr(this.#get(ino));
  }

  getattr(ino: number): Attr {
    this.#count("getattr");
    return this.#attr(this.#get(ino));
  }

  setattr(_caller: Caller, ino: number, change: SetAttr): Attr {
    this.#count("setattr");
    const node = this.#get(ino);
    const now = { sec: Math.floor(Date.now() / 1000), nsec: 1 };
    if (change.mode !== undefined) node.mode = (node.mode & S_IFMT) | (change.mode & 0o7777);
    if (change.uid !== undefined) node.uid = change.uid;
    if (change.gid !== undefined) node.gid = change.gid;
    if (change.atime !== undefined) node.atime = change.atime === "now" ? now : change.atime;
    if (change.mtime !== undefined) node.mtime = change.mtime === "now" ? now : change.mtime;
    if (change.size !== undefined) this.#resize(node, change.size);
    return this.#attr(node);
  }

  #resize(node: Node, size: Offset): void {
    this.#images.delete(node.ino);
    node.size = size;
    if (size > 2 ** 26) return;
    const data = new Uint8Array(Number(size));
    data.set(node.data.subarray(0, data.length));
    node.data = data;
  }

  readlink(ino: number): Name {
    return this.#get(ino).target;
  }

  mknod(caller: Caller, parent: number, name: Name, mode: number, rdev: number): Attr {
    const node = this.#add(caller, parent, name, mode);
    node.rdev = rdev;
    return this.#attr(node);
  }

  mkdir(caller: Caller, parent: number, name: Name, mode: number): Attr {
    const node = this.#add(caller, parent, name, S_IFDIR | mode);
    node.nlink = 2;
    return this.#attr(node);
  }

  symlink(caller: Caller, parent: number, name: Name, target: Name): Attr {
    const node = this.#add(caller, parent, name, S_IFLNK | 0o777);
    node.target = target;
    node.size = target.length;
    return this.#attr(node);
  }

  link(_caller: Caller, ino: number, newParent: number, newName: Name): Attr {
    const { children } = this.#get(newParent);
    if (children.has(newName)) throw new FsError("EEXIST");
    const node = this.#get(ino);
    node.nlink++;
    children.set(newName, ino);
    return this.#attr(node);
  }

  unlink(_caller: Caller, parent: number, name: Name): void {
    const { children } = this.#get(parent);
    const ino = children.get(name);
    if (ino === undefined) throw new FsError("ENOENT");
    this.#get(ino).nlink--;
    children.delete(name);
  }

  rmdir(_caller: Caller, parent: number, name: Name): void {
    const { children } = this.#get(parent);
    const ino = children.get(name);
    if (ino === undefined) throw new FsError("ENOENT");
    if (this.#get(ino).children.size > 0) throw new FsError("ENOTEMPTY");
    children.delete(name);
  }

  rename(_caller: Caller, parent: number, name: Name, newParent: number, newName: Name, flags: number): void {
    const from = this.#get(parent).children;
    const to = this.#get(newParent).children;
    const ino = from.get(name);
    if (ino === undefined) throw new FsError("ENOENT");
    const replaced = to.get(newName);
    if (flags === 1 && replaced !== undefined) throw new FsError("EEXIST");
    from.delete(name);
    to.set(newName, ino);
    if (flags === 2 && replaced !== undefined) from.set(name, replaced);
  }

  create(caller: Caller, parent: number, name: Name, mode: number, flags: number): { attr: Attr; opened: Opened } {
    this.#count("create");
    const node = this.#add(caller, parent, name, S_IFREG | mode);
    return { attr: this.#attr(node), opened: this.#open(node.ino, flags) };
  }

  #open(ino: number, flags: number): Opened {
    const access = flags & OpenFlag.O_ACCMODE;
    const direct = (flags & OpenFlag.O_DIRECT) !== 0 || access === OpenFlag.O_RDWR;
    const backing = access === OpenFlag.O_RDONLY ? (this.#images.get(ino) ?? null) : null;
    return { handle: this.#nextHandle++, keepCache: true, noFlush: false, directIo: direct, backing };
  }

  open(_caller: Caller, ino: number, flags: number): Opened {
    this.#count("open");
    if (flags & OpenFlag.O_TRUNC) this.#resize(this.#get(ino), 0);
    return this.#open(ino, flags);
  }

  read(caller: Caller, ino: number, _handle: HandleId, offset: Offset, size: number): MaybePromise<ReadResult> {
    this.#count("read");
    this.largestRead = Math.max(this.largestRead, size);
    const node = this.#get(ino);
    if (node.xattrs.has("user.never")) return new Promise(() => {});
    if (node.xattrs.has("user.slow")) return this.#slowRead(caller);
    const end = Math.min(Number(offset) + size, node.data.length);
    const data = node.data.subarray(Number(offset), end);
    if (!node.xattrs.has("user.pieces")) return { pieces: [data] };
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < data.length; at += 1000) pieces.push(data.subarray(at, at + 1000));
    return { pieces, release: () => this.#count("release-of-read") };
  }

  /** Never answers by itself; fails with EINTR when the reader gets a signal. */
  #slowRead(caller: Caller): Promise<ReadResult> {
    const { promise, reject } = Promise.withResolvers<ReadResult>();
    caller.onInterrupt(() => reject(new FsError("EINTR")));
    return promise;
  }

  write(caller: Caller, ino: number, _handle: HandleId, offset: Offset, data: Uint8Array): MaybePromise<number> {
    this.#count("write");
    this.killPriv = caller.killPriv ?? false;
    this.largestWrite = Math.max(this.largestWrite, data.length);
    const node = this.#get(ino);
    if (Number(offset) + data.length > 2 ** 26) throw new FsError("EFBIG");
    if (Number(offset) + data.length > node.data.length) this.#resize(node, Number(offset) + data.length);
    this.#images.delete(ino);
    node.data.set(data, Number(offset));
    const length = data.length;
    return node.xattrs.has("user.later") ? Bun.sleep(1).then(() => length) : length;
  }

  flush(): void {
    this.#count("flush");
  }

  release(): void {
    this.#count("release");
  }

  fsync(_caller: Caller, _ino: number, _handle: HandleId, dataOnly: boolean): void {
    this.#count(dataOnly ? "fdatasync" : "fsync");
  }

  fallocate(_caller: Caller, ino: number, _handle: HandleId, mode: number, offset: Offset, length: Offset): void {
    if (mode !== 0) throw new FsError("EOPNOTSUPP");
    this.#resize(this.#get(ino), Number(offset) + Number(length));
  }

  lseek(ino: number, _handle: HandleId, offset: Offset, whence: number): Offset {
    const node = this.#get(ino);
    if (offset >= node.size) throw new FsError("ENXIO");
    return whence === 3 ? offset : node.size;
  }

  copyFileRange(
    _caller: Caller,
    from: { ino: number; offset: Offset },
    to: { ino: number; offset: Offset },
    length: number,
  ): MaybePromise<number> {
    this.#count("copy_file_range");
    const source = this.#get(from.ino).data.slice(Number(from.offset), Number(from.offset) + length);
    const node = this.#get(to.ino);
    if (Number(to.offset) + source.length > node.data.length) this.#resize(node, Number(to.offset) + source.length);
    node.data.set(source, Number(to.offset));
    return source.length;
  }

  opendir(): HandleId {
    return this.#nextHandle++;
  }

  readdir(ino: number, _handle: HandleId, offset: number, withAttr: boolean, fill: FillEntry): MaybePromise<void> {
    this.#count(withAttr ? "readdirplus" : "readdir");
    const node = this.#get(ino);
    const entries: [Name, number][] = [[".", ino], ["..", 1], ...node.children];
    const offer = (): void => {
      for (let i = offset; i < entries.length; i++) {
        const entry = entries[i];
        if (entry === undefined) return;
        const child = this.#get(entry[1]);
        if (!fill(entry[0], child.ino, child.mode & S_IFMT, i + 1, withAttr ? this.#attr(child) : null)) return;
      }
    };
    return node.xattrs.has("user.later") ? Bun.sleep(1).then(offer) : offer();
  }

  releasedir(): void {}

  fsyncdir(): void {
    this.#count("fsyncdir");
  }

  statfs(): StatFs {
    return { blockSize: 4096, totalBlocks: 1e9, freeBlocks: 5e8, totalFiles: 1e6, freeFiles: 9e5, nameMax: 255 };
  }

  setxattr(_caller: Caller, ino: number, name: Name, value: Uint8Array, flags: number): void {
    const { xattrs } = this.#get(ino);
    if (flags === 1 && xattrs.has(name)) throw new FsError("EEXIST");
    if (flags === 2 && !xattrs.has(name)) throw new FsError("ENODATA");
    xattrs.set(name, value);
  }

  getxattr(ino: number, name: Name): Uint8Array {
    this.#count("getxattr");
    const value = this.#get(ino).xattrs.get(name);
    if (value === undefined) throw new FsError("ENODATA");
    return value;
  }

  listxattr(ino: number): Name[] {
    return [...this.#get(ino).xattrs.keys()];
  }

  removexattr(_caller: Caller, ino: number, name: Name): void {
    if (!this.#get(ino).xattrs.delete(name)) throw new FsError("ENODATA");
  }

  getFlags(ino: number): number {
    return this.#get(ino).flags;
  }

  setFlags(_caller: Caller, ino: number, flags: number): void {
    this.#get(ino).flags = flags;
  }
}
