/** What an operation works with. */
import type { Vfs } from "../fs/posix/vfs.ts";
import type { DirectoryBufferPool } from "./directory-buffer.ts";
import type { IoModes } from "./io-modes.ts";
import type { Replies } from "./replies.ts";
import type { RequestCaller, RequestReader } from "./requests.ts";

export interface OperationContext {
  readonly vfs: Vfs;
  readonly request: RequestReader;
  readonly replies: Replies;
  readonly directories: DirectoryBufferPool;
  /** Null: the kernel always asks us. */
  readonly modes: IoModes | null;
  /** Who asks; remembered, so that an INTERRUPT reaches it while the request is unanswered. */
  readonly caller: (umask?: number, killPriv?: boolean) => RequestCaller;
}
