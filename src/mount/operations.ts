/**
 * The table: one entry for each operation of fuse_lowlevel_ops that kiseki answers. `call` decodes the request's bytes, which are only
 * valid until it returns, and asks the Vfs; `reply` encodes what came back. A member that is absent here gets ENOSYS from libfuse: the
 * kernel then stops asking (access, poll, bmap), or does it alone (fcntl and flock locks).
 */
import type { Pointer } from "bun:ffi";
import * as k from "../../ffi/libfuse3/kernel.ts";
import type { LowlevelOp } from "../../ffi/libfuse3/layout.ts";
import {
  type Attr,
  after,
  type MaybePromise,
  type Name,
  type Offset,
  OpenFlag,
  type ReadResult,
  type SetAttr,
  type StatFs,
} from "../fs/posix/vfs.ts";
import type { DirectoryBuffer } from "./directory-buffer.ts";
import { ioctl } from "./ioctls.ts";
import { createFile, type OpenedNode, openFile, releaseFile } from "./opening.ts";
import type { OperationContext } from "./operation-context.ts";
import { BODY, type RequestReader } from "./requests.ts";
import { checkXattrName, listAnswer, valueAnswer, type XattrAnswer } from "./xattrs.ts";

/** One line of the table, its result type hidden from the session, which only carries results from `call` to `reply`. */
export interface Operation {
  readonly name: Exclude<LowlevelOp, "init" | "destroy">;
  call(context: OperationContext): MaybePromise<unknown>;
  reply(context: OperationContext, req: Pointer, result: never): number;
}

interface TypedOperation<T> {
  readonly name: Operation["name"];
  call(context: OperationContext): MaybePromise<T>;
  reply(context: OperationContext, req: Pointer, result: T): number;
}

function operation<T>(typed: TypedOperation<T>): Operation {
  return typed;
}

/** The kernel counts a copy's result in 32 bits and wants whole pages: the most that one copy_file_range moves. */
const MAX_COPY_BYTES = 0xffff_f000;

type EmptyCall = (context: OperationContext) => MaybePromise<void>;
type Reply<T> = TypedOperation<T>["reply"];

const replyOk: Reply<void> = ({ replies }, req) => replies.ok(req);
const replyEntry: Reply<Attr | null> = ({ replies }, req, attr) => replies.entry(req, attr);
const replyAttr: Reply<Attr> = ({ replies }, req, attr) => replies.attr(req, attr);
const replyXattr: Reply<XattrAnswer> = ({ replies }, req, answer) =>
  typeof answer === "number" ? replies.size(req, answer) : replies.bytes(req, answer);

/** An operation that is answered with success alone. */
function empty(name: Operation["name"], call: EmptyCall): Operation {
  return operation<void>({ name, call, reply: replyOk });
}

/** An operation that makes a name and is answered with its inode. */
function makes(name: Operation["name"], call: (context: OperationContext) => MaybePromise<Attr | null>): Operation {
  return operation<Attr | null>({ name, call, reply: replyEntry });
}

function setattrChange(request: RequestReader): SetAttr {
  const at = k.fuse_setattr_in;
  const valid = request.u32(BODY + at.valid);
  const change: SetAttr = {};
  if (valid & k.FATTR_MODE) change.mode = request.u32(BODY + at.mode);
  if (valid & k.FATTR_UID) change.uid = request.u32(BODY + at.uid);
  if (valid & k.FATTR_GID) change.gid = request.u32(BODY + at.gid);
  if (valid & k.FATTR_SIZE) change.size = request.offset(BODY + at.size);
  if (valid & k.FATTR_ATIME_NOW) change.atime = "now";
  else if (valid & k.FATTR_ATIME) change.atime = { sec: request.seconds(BODY + at.atime), nsec: request.u32(BODY + at.atimensec) };
  if (valid & k.FATTR_MTIME_NOW) change.mtime = "now";
  else if (valid & k.FATTR_MTIME) change.mtime = { sec: request.seconds(BODY + at.mtime), nsec: request.u32(BODY + at.mtimensec) };
  return change;
}

function setattr({ vfs, request, caller, modes }: OperationContext): MaybePromise<Attr> {
  const { ino, edition } = request;
  const valid = request.u32(BODY + k.fuse_setattr_in.valid);
  const who = caller(0, (valid & k.FATTR_KILL_SUIDGID) !== 0);
  const handle = valid & k.FATTR_FH ? request.u64(BODY + k.fuse_setattr_in.fh) : null;
  const changed = vfs.setattr(who, ino, setattrChange(request), handle);
  if (modes === null) return changed;
  const settle = (attr: Attr): MaybePromise<Attr> => {
    modes.changed(ino, edition);
    return modes.lettingGo?.then(() => attr) ?? attr;
  };
  return changed instanceof Promise ? changed.then(settle) : settle(changed);
}

