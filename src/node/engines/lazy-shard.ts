/**
 * Shards that are open while they are used: each takes some descriptors and megabytes, and a tenant may have thousands of namespaces. A shard opens
 * with the first call (a few milliseconds, in that call's turn) and closes when nobody has called it for a while, or when another one needs its place.
 */
import { NodeError } from "../../protocol/errors.ts";
import type { Delta } from "../../protocol/messages.ts";
import type { Lane } from "../../transport/lanes.ts";
import type { CommitOutcome, CommitRequest, MaybePromise, NewChunks, Shard, ShardEvent, ShardState, ShardUsage } from "./engine.ts";

/** A shard that nobody calls is closed after this long. */
const IDLE_MS = 60_000;
const IDLE_CHECK_MS = 1_000;
/** Each takes some milliseconds, in which nobody is served. */
const CLOSED_AT_ONCE_MAX = 1;
/** Who needs an open shard waits this long for one of the others to be let go. */
const PLACE_PATIENCE_MS = 10_000;
const PLACE_POLL_MS = 5;

/** A shard that can be closed. */
export interface ClosableShard extends Shard {
  /** It has work of its own to do. */
  readonly isBusy: boolean;
  close(): Promise<void>;
}

/** The shards of one engine that are open at a time. */
export class OpenShards {
  readonly #max: number;
  /** In no order: who is to be closed is found by when it was last used. */
  readonly #open = new Set<LazyShard>();
  readonly #timer: ReturnType<typeof setInterval>;
  /** Rises from look to look: when a shard was last used. */
  round = 0;

  constructor(max: number) {
    this.#max = max;
    this.#timer = setInterval(() => this.#closeIdle(), IDLE_CHECK_MS);
    this.#timer.unref();
  }

  get count(): number {
    return this.#open.size;
  }

  added(shard: LazyShard): void {
    this.#open.add(shard);
  }

  removed(shard: LazyShard): void {
    this.#open.delete(shard);
  }

  /** null: there is a place now. Otherwise resolves when there may be one. @throws NodeError "io" */
  place(): Promise<void> | null {
    return this.#open.size < this.#max ? null : this.#makePlace();
  }

  async #makePlace(): Promise<void> {
    const deadline = performance.now() + PLACE_PATIENCE_MS;
    while (this.#open.size >= this.#max) {
      let oldest: LazyShard | null = null;
      for (const shard of this.#open) if (shard.isIdle && (oldest === null || shard.usedRound < oldest.usedRound)) oldest = shard;
      if (oldest !== null) await oldest.letGo();
      else if (performance.now() > deadline)
        throw new NodeError("io", `${this.#max} namespaces are in use at once: raise the node's limit of open files`);
      else await Bun.sleep(PLACE_POLL_MS);
    }
  }

  #closeIdle(): void {
    this.round++;
    const before = this.round - IDLE_MS / IDLE_CHECK_MS;
    let left = CLOSED_AT_ONCE_MAX;
    for (const shard of this.#open) {
      if (left === 0 || !shard.isIdle || shard.usedRound >= before) continue;
      left--;
      void shard.letGo();
    }
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

/** Chunks wait in it for the end of their grace period. */
function hasLoose(shard: ClosableShard): boolean {
  try {
    return (shard.looseChunks(0, 1) as Uint8Array[]).length > 0;
  } catch {
    return true;
  }
}

function usageOf(shard: ClosableShard): ShardUsage | null {
  try {
    return shard.usage() as ShardUsage;
  } catch {
    return null;
  }
}

export class LazyShard implements Shard {
  readonly #shards: OpenShards;
  readonly #make: () => ClosableShard;
  readonly #onFirst: (shard: LazyShard, recoveredSeq: number) => void;
  #shard: ClosableShard | null = null;
  /** In whose turns it is opened. */
  readonly #lane: Lane | null;
  #closing: Promise<void> | null = null;
  #ended = false;
  /** Calls that are under way. */
  #users = 0;
  usedRound = 0;
  #hasLoose = false;
  #usage: ShardUsage | null = null;
  /** How far it was when it was opened first: what came later is of this run. */
  #recoveredSeq: number | null = null;

  /** `onFirst` is called when it has been opened for the first time, within the call that opened it. */
  constructor(
    shards: OpenShards,
    make: () => ClosableShard,
    onFirst: (shard: LazyShard, recoveredSeq: number) => void,
    lane: Lane | null = null,
  ) {
    this.#lane = lane;
    this.#shards = shards;
    this.#make = make;
    this.#onFirst = onFirst;
  }

  get isIdle(): boolean {
    return this.#users === 0 && this.#closing === null && this.#shard?.isBusy !== true;
  }

  /** Closes it until it is used again. What fails shows when it is opened. */
  letGo(): Promise<void> {
    const shard = this.#shard;
    if (shard === null) return this.#closing ?? Promise.resolve();
    this.#shard = null;
    this.#hasLoose = hasLoose(shard);
    this.#usage = usageOf(shard);
    this.#closing = shard
      .close()
      .catch(() => undefined)
      .then(() => {
        this.#closing = null;
        this.#shards.removed(this);
      });
    return this.#closing;
  }

