/** The Worker that writes and destroys chunk files (disk-worker.ts), seen from the request loop. Jobs are done in the order in which they come. */
import { addresses } from "../../../ffi/libc/libc.ts";
import { workerUrl } from "../../worker-url.ts";
import type { DiskJob, DiskJobResult, FromDiskWorker, NumberedJob, ToDiskWorker, TrailerJob, VerifyJob, WriteJob } from "./disk-jobs.ts";

/** A job that has begun is waited for this long at the end: a disk that hangs must not hold up an unmount for ever. */
const CLOSE_WAIT_MS = 10_000;
/** Jobs of one message: their results come together, and the first must not wait long. */
const MESSAGE_JOBS_MAX = 8;

/** What DiskWriter needs of a Worker. */
type DiskWorkerLike = Pick<Worker, "postMessage" | "terminate" | "addEventListener">;

/** A system call on the cache's disk failed. */
class DiskError extends Error {
  override readonly name = "DiskError";
  /** As in NodeJS.ErrnoException; "" where it is no system error. */
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

interface Pending {
  resolve(crcs: readonly number[]): void;
  reject(error: Error): void;
}

export class DiskWriter {
  readonly #worker: DiskWorkerLike;
  readonly #pending = new Map<number, Pending>();
  /** Jobs of this turn of the event loop. */
  #unsent: NumberedJob[] = [];
  readonly #closed = Promise.withResolvers<void>();
  #lastId = 0;
  #state: "running" | "closing" | "gone" = "running";

  /** @param arena cells of BLOCK_BYTES, from which blocks are written */
  constructor(arena: SharedArrayBuffer) {
    this.#worker = new Worker(workerUrl("cache/disk/disk-worker.ts"));
    this.#worker.addEventListener("message", (event) => this.#received((event as MessageEvent<FromDiskWorker>).data));
    this.#worker.addEventListener("error", () => this.#gone());
    this.#worker.addEventListener("close", () => this.#gone());
    this.#post({ kind: "start", arena, lseek: addresses.lseek, setpriority: addresses.setpriority });
  }

  /** Jobs that are not done. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Writes blocks from cells, which must not change meanwhile. Resolves to the CRC32 of each. @throws DiskError */
  write(job: Omit<WriteJob, "kind">): Promise<readonly number[]> {
    return this.#run({ kind: "write", ...job });
  }

  /** Writes a chunk's trailer. @throws DiskError */
  async writeTrailer(job: Omit<TrailerJob, "kind">): Promise<void> {
    await this.#run({ kind: "trailer", ...job });
  }

  /** Overwrites a file with zeros and deletes it; one that is gone is no failure. @throws DiskError */
  async destroy(path: string): Promise<void> {
    await this.#run({ kind: "destroy", path });
  }

  /** Resolves to the CRC32 of each block of a chunk file. @throws DiskError when it can't be read, or is not what its trailer says */
  verify(job: Omit<VerifyJob, "kind">): Promise<readonly number[]> {
    return this.#run({ kind: "verify", ...job });
  }

  /** Resolves when all jobs that were given have been done, and ends the Worker. */
  async close(): Promise<void> {
    if (this.#state === "gone") return;
    this.#state = "closing";
    this.#send();
    this.#post({ kind: "close" });
    const timer = setTimeout(() => this.#gone(), CLOSE_WAIT_MS);
    await this.#closed.promise;
    clearTimeout(timer);
    this.#gone();
    this.#worker.terminate();
  }

  #run(job: DiskJob): Promise<readonly number[]> {
    if (this.#state !== "running") return Promise.reject(new DiskError("", "the cache's disk writer was closed"));
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#unsent.push({ id, job });
      if (this.#unsent.length === MESSAGE_JOBS_MAX) this.#send();
      else if (this.#unsent.length === 1) queueMicrotask(() => this.#send());
    });
  }

  #send(): void {
    if (this.#unsent.length > 0 && this.#state !== "gone") this.#post({ kind: "jobs", jobs: this.#unsent });
    this.#unsent = [];
  }

  #post(message: ToDiskWorker): void {
    this.#worker.postMessage(message);
  }

  #received(message: FromDiskWorker): void {
    if (message.kind === "closed") this.#closed.resolve();
    else for (const result of message.results) this.#done(result);
  }

  #done(result: DiskJobResult): void {
    const pending = this.#pending.get(result.id);
    if (pending === undefined) return;
    this.#pending.delete(result.id);
    if ("crcs" in result) pending.resolve(result.crcs);
    else pending.reject(new DiskError(result.code, result.message));
  }

  #gone(): void {
    this.#state = "gone";
    this.#closed.resolve();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) reject(new DiskError("", "the cache's disk writer has ended"));
  }
}
