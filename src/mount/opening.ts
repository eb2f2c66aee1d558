/** The operations that open and close files: where the kernel can read by itself, it must be told how (see io-modes.ts). */
import * as k from "../../ffi/libfuse3/kernel.ts";
import type { Attr, MaybePromise, Opened } from "../fs/posix/vfs.ts";
import type { IoModes, OpenRequest } from "./io-modes.ts";
import type { OperationContext } from "./operation-context.ts";
import { BODY } from "./requests.ts";

/** `backingId`: 0, or what the kernel reads instead of asking. */
export interface OpenedNode {
  readonly opened: Opened;
  readonly backingId: number;
}

export function openFile(context: OperationContext): MaybePromise<OpenedNode> {
  const { vfs, request, caller, modes } = context;
  const { ino } = request;
  const flags = request.u32(BODY + k.fuse_open_in.flags);
  const who = caller(0, (request.u32(BODY + k.fuse_open_in.open_flags) & k.FUSE_OPEN_KILL_SUIDGID) !== 0);
  if (modes === null) {
    const opened = vfs.open(who, ino, flags);
    return opened instanceof Promise ? opened.then(plain) : plain(opened);
  }
  const asked: OpenRequest = { ino, edition: request.edition, flags, pid: request.pid };
  let isStray: boolean;
  try {
    isStray = modes.isStray(asked);
  } catch (error) {
    return refuse(modes, error);
  }
  const enter = (opened: Opened): MaybePromise<OpenedNode> =>
    entered(context, modes, ino, opened, () => modes.enter(asked, isStray, opened));
  const opened = vfs.open(who, ino, flags);
  return opened instanceof Promise ? opened.then(enter) : enter(opened);
}

export async function createFile(context: OperationContext): Promise<OpenedNode & { attr: Attr }> {
  const { vfs, request, caller, modes } = context;
  const at = k.fuse_create_in;
  const who = caller(request.u32(BODY + at.umask), (request.u32(BODY + at.open_flags) & k.FUSE_OPEN_KILL_SUIDGID) !== 0);
  const flags = request.u32(BODY + at.flags);
  const { attr, opened } = await vfs.create(who, request.ino, request.lastName(BODY + at.SIZE), request.u32(BODY + at.mode), flags);
  if (modes === null) return { attr, ...plain(opened) };
  const node = await entered(context, modes, attr.ino, opened, () => modes.enterFound(attr.ino, flags, opened));
  await modes.lettingGo;
  return { attr, ...node };
}

function plain(opened: Opened): OpenedNode {
  return { opened, backingId: 0 };
}

/** What can't be open in this way is closed again. */
function entered({ vfs }: OperationContext, modes: IoModes, ino: number, opened: Opened, enter: () => number): MaybePromise<OpenedNode> {
  try {
    return { opened, backingId: enter() };
  } catch (error) {
    const released = vfs.release(ino, opened.handle);
    return released instanceof Promise ? released.then(() => refuse(modes, error)) : refuse(modes, error);
  }
}

/** The program goes on, by another number, when the kernel has let go of what it knows by the old one. */
function refuse(modes: IoModes, error: unknown): Promise<never> {
  const { lettingGo } = modes;
  if (lettingGo === null) throw error;
  return lettingGo.then(() => {
    throw error;
  });
}

export function releaseFile({ vfs, request, modes }: OperationContext): MaybePromise<void> {
  const { ino } = request;
  const handle = request.u64(BODY + k.fuse_release_in.fh);
  modes?.leave(ino, handle);
  return vfs.release(ino, handle);
}
