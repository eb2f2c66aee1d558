/**
 * The chunk Workers, seen from the thread that runs the filesystem: put and get by cell numbers. Each job goes to the Worker with most
 * free places; when none has one it waits here, first come first. The number of jobs is bounded by the cells that they hold.
 *
 * A message to a Worker and back costs 36 us, as much as a small transfer itself, so while few of those run they are done on the
 * calling thread, over a connection of its own.
 */
import { availableParallelism } from "node:os";
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import { type KeyMaterial, KeyRing } from "../crypto/key-ring.ts";
import { TransportError } from "../protocol/errors.ts";
import type { ChunkNode } from "./chunk-node.ts";
import { ChunkPipeline, type PipelineBuffers, SMALL_BLOCKS_MAX } from "./chunk-pipeline.ts";
import { DataConnection, type NodeSettings } from "./data-connection.ts";
import { inTurn } from "./fabric-candidates.ts";
import { sumCounts, TransferCounts, type TransferTotals } from "./transfer-counts.ts";
import type { Job, JobKind, JobLimits } from "./worker-messages.ts";
import { spawnChunkWorker, type WorkerLike, WorkerThread } from "./worker-thread.ts";

/**
 * Of each Worker: 4 whole chunks (17 MiB) keep a connection busy while chunks are sealed, and 16 small transfers (2 MiB). Gets need no
 * memory but their cells; 16 MiB of them on their way hide the node's disk.
 */
const WORKER_LIMITS: JobLimits = { put: 4, get: 16, small: 16 };
/** Small transfers at a time on the calling thread: more would hold up its request loop. */
const INLINE_IN_FLIGHT_MAX = 2;
const INLINE_BUFFERS: PipelineBuffers = { large: 0, small: 8 };
/** More Workers than this don't help one mount, and each costs a connection and 19 MiB. */
const WORKERS_MAX = 8;
/** A Worker that keeps dying is given up after this many restarts within the window. */
const RESTARTS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;
/** A job whose Worker died is given to another one, once: perhaps it is the job that kills them. */
const ATTEMPTS_MAX = 2;

/** Cores less the one that the request loop needs. */
export function defaultWorkerCount(): number {
  return Math.max(1, Math.min(WORKERS_MAX, availableParallelism() - 1));
}

export interface TransferPoolOptions {
  /** Divided in cells of BLOCK_BYTES. */
  readonly arena: SharedArrayBuffer;
  /** 1 to 8; see defaultWorkerCount(). */
  readonly workers: number;
  readonly node: NodeSettings;
  /** KeyRing.export(); copied. */
  readonly keys: KeyMaterial;
  /** A Worker was lost, or can't connect. */
  readonly onWarning?: (message: string) => void;
  /** false: no connection on the calling thread, everything goes to Workers. */
  readonly inline?: boolean;
  /** For tests: another way to start a Worker. */
  readonly spawn?: () => WorkerLike;
}

interface Waiting {
  readonly job: Job;
  readonly kind: JobKind;
  readonly deadlineMs: number;
  readonly timeoutMs: number;
  attempts: number;
  resolve(ref: ChunkRef | null): void;
  reject(error: Error): void;
}

export class TransferPool {
  readonly #options: TransferPoolOptions;
  readonly #keys: KeyRing;
  readonly #threads = new Set<WorkerThread>();
  readonly #waiting: Record<JobKind, Waiting[]> = { small: [], get: [], put: [] };
  readonly #restartsAtMs: number[] = [];
  #inline: { readonly connection: DataConnection; readonly pipeline: ChunkPipeline } | null = null;
  #inlineInFlight = 0;
  /** Of all threads that there were. */
  readonly #counts: TransferCounts[] = [];
  #state: "new" | "running" | "closed" = "new";

  constructor(options: TransferPoolOptions) {
    const { workers } = options;
    if (!Number.isInteger(workers) || workers < 1 || workers > WORKERS_MAX) {
      throw new RangeError(`workers: expected 1 to ${WORKERS_MAX}, got ${workers}`);
    }
    this.#options = options;
    this.#keys = KeyRing.fromMaterial(options.keys);
  }