/** rename(2) comes as FUSE_RENAME, renameat2(2) with flags as FUSE_RENAME2, which has a larger struct. */
function rename({ vfs, request, caller }: OperationContext): MaybePromise<void> {
  const second = request.opcode === k.FUSE_RENAME2;
  const newParent = request.u64(BODY + k.fuse_rename_in.newdir);
  const flags = second ? request.u32(BODY + k.fuse_rename2_in.flags) : 0;
  const namesAt = BODY + (second ? k.fuse_rename2_in.SIZE : k.fuse_rename_in.SIZE);
  const name = request.name(namesAt);
  const newName = request.lastName(request.endOfString(namesAt) + 1);
  return vfs.rename(caller(), request.ino, name, newParent, newName, flags);
}

function readFolder({ vfs, request, directories }: OperationContext, plus: boolean): MaybePromise<DirectoryBuffer> {
  const buffer = directories.take(request.u32(BODY + k.fuse_read_in.size), plus);
  const giveBack = (error: unknown): never => {
    directories.giveBack(buffer);
    throw error;
  };
  try {
    const filled = vfs.readdir(
      request.ino,
      request.u64(BODY + k.fuse_read_in.fh),
      request.u64(BODY + k.fuse_read_in.offset),
      plus,
      buffer.fill,
    );
    return filled instanceof Promise ? filled.then(() => buffer, giveBack) : buffer;
  } catch (error) {
    return giveBack(error);
  }
}

const replyFolder: Reply<DirectoryBuffer> = ({ replies, directories }, req, buffer) => {
  const result = replies.memory(req, buffer.memory.address, buffer.used);
  directories.giveBack(buffer);
  return result;
};

/** The kernel has asked for `size` bytes, and refuses an answer with more. */
function checkedRead(result: ReadResult, size: number): ReadResult {
  let total = 0;
  for (const piece of result.pieces) total += piece.length;
  if (total <= size) return result;
  result.release?.();
  throw new RangeError(`read answered ${total} bytes: expected at most ${size}`);
}

function read({ vfs, request, caller }: OperationContext): MaybePromise<ReadResult> {
  const at = k.fuse_read_in;
  const size = request.u32(BODY + at.size);
  const result = vfs.read(caller(), request.ino, request.u64(BODY + at.fh), request.offset(BODY + at.offset), size);
  return result instanceof Promise ? result.then((read) => checkedRead(read, size)) : checkedRead(result, size);
}

function write({ vfs, request, caller }: OperationContext): MaybePromise<number> {
  const at = k.fuse_write_in;
  const who = caller(0, (request.u32(BODY + at.write_flags) & k.FUSE_WRITE_KILL_SUIDGID) !== 0);
  const data = request.data(BODY + at.SIZE, request.u32(BODY + at.size));
  // The descriptor's flags as they are now; a write-back of the kernel's pages has none, and knows its offset.
  const append = (request.u32(BODY + at.flags) & OpenFlag.O_APPEND) !== 0;
  return vfs.write(who, request.ino, request.u64(BODY + at.fh), request.offset(BODY + at.offset), data, append);
}

function setxattr({ vfs, request, caller }: OperationContext): MaybePromise<void> {
  const nameAt = BODY + k.FUSE_COMPAT_SETXATTR_IN_SIZE;
  const name = checkXattrName(request.name(nameAt));
  // A copy: unlike write, a Vfs may keep the value.
  const value = new Uint8Array(request.data(request.endOfString(nameAt) + 1, request.u32(BODY + k.fuse_setxattr_in.size)));
  return vfs.setxattr(caller(), request.ino, name, value, request.u32(BODY + k.fuse_setxattr_in.flags));
}

function copyFileRange({ vfs, request, caller }: OperationContext): MaybePromise<number> {
  const at = k.fuse_copy_file_range_in;
  const from = { ino: request.ino, handle: request.u64(BODY + at.fh_in), offset: request.offset(BODY + at.off_in) };
  const to = { ino: request.inoAt(BODY + at.nodeid_out), handle: request.u64(BODY + at.fh_out), offset: request.offset(BODY + at.off_out) };
  return vfs.copyFileRange(caller(), from, to, Math.min(request.u64(BODY + at.len), MAX_COPY_BYTES));
}

