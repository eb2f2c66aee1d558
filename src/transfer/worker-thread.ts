/** One chunk Worker as TransferPool sees it: jobs out, results in, and word when the thread is gone. */

import type { ChunkRef } from "../crypto/chunk-seal.ts";
import { type KeyMaterial, wipeMaterial } from "../crypto/key-ring.ts";
import { TransportError } from "../protocol/errors.ts";
import { workerUrl } from "../worker-url.ts";
import { type FromWorker, type Job, type JobKind, type StartMessage, type ToWorker, unpackError } from "./worker-messages.ts";

/** A Worker ends within this after terminate(), or is taken for ended. */
const TERMINATE_WAIT_MS = 2_000;
/** A Worker is given this long to close its connection. */
const CLOSE_WAIT_MS = 3_000;

/** What WorkerThread needs of a Worker. */
export type WorkerLike = Pick<Worker, "postMessage" | "terminate" | "addEventListener">;

/** Starts a chunk Worker. */
export function spawnChunkWorker(): WorkerLike {
  return new Worker(workerUrl("transfer/chunk-worker.ts"));
}

export interface JobResult {
  done(ref: ChunkRef | null): void;
  failed(error: Error): void;
  /** The thread ended before it answered. It touches the job's cells no more. */
  lost(): void;
}

export interface WorkerThreadEvents {
  /** Once, unprompted: the thread is gone; its jobs have been told. */
  onLost(thread: WorkerThread, reason: string): void;
  onLog(message: string): void;
}

export class WorkerThread {
  /** Resolves when the Worker takes jobs; rejects when it ends before. */
  readonly ready: Promise<void>;
  readonly #worker: WorkerLike;
  readonly #events: WorkerThreadEvents;
  /** In memory that is shared with it. */
  readonly #sentKeys: KeyMaterial[] = [];
  readonly #jobs = new Map<number, { result: JobResult; kind: JobKind }>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  #lastId = 0;
  readonly #free: Record<JobKind, number>;
  #state: "starting" | "ready" | "closing" | "gone" = "starting";

  /** `start.keys` are wiped when the Worker has them. */
  constructor(worker: WorkerLike, start: StartMessage, events: WorkerThreadEvents) {
    this.#worker = worker;
    this.#events = events;
    this.#free = { ...start.limits };
    this.ready = this.#ready.promise;
    // Nobody need be listening when a restarted Worker fails.
    this.ready.catch(() => {});
    worker.addEventListener("message", (event) => this.#received((event as MessageEvent<FromWorker>).data));
    worker.addEventListener("error", (event) => void this.#fail(firstLine((event as ErrorEvent).message)));
    worker.addEventListener("close", () => {
      this.#ended.resolve();
      void this.#fail("the thread ended");
    });
    this.#sentKeys.push(start.keys);
    this.#post(start);
  }

  /** How many more jobs of a kind it takes; 0 while it isn't ready. */
  free(kind: JobKind): number {
    return this.#state === "ready" ? this.#free[kind] : 0;
  }

  run(job: Job, kind: JobKind, timeoutMs: number, result: JobResult): void {
    const id = ++this.#lastId;
    this.#jobs.set(id, { result, kind });
    this.#free[kind]--;
    this.#post({ kind: "job", id, job, timeoutMs });
  }

  /** Jobs that are given to it from now on find these keys, too. They are wiped when it has them. */
  addKeys(keys: KeyMaterial): void {
    this.#sentKeys.push(keys);
    if (this.#state === "starting" || this.#state === "ready") this.#post({ kind: "keys", keys });
  }

  /** Lets the Worker wipe its keys and close its connection, then ends it. Jobs that still run fail as lost. */
  async close(): Promise<void> {
    if (this.#state === "gone") return;
    this.#state = "closing";
    this.#post({ kind: "close" });
    await within(this.#closed.promise, CLOSE_WAIT_MS);
    await this.#end("the transfer pool was closed");
  }

  #post(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #received(message: FromWorker): void {
    switch (message.kind) {
      case "ready":
        if (this.#state === "starting") this.#state = "ready";
        this.#ready.resolve();
        break;
      case "log":
        this.#events.onLog(message.message);
        break;
      case "closed":
        this.#closed.resolve();
        break;
      case "done":
        this.#settle(message.id)?.done(message.ref);
        break;
      case "failed":
        this.#settle(message.id)?.failed(unpackError(message.error));
        break;
    }
  }

  #settle(id: number): JobResult | undefined {
    const job = this.#jobs.get(id);
    if (job === undefined) return undefined;
    this.#jobs.delete(id);
    this.#free[job.kind]++;
    return job.result;
  }

  async #fail(reason: string): Promise<void> {
    if (this.#state === "closing" || this.#state === "gone") return;
    this.#state = "closing";
    await this.#end(reason);
    this.#events.onLost(this, reason);
  }

  /** Ends the thread, and only then tells its jobs: until then it may be writing to their cells. */
  async #end(reason: string): Promise<void> {
    this.#worker.terminate();
    // Those that it never took up.
    for (const keys of this.#sentKeys.splice(0)) wipeMaterial(keys);
    await within(this.#ended.promise, TERMINATE_WAIT_MS);
    this.#state = "gone";
    this.#ready.reject(new TransportError("closed", `chunk worker: ${reason}`));
    const jobs = [...this.#jobs.values()];
    this.#jobs.clear();
    for (const { result } of jobs) result.lost();
  }
}

/** Bun puts an excerpt of the source before the message of an uncaught error. */
function firstLine(message: string): string {
  return /^(?:\w*[eE]rror): .*$/m.exec(message)?.[0] ?? "uncaught error";
}

async function within(promise: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([promise, timeout]);
  clearTimeout(timer);
}