  /** Closes it for good, when what is under way is done. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.letGo();
  }

  #use<T>(work: (shard: ClosableShard) => MaybePromise<T>): MaybePromise<T> {
    const shard = this.#shard ?? this.#open();
    if (shard instanceof Promise) return shard.then(() => this.#use(work));
    this.usedRound = this.#shards.round;
    const result = work(shard);
    if (!(result instanceof Promise)) return result;
    this.#users++;
    const done = (): void => {
      this.#users--;
    };
    result.then(done, done);
    return result;
  }

  /** A promise: it may be opened when that has settled. */
  #open(): ClosableShard | Promise<void> {
    if (this.#ended) throw new NodeError("not_found", "the namespace was deleted, or the node stops");
    const lane = this.#lane;
    const wait = this.#closing ?? (lane !== null && !lane.mayRun ? lane.ready() : this.#shards.place());
    if (wait !== null) return wait;
    const shard = lane === null ? this.#make() : lane.run(this.#make);
    this.#shard = shard;
    this.#shards.added(this);
    if (this.#recoveredSeq === null) {
      this.#recoveredSeq = (shard.state() as ShardState).recoveredSeq;
      this.#onFirst(this, this.#recoveredSeq);
    }
    return shard;
  }

  get(keys: readonly Uint8Array[], maxBytes?: number): ReturnType<Shard["get"]> {
    return this.#use((shard) => shard.get(keys, maxBytes));
  }
  range(from: Uint8Array, to: Uint8Array | null, limit: number, maxBytes: number): ReturnType<Shard["range"]> {
    return this.#use((shard) => shard.range(from, to, limit, maxBytes));
  }
  inode(ino: number, region0MaxBytes: number): ReturnType<Shard["inode"]> {
    return this.#use((shard) => shard.inode(ino, region0MaxBytes));
  }
  lookup(key: Uint8Array, region0MaxBytes: number): ReturnType<Shard["lookup"]> {
    return this.#use((shard) => shard.lookup(key, region0MaxBytes));
  }
  list(dir: number, after: Uint8Array, limit: number, maxBytes: number, region0MaxBytes: number | null): ReturnType<Shard["list"]> {
    return this.#use((shard) => shard.list(dir, after, limit, maxBytes, region0MaxBytes));
  }
  commit(request: CommitRequest): Promise<CommitOutcome> {
    // Of an open shard it is the promise itself: a commit waits for nothing else.
    try {
      return Promise.resolve(this.#use((shard) => shard.commit(request)));
    } catch (error) {
      return Promise.reject(error);
    }
  }
  async sync(): Promise<number> {
    return await this.#use((shard) => shard.sync());
  }
  /** Stays open from then on, until nobody listens any more. */
  watch(listener: (event: ShardEvent) => void): () => void {
    const stop = this.#use((shard) => shard.watch(listener));
    if (stop instanceof Promise) throw new NodeError("io", "the shard is not open");
    this.#users++;
    return () => {
      this.#users--;
      stop();
    };
  }
  state(): MaybePromise<ShardState> {
    return this.#use((shard) => {
      const state = shard.state() as ShardState;
      return { ...state, recoveredSeq: this.#recoveredSeq ?? state.recoveredSeq };
    });
  }
  async skipNumbers(): Promise<void> {
    await this.#use((shard) => shard.skipNumbers());
  }
  async grantInos(count: number): Promise<{ first: number; count: number }> {
    return await this.#use((shard) => shard.grantInos(count));
  }
  /** Of a shard that is closed, as it was then: it is not opened for that again. */
  usage(): MaybePromise<ShardUsage> {
    if (this.#shard === null && this.#usage !== null) return this.#usage;
    return this.#use((shard) => shard.usage());
  }
  newChunks(puts: Delta["puts"]): MaybePromise<NewChunks> {
    return this.#use((shard) => shard.newChunks(puts));
  }
  holdsChunk(id: Uint8Array, graceMs: number): MaybePromise<boolean> {
    return this.#use((shard) => shard.holdsChunk(id, graceMs));
  }
  /** Of a shard that is closed and had none then, none: it is not opened for that. */
  looseChunks(graceMs: number, limit: number): MaybePromise<Uint8Array[]> {
    if (this.#shard === null && !this.#hasLoose) return [];
    return this.#use((shard) => shard.looseChunks(graceMs, limit));
  }
  async forgetChunks(ids: readonly Uint8Array[]): Promise<void> {
    await this.#use((shard) => shard.forgetChunks(ids));
  }
  async forgetSession(session: Uint8Array): Promise<void> {
    await this.#use((shard) => shard.forgetSession(session));
  }
  async *verify(onChunk: (id: Uint8Array) => void): AsyncGenerator<string> {
    const lines = await this.#use((shard) => shard.verify(onChunk));
    this.#users++;
    try {
      yield* lines;
    } finally {
      this.#users--;
    }
  }
}
