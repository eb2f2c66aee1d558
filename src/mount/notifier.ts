/**
 * Tells the kernel to forget what another mount has changed. The kernel may hold a page or folder lock that only a reply of ours
 * releases, and waits for it inside the write, so that the writes are made by a Worker (notifier-worker.ts) and never by the main thread.
 */
import { addresses } from "../../ffi/libc/libc.ts";
import type { KernelCache, Name } from "../fs/posix/vfs.ts";
import { workerUrl } from "../worker-url.ts";
import type { MountLog } from "./log.ts";
import type { NodeNumbers } from "./node-numbers.ts";
import { MAX_NOTIFICATION_BYTES, putInvalidateEntry, putInvalidateInode } from "./notifications.ts";
import type { NotifierAnswer, NotifierRequest } from "./notifier-worker.ts";
import type { RequestReader } from "./requests.ts";

/** Notifications handed over at once: they lie in memory shared with the Worker. */
const BATCH_BYTES = 64 * 1024;
/** After this long a notification counts as done: the kernel's copies then expire by their timeouts. */
const PATIENCE_MS = 10_000;
/** How long close() waits for a write that hangs. */
const CLOSE_PATIENCE_MS = 1_000;

interface Pending {
  put(view: DataView, at: number): number;
  readonly done: PromiseWithResolvers<void>;
}

/**
 * The Worker and the queue before it. The same notification twice is sent once while it still waits. Promises resolve when the kernel
 * has let go, or after PATIENCE_MS; they never reject.
 */
export class Notifier implements KernelCache, AsyncDisposable {
  readonly #worker: Worker;
  readonly #nodes: NodeNumbers;
  readonly #log: MountLog;
  readonly #request: RequestReader;
  readonly #shared = new SharedArrayBuffer(BATCH_BYTES);
  readonly #view = new DataView(this.#shared);
  readonly #queue = new Map<string, Pending>();
  #answer: ((answer: NotifierAnswer) => void) | null = null;
  #turn: Promise<void> = Promise.resolve();
  #scheduled = false;
  /** The Worker has been inside a write for longer than PATIENCE_MS. */
  #hangs = false;
  /** The Worker is dead. */
  #failed = false;
  #closed = false;

  /** `fd`: the FUSE device, open until close() has resolved. `nodes`: by which numbers the kernel knows files. */
  constructor(fd: number, nodes: NodeNumbers, request: RequestReader, log: MountLog) {
    this.#nodes = nodes;
    this.#request = request;
    this.#log = log;
    this.#worker = new Worker(workerUrl("mount/notifier-worker.ts"));
    this.#worker.onmessage = (event: MessageEvent<NotifierAnswer>) => {
      const answer = this.#answer;
      this.#answer = null;
      answer?.(event.data);
    };
    this.#worker.onerror = (event) => {
      this.#log.error({ err: event.message }, "the notifier has failed: other mounts' changes are seen when the timeouts are over");
      this.#failed = true;
      this.#hangs = true;
      this.#resolveQueue();
      this.#answer?.({ kind: "failed" });
    };
    // A waiting mount must not be kept alive by this Worker alone.
    this.#worker.unref();
    void this.#exclusively(() => this.#ask({ kind: "start", ...addresses, fd, shared: this.#shared }));
  }

  /** Of the node that lookups lead to: what older ones have is never believed. */
  invalidateInode(ino: number): Promise<void> {
    return this.invalidateNode(ino, this.#nodes.edition(ino));
  }

  invalidateNode(ino: number, edition: number): Promise<void> {
    return this.#enqueue(`inode ${ino} ${edition}`, (view, at) => putInvalidateInode(view, at, ino, edition, true));
  }

  invalidateAttributes(ino: number): Promise<void> {
    const edition = this.#nodes.edition(ino);
    return this.#enqueue(`attributes ${ino} ${edition}`, (view, at) => putInvalidateInode(view, at, ino, edition, false));
  }

  forgetRequests(): void {
    this.#request.forget();
  }

  invalidateEntry(parent: number, name: Name): Promise<void> {
    return this.#enqueue(`entry ${parent} ${name}`, (view, at) => putInvalidateEntry(view, at, parent, name));
  }

  /**
   * umount2(2) off the main thread: the kernel may write dirty pages back to us before it returns. Resolves to false when it fails; does
   * not settle while the kernel waits.
   */
  async unmount(mountpoint: string, flags: number): Promise<boolean> {
    const answer = await this.#exclusively(() => this.#ask({ kind: "unmount", mountpoint, flags }));
    return answer.kind === "unmounted" && answer.ok;
  }

  #enqueue(key: string, put: Pending["put"]): Promise<void> {
    if (this.#closed || this.#hangs) return Promise.resolve();
    const waiting = this.#queue.get(key);
    if (waiting !== undefined) return waiting.done.promise;
    const pending: Pending = { put, done: Promise.withResolvers<void>() };
    this.#queue.set(key, pending);
    if (!this.#scheduled) {
      this.#scheduled = true;
      // After the current tick, so that what belongs together goes together.
      queueMicrotask(() => void this.#sendAll());
    }
    return pending.done.promise;
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.size > 0) {
      await this.#exclusively(() => this.#sendBatch());
    }
    this.#scheduled = false;
  }

  async #sendBatch(): Promise<void> {
    const sent: Pending[] = [];
    let at = 0;
    for (const [key, pending] of this.#queue) {
      if (at + MAX_NOTIFICATION_BYTES > BATCH_BYTES) break;
      at += pending.put(this.#view, at);
      this.#queue.delete(key);
      sent.push(pending);
    }
    if (sent.length === 0) return;
    const impatient = setTimeout(() => {
      this.#hangs = true;
      this.#log.warn({ notifications: sent.length }, "the kernel does not take notifications: its copies expire by their timeouts");
      this.#resolve(sent);
      this.#resolveQueue();
    }, PATIENCE_MS);
    // However long it takes: until the Worker is back, the shared memory is in use.
    await this.#ask({ kind: "notify", count: sent.length });
    clearTimeout(impatient);
    this.#hangs = this.#failed;
    this.#resolve(sent);
  }

  #resolve(pending: Iterable<Pending>): void {
    for (const { done } of pending) done.resolve();
  }

  #resolveQueue(): void {
    this.#resolve(this.#queue.values());
    this.#queue.clear();
  }

  /** One request to the Worker at a time: the shared memory and the next answer belong to it. */
  #exclusively<T>(use: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(use);
    this.#turn = result.then(() => undefined);
    return result;
  }

  #ask(request: NotifierRequest): Promise<NotifierAnswer> {
    if (this.#failed) return Promise.resolve({ kind: "failed" });
    const { promise, resolve } = Promise.withResolvers<NotifierAnswer>();
    this.#answer = resolve;
    this.#worker.postMessage(request);
    return promise;
  }

  /** Waits for what is being written, for a bounded time. What is queued resolves unsent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#resolveQueue();
    await Promise.race([this.#turn, Bun.sleep(CLOSE_PATIENCE_MS)]);
    this.#worker.terminate();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