export const OPERATIONS: readonly Operation[] = [
  makes("lookup", ({ vfs, request }) => vfs.lookup(request.ino, request.lastName(BODY))),
  operation<Attr>({
    name: "getattr",
    call: ({ vfs, request }) => {
      const ofHandle = request.u32(BODY + k.fuse_getattr_in.getattr_flags) & k.FUSE_GETATTR_FH;
      return vfs.getattr(request.ino, ofHandle ? request.u64(BODY + k.fuse_getattr_in.fh) : null);
    },
    reply: replyAttr,
  }),
  operation<Attr>({
    name: "setattr",
    call: setattr,
    reply: replyAttr,
  }),
  operation<Name>({
    name: "readlink",
    call: ({ vfs, request }) => vfs.readlink(request.ino),
    reply: ({ replies }, req, target) => replies.bytes(req, Buffer.from(target, "latin1")),
  }),
  makes("mknod", ({ vfs, request, caller }) => {
    const at = k.fuse_mknod_in;
    const name = request.lastName(BODY + at.SIZE);
    return vfs.mknod(caller(request.u32(BODY + at.umask)), request.ino, name, request.u32(BODY + at.mode), request.u32(BODY + at.rdev));
  }),
  makes("mkdir", ({ vfs, request, caller }) => {
    const at = k.fuse_mkdir_in;
    return vfs.mkdir(caller(request.u32(BODY + at.umask)), request.ino, request.lastName(BODY + at.SIZE), request.u32(BODY + at.mode));
  }),
  makes("symlink", ({ vfs, request, caller }) => {
    const name = request.name(BODY);
    return vfs.symlink(caller(), request.ino, name, request.lastString(request.endOfString(BODY) + 1));
  }),
  makes("link", ({ vfs, request, caller }) =>
    vfs.link(caller(), request.inoAt(BODY + k.fuse_link_in.oldnodeid), request.ino, request.lastName(BODY + k.fuse_link_in.SIZE)),
  ),
  empty("unlink", ({ vfs, request, caller }) => vfs.unlink(caller(), request.ino, request.lastName(BODY))),
  empty("rmdir", ({ vfs, request, caller }) => vfs.rmdir(caller(), request.ino, request.lastName(BODY))),
  empty("rename", rename),

  operation<OpenedNode & { attr: Attr }>({
    name: "create",
    call: createFile,
    reply: ({ replies }, req, { attr, opened, backingId }) => replies.created(req, attr, opened, backingId),
  }),
  operation<OpenedNode>({
    name: "open",
    call: openFile,
    reply: ({ replies }, req, { opened, backingId }) => replies.opened(req, opened, backingId),
  }),
  operation<ReadResult>({ name: "read", call: read, reply: ({ replies }, req, result) => replies.pieces(req, result) }),
  operation<number>({ name: "write", call: write, reply: ({ replies }, req, bytes) => replies.written(req, bytes) }),
  empty("flush", ({ vfs, request, caller }) => vfs.flush(caller(), request.ino, request.u64(BODY + k.fuse_flush_in.fh))),
  empty("release", releaseFile),
  empty("fsync", ({ vfs, request, caller }) => {
    const dataOnly = (request.u32(BODY + k.fuse_fsync_in.fsync_flags) & k.FUSE_FSYNC_FDATASYNC) !== 0;
    return vfs.fsync(caller(), request.ino, request.u64(BODY + k.fuse_fsync_in.fh), dataOnly);
  }),
  empty("fallocate", ({ vfs, request, caller }) => {
    const at = k.fuse_fallocate_in;
    const range: [Offset, Offset] = [request.offset(BODY + at.offset), request.offset(BODY + at.length)];
    return vfs.fallocate(caller(), request.ino, request.u64(BODY + at.fh), request.u32(BODY + at.mode), ...range);
  }),
  operation<Offset>({
    name: "lseek",
    call: ({ vfs, request }) => {
      const at = k.fuse_lseek_in;
      return vfs.lseek(request.ino, request.u64(BODY + at.fh), request.offset(BODY + at.offset), request.u32(BODY + at.whence));
    },
    reply: ({ replies }, req, offset) => replies.position(req, offset),
  }),
  operation<number>({ name: "copy_file_range", call: copyFileRange, reply: ({ replies }, req, bytes) => replies.written(req, bytes) }),

  operation<number>({
    name: "opendir",
    call: ({ vfs, request }) => vfs.opendir(request.ino),
    reply: ({ replies }, req, handle) => replies.opened(req, { handle, keepCache: false, directIo: false, noFlush: true, backing: null }),
  }),
  operation<DirectoryBuffer>({ name: "readdir", call: (context) => readFolder(context, false), reply: replyFolder }),
  operation<DirectoryBuffer>({ name: "readdirplus", call: (context) => readFolder(context, true), reply: replyFolder }),
  empty("releasedir", ({ vfs, request }) => vfs.releasedir(request.u64(BODY + k.fuse_release_in.fh))),
  empty("fsyncdir", ({ vfs, request }) => vfs.fsyncdir(request.ino)),

  operation<StatFs>({
    name: "statfs",
    call: ({ vfs, request }) => vfs.statfs(request.ino),
    reply: ({ replies }, req, stat) => replies.statfs(req, stat),
  }),
  empty("setxattr", setxattr),
  operation<XattrAnswer>({
    name: "getxattr",
    call: ({ vfs, request }) => {
      const size = request.u32(BODY + k.fuse_getxattr_in.size);
      const name = checkXattrName(request.lastName(BODY + k.fuse_getxattr_in.SIZE));
      return after(vfs.getxattr(request.ino, name), (value) => valueAnswer(value, size));
    },
    reply: replyXattr,
  }),
  operation<XattrAnswer>({
    name: "listxattr",
    call: ({ vfs, request }) => {
      const size = request.u32(BODY + k.fuse_getxattr_in.size);
      const privileged = request.uid === 0;
      return after(vfs.listxattr(request.ino), (names) => listAnswer(names, size, privileged));
    },
    reply: replyXattr,
  }),
  empty("removexattr", ({ vfs, request, caller }) => vfs.removexattr(caller(), request.ino, checkXattrName(request.lastName(BODY)))),
  operation<Uint8Array>({ name: "ioctl", call: ioctl, reply: ({ replies }, req, data) => replies.ioctl(req, data) }),
];
