/**
 * libfuse's low-level API (fuse_lowlevel.h), versions 3.10 to 3.17. One thread: libfuse's own loops call back from foreign threads,
 * which Bun's JSCallbacks don't survive, so the caller reads the device itself and hands each request to `processBuf`.
 */
import { dlopen, JSCallback, type Pointer, ptr } from "bun:ffi";
import { asPointer, formatVaList } from "../libc/libc.ts";
import { MappedMemory } from "../libc/memory.ts";
import {
  fuse_args,
  fuse_buf,
  fuse_buf_room,
  fuse_lowlevel_ops,
  fuse_lowlevel_ops_size,
  type LowlevelOp,
  libfuse_version_size,
} from "./layout.ts";

/** fuse_version() of the oldest supported library: major * 100 + minor below 3.11, and so on. */
const OLDEST_FUSE_VERSION = 310;

const SYMBOLS = {
  fuse_version: { args: [], returns: "int" },
  fuse_set_log_func: { args: ["ptr"], returns: "void" },
  fuse_session_mount: { args: ["ptr", "ptr"], returns: "int" },
  fuse_session_fd: { args: ["ptr"], returns: "int" },
  fuse_session_exited: { args: ["ptr"], returns: "int" },
  fuse_session_process_buf: { args: ["ptr", "ptr"], returns: "void" },
  fuse_session_unmount: { args: ["ptr"], returns: "void" },
  fuse_session_destroy: { args: ["ptr"], returns: "void" },
  fuse_opt_free_args: { args: ["ptr"], returns: "void" },
  fuse_reply_err: { args: ["ptr", "int"], returns: "int" },
  fuse_reply_buf: { args: ["ptr", "ptr", "u64"], returns: "int" },
  fuse_reply_iov: { args: ["ptr", "ptr", "int"], returns: "int" },
  fuse_reply_none: { args: ["ptr"], returns: "void" },
} as const;

/** 3.17 made fuse_session_new an inline function of the header over a versioned one; its library may lack the plain name. */
const PLAIN_NEW = { fuse_session_new: { args: ["ptr", "ptr", "u64", "ptr"], returns: "ptr" } } as const;
const VERSIONED_NEW = { fuse_session_new_versioned: { args: ["ptr", "ptr", "u64", "ptr", "ptr"], returns: "ptr" } } as const;

type SessionNew = (args: Pointer, table: Pointer, tableSize: number) => Pointer | null;

function bindSessionNew(path: string): SessionNew {
  try {
    const { fuse_session_new } = dlopen(path, PLAIN_NEW).symbols;
    return (args, table, tableSize) => orNull(fuse_session_new(args, table, tableSize, null));
  } catch (missing) {
    let versioned: ReturnType<typeof dlopen<typeof VERSIONED_NEW>>["symbols"]["fuse_session_new_versioned"];
    try {
      versioned = dlopen(path, VERSIONED_NEW).symbols.fuse_session_new_versioned;
    } catch {
      throw missing;
    }
    const version = new MappedMemory(libfuse_version_size);
    version.view.setUint32(0, 3, true);
    version.view.setUint32(4, 12, true);
    return (args, table, tableSize) => orNull(versioned(args, table, tableSize, version.address, null));
  }
}

function orNull(address: Pointer | bigint | null): Pointer | null {
  return address === null ? null : asPointer(address);
}

/** libfuse is loaded once a process: opening it again would not reload it, and its log function is global. */
export class Libfuse {
  /** fuse_version(): 314 for 3.14. */
  readonly version: number;
  readonly #symbols: ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];
  readonly sessionNew: SessionNew;
  #log: JSCallback | null = null;

  /** `path` as for dlopen(3). Throws an Error when there is no such library, or it is older than 3.10. */
  constructor(path: string) {
    this.#symbols = dlopen(path, SYMBOLS).symbols;
    this.version = this.#symbols.fuse_version();
    if (this.version < OLDEST_FUSE_VERSION) throw new Error(`libfuse ${this.version} is too old: expected at least ${OLDEST_FUSE_VERSION}`);
    this.sessionNew = bindSessionNew(path);
    const symbols = this.#symbols;
    this.replyErr = symbols.fuse_reply_err;
    this.replyBuf = symbols.fuse_reply_buf;
    this.replyIov = symbols.fuse_reply_iov;
    this.processBuf = symbols.fuse_session_process_buf;
  }

  /** fuse_reply_err(req, errno): also the answer without content (errno 0). All replies free the request and return 0 or -errno. */
  readonly replyErr: (req: Pointer, errno: number) => number;
  /** fuse_reply_buf(req, bytes, length in bytes). */
  readonly replyBuf: (req: Pointer, bytes: Pointer | null, length: number) => number;
  /** fuse_reply_iov(req, struct iovec array, count). */
  readonly replyIov: (req: Pointer, iov: Pointer, count: number) => number;
  /** fuse_session_process_buf(session, struct fuse_buf): calls the operation's callback before it returns. */
  readonly processBuf: (session: Pointer, buffer: Pointer) => void;

  /** Receives the lines that libfuse would print to stderr; `level` as in syslog(3). Called on this thread. */
  onLog(listener: (level: number, message: string) => void): void {
    // libfuse prints some lines piece by piece.
    let line = "";
    const callback = new JSCallback(
      (level: number, format: Pointer, args: Pointer) => {
        line += formatVaList(format, args);
        if (!line.endsWith("\n")) return;
        listener(level, line.trim());
        line = "";
      },
      { args: ["int", "ptr", "ptr"], returns: "void" },
    );
    if (callback.ptr === null) throw new Error("no memory for a JSCallback");
    this.#symbols.fuse_set_log_func(callback.ptr);
    this.#log?.close();
    this.#log = callback;
  }