  /** Starts the Workers; resolves when they take jobs. They connect by themselves, as often as it takes. */
  async start(): Promise<void> {
    if (this.#state !== "new") throw new Error("start: already called");
    this.#state = "running";
    if (this.#options.inline !== false) this.#startInline();
    const threads = Array.from({ length: this.#options.workers }, () => this.#startThread());
    try {
      await Promise.all(threads.map((thread) => thread.ready));
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /**
   * Seals the `bytes` of plaintext in `cells` as one chunk and stores it; resolves when it is durable. The cells must not change meanwhile.
   * @throws NodeError, TransportError ("timeout" counts the wait for a Worker too), RangeError
   */
  async put(cells: ArrayLike<number>, bytes: number, timeoutMs = this.#options.node.requestTimeoutMs): Promise<ChunkRef> {
    if (this.#inlineHasRoom(cells.length)) return await this.putInline(cells, bytes, timeoutMs);
    const ref = await this.#submit({ kind: "put", cells: Array.from(cells), bytes }, timeoutMs);
    if (ref === null) throw new Error("a put came back without a chunk");
    return ref;
  }

  /**
   * Fetches blocks `firstBlock` to `firstBlock + cells.length - 1` of a chunk, one round trip, and opens each into its cell. The cells belong
   * to the transfer until it settles; when it rejects, some may have been written.
   * @throws NodeError, TransportError, IntegrityError, RangeError
   */
  async get(ref: ChunkRef, firstBlock: number, cells: ArrayLike<number>, timeoutMs = this.#options.node.requestTimeoutMs): Promise<void> {
    if (this.#inlineHasRoom(cells.length)) return await this.getInline(ref, firstBlock, cells, timeoutMs);
    await this.#submit({ kind: "get", ref, firstBlock, cells: Array.from(cells) }, timeoutMs);
  }

  /** Epochs were added: chunks are sealed under the newest one from now on. `keys` is copied. */
  addKeys(keys: KeyMaterial): void {
    if (this.#state === "closed") return;
    this.#keys.addMaterial(keys);
    for (const thread of this.#threads) thread.addKeys(this.#keys.export());
  }

  /** put() on the calling thread, whatever runs there already; at most SMALL_BLOCKS_MAX blocks. */
  async putInline(cells: ArrayLike<number>, bytes: number, timeoutMs: number): Promise<ChunkRef> {
    return await this.#runInline((pipeline) => pipeline.put(cells, bytes, timeoutMs));
  }

  /** get() on the calling thread, whatever runs there already; at most SMALL_BLOCKS_MAX blocks. */
  async getInline(ref: ChunkRef, firstBlock: number, cells: ArrayLike<number>, timeoutMs: number): Promise<void> {
    await this.#runInline((pipeline) => pipeline.get(ref, firstBlock, cells, timeoutMs));
  }

  /** Fails what is under way as "closed", wipes the keys and ends the Workers. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#rejectWaiting(new TransportError("closed", "the transfer pool was closed"));
    await Promise.all([...[...this.#threads].map((thread) => thread.close()), this.#inline?.connection.close()]);
    this.#threads.clear();
    this.#keys.wipe();
  }

  /** What has been moved so far. */
  get totals(): TransferTotals {
    return sumCounts(this.#counts);
  }

  /** The fabric that bodies are moved by while it is well; null: TLS alone. */
  get fabric(): string | null {
    return this.#options.node.rdma?.candidates[0]?.provider ?? null;
  }

  #newCounts(): TransferCounts {
    const counts = new TransferCounts();
    this.#counts.push(counts);
    return counts;
  }

  /** Workers that are there, for statistics and tests. */
  get workerCount(): number {
    return this.#threads.size;
  }

  #startInline(): void {
    // Small bodies gain nothing by a fabric.
    const connection = new DataConnection({ ...this.#options.node, rdma: null }, this.#newCounts(), (message) =>
      this.#options.onWarning?.(message),
    );
    const node: ChunkNode = connection.node;
    const pipeline = new ChunkPipeline({ arena: this.#options.arena, keys: this.#keys, node, buffers: INLINE_BUFFERS });
    this.#inline = { connection, pipeline };
  }

  /** Workers so far. */
  #started = 0;

  #startThread(): WorkerThread {
    const { arena, onWarning, spawn = spawnChunkWorker } = this.#options;
    const { rdma } = this.#options.node;
    const candidates = rdma === null ? [] : inTurn(rdma.candidates, this.#started++);
    const node = { ...this.#options.node, rdma: rdma === null ? null : { ...rdma, candidates } };
    const keys = this.#keys.export();
    const counts = this.#newCounts();
    const thread = new WorkerThread(
      spawn(),
      { kind: "start", arena, keys, node, limits: WORKER_LIMITS, counts: counts.memory },
      {
        onLost: (lost, reason) => {
          counts.isOpen = false;
          this.#lost(lost, reason);
        },
        onLog: (message) => onWarning?.(`chunk worker: ${message}`),
      },
    );
    this.#threads.add(thread);
    thread.ready.then(
      () => this.#dispatch(),
      () => {},
    );
    return thread;
  }

  #inlineHasRoom(blocks: number): boolean {
    return this.#inline !== null && blocks <= SMALL_BLOCKS_MAX && this.#inlineInFlight < INLINE_IN_FLIGHT_MAX;
  }

  async #runInline<T>(run: (pipeline: ChunkPipeline) => Promise<T>): Promise<T> {
    this.#requireRunning();
    if (this.#inline === null) throw new Error("the transfer pool has no connection on this thread");
    this.#inlineInFlight++;
    try {
      return await run(this.#inline.pipeline);
    } finally {
      this.#inlineInFlight--;
    }
  }

  #requireRunning(): void {
    if (this.#state === "closed") throw new TransportError("closed", "the transfer pool was closed");
    if (this.#state === "new") throw new Error("the transfer pool was not started");
  }

  #submit(job: Job, timeoutMs: number): Promise<ChunkRef | null> {
    return new Promise((resolve, reject) => {
      this.#requireRunning();
      if (this.#threads.size === 0) throw new TransportError("closed", "all chunk workers have failed");
      const kind = job.cells.length > SMALL_BLOCKS_MAX ? job.kind : "small";
      const waiting: Waiting = { job, kind, deadlineMs: performance.now() + timeoutMs, timeoutMs, attempts: 0, resolve, reject };
      this.#waiting[kind].push(waiting);
      this.#dispatch();
    });
  }

  #dispatch(): void {
    this.#dispatchKind("small");
    this.#dispatchKind("get");
    this.#dispatchKind("put");
  }

  #dispatchKind(kind: JobKind): void {
    const queue = this.#waiting[kind];
    while (queue.length > 0) {
      let best: WorkerThread | null = null;
      for (const thread of this.#threads) if (thread.free(kind) > (best?.free(kind) ?? 0)) best = thread;
      if (best === null) return;
      this.#give(queue.shift() as Waiting, best);
    }
  }

  #give(waiting: Waiting, thread: WorkerThread): void {
    const leftMs = waiting.deadlineMs - performance.now();
    if (leftMs <= 0) {
      waiting.reject(new TransportError("timeout", `no chunk worker was free within ${waiting.timeoutMs} ms`));
      return;
    }
    waiting.attempts++;
    thread.run(waiting.job, waiting.kind, leftMs, {
      done: (ref) => {
        waiting.resolve(ref);
        this.#dispatch();
      },
      failed: (error) => {
        waiting.reject(error);
        this.#dispatch();
      },
      lost: () => {
        if (this.#state !== "running") waiting.reject(new TransportError("closed", "the transfer pool was closed"));
        else if (waiting.attempts >= ATTEMPTS_MAX) waiting.reject(new TransportError("closed", "the chunk worker failed"));
        else this.#waiting[waiting.kind].unshift(waiting);
      },
    });
  }

  #lost(thread: WorkerThread, reason: string): void {
    this.#threads.delete(thread);
    if (this.#state !== "running") return;
    const nowMs = performance.now();
    while (this.#restartsAtMs.length > 0 && nowMs - (this.#restartsAtMs[0] as number) > RESTART_WINDOW_MS) this.#restartsAtMs.shift();
    if (this.#restartsAtMs.length < RESTARTS_MAX) {
      this.#restartsAtMs.push(nowMs);
      this.#options.onWarning?.(`a chunk worker failed and is started again: ${reason}`);
      this.#startThread();
    } else {
      this.#options.onWarning?.(`a chunk worker failed for the ${RESTARTS_MAX + 1}th time within a minute and is given up: ${reason}`);
    }
    if (this.#threads.size === 0) this.#rejectWaiting(new TransportError("closed", "all chunk workers have failed"));
    else this.#dispatch();
  }

  #rejectWaiting(error: Error): void {
    for (const queue of Object.values(this.#waiting)) for (const waiting of queue.splice(0)) waiting.reject(error);
  }
}
