import type { Pointer } from "bun:ffi";
import { EAGAIN, EINTR, ENODEV, ENOENT } from "../../ffi/libc/constants.ts";
import { read, setNonBlocking } from "../../ffi/libc/libc.ts";
import { FUSE_BATCH_FORGET, FUSE_FORGET, FUSE_INIT, FUSE_INTERRUPT, fuse_interrupt_in } from "../../ffi/libfuse3/kernel.ts";
import { type Libfuse, LowlevelSession, type SessionCallbacks } from "../../ffi/libfuse3/libfuse3.ts";
import { Errno, FsError } from "../fs/posix/errno.ts";
import type { ReadResult, Vfs } from "../fs/posix/vfs.ts";
import { timeout } from "./attributes.ts";
import { BackingTable } from "./backing-table.ts";
import { DirectoryBufferPool } from "./directory-buffer.ts";
import { IoModes } from "./io-modes.ts";
import type { MountLog } from "./log.ts";
import { answerInit, type InitWishes, wishFor } from "./negotiation.ts";
import { NodeNumbers } from "./node-numbers.ts";
import type { OperationContext } from "./operation-context.ts";
import { OPERATIONS, type Operation } from "./operations.ts";
import type { RequestSource } from "./reactor.ts";
import { Replies, type ReplySettings } from "./replies.ts";
import { BODY, RequestCaller, RequestReader } from "./requests.ts";

/** What a filesystem that refuses everything is still told: who closes a file needs no answer. */
const RELEASES: ReadonlySet<Operation["name"]> = new Set<Operation["name"]>(["release", "releasedir"]);

/** Nothing may be answered any more. */
function isRefused({ refusal }: Vfs): boolean {
  return refusal !== undefined && refusal !== null;
}

/** What the kernel may cache and how files look; see MountOptions. */
export interface SessionSettings {
  readonly attrTimeoutSec: number;
  readonly entryTimeoutSec: number;
  readonly negativeTimeoutSec: number;
  readonly uid: number | null;
  readonly gid: number | null;
  readonly writebackCache: boolean;
  /** The kernel may read files that have a local image by itself, where it can. */
  readonly passthrough: boolean;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/**
 * One FUSE session: reads requests from the device, has libfuse take them apart, dispatches them through the operation table and answers
 * them, at once or when their Promise settles. Every request is answered exactly once.
 */
export class FuseSession implements RequestSource, Disposable {
  readonly #log: MountLog;
  readonly #session: LowlevelSession;
  readonly #request = new RequestReader();
  readonly #replies: Replies;
  readonly #directories: DirectoryBufferPool;
  readonly #context: Writable<OperationContext>;
  readonly #wishes: InitWishes;
  /** By which numbers the kernel knows files. */
  readonly nodes = new NodeNumbers();
  /** Callers of unanswered requests, by the kernel's number for the request, for INTERRUPT. */
  readonly #waiting = new Map<number, RequestCaller>();
  #caller: RequestCaller | null = null;
  #inFlight = 0;
  #fd = -1;
  /** Called when the kernel's INIT has been answered. */
  onStarted: (() => void) | null = null;
  #ended = false;
  #closed = false;
  /** Called when what the kernel has cached of a file, by the number with this edition, is outdated; resolves when it has let go of it. */
  onOutdated: ((ino: number, edition: number) => Promise<void>) | null = null;

  /** `args` as libfuse takes them, the program's name first. Throws an Error when it refuses them. */
  constructor(library: Libfuse, vfs: Vfs, args: readonly string[], settings: SessionSettings, log: MountLog) {
    this.#log = log;
    const replySettings: ReplySettings = {
      attrTimeout: timeout(settings.attrTimeoutSec),
      entryTimeout: timeout(settings.entryTimeoutSec),
      negativeTimeout: timeout(settings.negativeTimeoutSec),
      owner: { uid: settings.uid, gid: settings.gid },
      nodes: this.nodes,
    };
    // Together the kernel takes the second alone.
    this.#wishes = { passthrough: settings.passthrough && !settings.writebackCache };
    this.#replies = new Replies(library, replySettings);
    this.#directories = new DirectoryBufferPool(replySettings);
    this.#context = {
      vfs,
      request: this.#request,
      replies: this.#replies,
      directories: this.#directories,
      modes: null,
      caller: (umask = 0, killPriv = false) => {
        this.#caller = new RequestCaller(this.#request, umask, killPriv);
        return this.#caller;
      },
    };
    const operations: SessionCallbacks["operations"] = {};
    for (const operation of OPERATIONS) operations[operation.name] = (req) => this.#dispatch(operation, req);
    const init = (connection: Pointer): void => wishFor(connection, { writebackCache: settings.writebackCache });
    this.#session = new LowlevelSession(library, args, { init, operations });
    this.#session.requestMemory = this.#request.memory;
  }