  mount(session: Pointer, mountpoint: string): boolean {
    return this.#symbols.fuse_session_mount(session, ptr(Buffer.from(`${mountpoint}\0`))) === 0;
  }

  fd(session: Pointer): number {
    return this.#symbols.fuse_session_fd(session);
  }

  exited(session: Pointer): boolean {
    return this.#symbols.fuse_session_exited(session) !== 0;
  }

  unmount(session: Pointer): void {
    this.#symbols.fuse_session_unmount(session);
  }

  destroy(session: Pointer): void {
    this.#symbols.fuse_session_destroy(session);
  }

  freeArgs(args: Pointer): void {
    this.#symbols.fuse_opt_free_args(args);
  }
}

/** What libfuse calls: `init` with struct fuse_conn_info, each operation with its fuse_req_t. */
export interface SessionCallbacks {
  init(connection: Pointer): void;
  operations: Partial<Record<Exclude<LowlevelOp, "init" | "destroy">, (req: Pointer) => void>>;
}

/**
 * A fuse_session with its table of JSCallbacks. The callbacks take the request handle alone: an argument that a C caller passes and
 * the callee does not take is harmless on both ABIs, and everything is in the request's bytes.
 */
export class LowlevelSession implements Disposable {
  readonly #library: Libfuse;
  readonly #session: Pointer;
  readonly #callbacks: JSCallback[] = [];
  readonly #table: MappedMemory;
  readonly #buffer: MappedMemory;
  #mounted = false;
  #closed = false;

  /** `args` as on a command line, the program's name first. Throws an Error when libfuse refuses them (it has logged why). */
  constructor(library: Libfuse, args: readonly string[], callbacks: SessionCallbacks) {
    this.#library = library;
    this.#table = new MappedMemory(fuse_lowlevel_ops_size);
    this.#buffer = new MappedMemory(fuse_buf_room);
    this.#install(
      "init",
      new JSCallback((_userdata: Pointer, connection: Pointer) => callbacks.init(connection), { args: ["ptr", "ptr"] }),
    );
    for (const [name, callback] of Object.entries(callbacks.operations)) {
      this.#install(name as LowlevelOp, new JSCallback(callback, { args: ["ptr"], returns: "void" }));
    }
    const session = this.#create(args);
    if (session === null) {
      this.#free();
      throw new Error("fuse_session_new failed");
    }
    this.#session = session;
  }

  #install(name: LowlevelOp, callback: JSCallback): void {
    if (callback.ptr === null) throw new Error("no memory for a JSCallback");
    this.#callbacks.push(callback);
    this.#table.view.setBigUint64(fuse_lowlevel_ops[name], BigInt(callback.ptr), true);
  }

  /** libfuse copies the arguments and the table. */
  #create(args: readonly string[]): Pointer | null {
    const strings = args.map((text) => Buffer.from(`${text}\0`));
    const total = strings.reduce((sum, bytes) => sum + bytes.length, 0);
    const textAt = fuse_args.SIZE + (args.length + 1) * 8;
    using memory = new MappedMemory(textAt + total);
    memory.view.setInt32(fuse_args.argc, args.length, true);
    memory.view.setBigUint64(fuse_args.argv, BigInt(memory.at(fuse_args.SIZE)), true);
    let at = textAt;
    strings.forEach((bytes, index) => {
      memory.bytes.set(bytes, at);
      memory.view.setBigUint64(fuse_args.SIZE + index * 8, BigInt(memory.at(at)), true);
      at += bytes.length;
    });
    const session = this.#library.sessionNew(memory.address, this.#table.address, fuse_lowlevel_ops_size);
    this.#library.freeArgs(memory.address);
    return session;
  }

  /** fuse_session_mount. Returns false when it failed; libfuse has logged why. */
  mount(mountpoint: string): boolean {
    this.#mounted = this.#library.mount(this.#session, mountpoint);
    return this.#mounted;
  }

  /** The mount is out of the tree: close() leaves the mountpoint alone, where something else may be mounted by then. */
  detached(): void {
    this.#mounted = false;
  }

  /** The descriptor of /dev/fuse. */
  get fd(): number {
    return this.#library.fd(this.#session);
  }

  get exited(): boolean {
    return this.#library.exited(this.#session);
  }

  /** Tells where requests are read to; `process` then takes the length of each. */
  set requestMemory(memory: MappedMemory) {
    this.#buffer.view.setBigUint64(fuse_buf.mem, BigInt(memory.address), true);
    this.#buffer.view.setInt32(fuse_buf.fd, -1, true);
  }

  /** fuse_session_process_buf for the request of `length` bytes in the request memory. */
  process(length: number): void {
    this.#buffer.view.setUint32(fuse_buf.size, length, true);
    this.#library.processBuf(this.#session, this.#buffer.address);
  }

  /** Unmounts unless the kernel has already, closes the device, frees everything. No request handle may be used after this. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#mounted) this.#library.unmount(this.#session);
    this.#library.destroy(this.#session);
    this.#free();
  }

  #free(): void {
    for (const callback of this.#callbacks) callback.close();
    this.#table.close();
    this.#buffer.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