  /** Mounts. Returns false when that failed; libfuse has logged why. */
  mount(mountpoint: string): boolean {
    if (!this.#session.mount(mountpoint)) return false;
    this.#fd = this.#session.fd;
    setNonBlocking(this.#fd);
    return true;
  }

  /** What requests are read into. */
  get request(): RequestReader {
    return this.#request;
  }

  get fd(): number {
    return this.#fd;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Unmounted, or the device was taken away. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Somebody has taken the mount out of the tree; programs with open files may go on using it. */
  detached(): void {
    this.#session.detached();
  }

  /** No further request is read. */
  end(): void {
    this.#ended = true;
  }

  handleOne(): boolean {
    if (this.#ended) return false;
    const memory = this.#request.memory;
    const length = read(this.#fd, memory.address, memory.length);
    if (length > 0) {
      this.#handle(length);
      return true;
    }
    switch (-length) {
      case EAGAIN:
        return false;
      case EINTR:
      // The caller was interrupted before we took its request.
      case ENOENT:
        return true;
      case 0:
      case ENODEV:
        this.#ended = true;
        return false;
      default:
        throw new Error(`reading the FUSE device failed: errno ${-length}`);
    }
  }

  #handle(length: number): void {
    switch (this.#request.opcode) {
      // Nothing here counts lookups, and neither is answered: libfuse need not see them.
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
        return;
      case FUSE_INTERRUPT:
        this.#waiting.get(this.#request.u64(BODY + fuse_interrupt_in.unique))?.interrupt();
        return;
      case FUSE_INIT:
        this.#start(length);
        return;
      default:
        this.#session.process(length);
        if (this.#session.exited) this.#ended = true;
    }
  }

  #start(length: number): void {
    const { passthrough } = answerInit(this.#fd, this.#request, this.#wishes, () => this.#session.process(length));
    if (passthrough) {
      const outdated = (ino: number, edition: number): Promise<void> => this.onOutdated?.(ino, edition) ?? Promise.resolve();
      this.#context.modes = new IoModes(new BackingTable(this.#fd, this.#log), this.nodes, outdated);
    }
    this.onStarted?.();
  }

  /** Called by libfuse, inside `process`: must not throw. */
  #dispatch(operation: Operation, req: Pointer): void {
    const ino = this.#request.ino;
    this.#caller = null;
    this.#replies.answered = false;
    try {
      const { vfs } = this.#context;
      if (isRefused(vfs) && !RELEASES.has(operation.name)) throw vfs.refusal;
      const result = operation.call(this.#context);
      if (result instanceof Promise) this.#answerLater(operation, req, ino, result);
      else this.#check(operation, ino, operation.reply(this.#context, req, result as never));
    } catch (error) {
      this.#fail(operation, req, ino, error);
    }
  }

  #answerLater(operation: Operation, req: Pointer, ino: number, result: Promise<unknown>): void {
    const unique = this.#request.unique;
    if (this.#caller !== null) this.#waiting.set(unique, this.#caller);
    this.#inFlight++;
    const settle = (): boolean => {
      this.#waiting.delete(unique);
      this.#inFlight--;
      this.#replies.answered = false;
      // After close() the request handle is gone, and the kernel has told the caller that the mount is.
      return !this.#closed;
    };
    result.then(
      (value) => {
        if (!settle()) return;
        if (operation.name === "read" && isRefused(this.#context.vfs)) {
          // It was asked before, but would stay in the kernel's cache from now on.
          (value as ReadResult).release?.();
          this.#fail(operation, req, ino, null);
          return;
        }
        try {
          this.#check(operation, ino, operation.reply(this.#context, req, value as never));
        } catch (error) {
          this.#fail(operation, req, ino, error);
        }
      },
      (error: unknown) => {
        if (settle()) this.#fail(operation, req, ino, error);
      },
    );
  }

  /** One place maps failures to errnos: FsError to its own, all else to EIO and the log. */
  #fail(operation: Operation, req: Pointer, ino: number, failure: unknown): void {
    const error = this.#context.vfs.refusal ?? failure;
    if (!(error instanceof FsError)) {
      this.#log.error({ op: operation.name, ino, err: error }, "unexpected failure of an operation");
    } else if (error.cause !== undefined) {
      this.#log.warn({ op: operation.name, ino, errno: error.code, err: error }, "operation failed");
    }
    if (this.#replies.answered) return;
    const errno = error instanceof FsError ? error.errno : Errno.EIO;
    this.#check(operation, ino, this.#replies.error(req, errno));
  }

  /** ENOENT: the caller was killed meanwhile, and nobody waits for the answer. */
  #check(operation: Operation, ino: number, result: number): void {
    if (result < 0 && -result !== ENOENT && -result !== ENODEV) {
      this.#log.error({ op: operation.name, ino, errno: -result }, "the kernel refused an answer");
    }
  }

  /** Ends the session: unmounts if it still is mounted, and frees everything. Unanswered requests fail in the kernel. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ended = true;
    this.#context.modes?.close();
    this.#session.close();
    this.#request.close();
    this.#replies.close();
    this.#directories.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
