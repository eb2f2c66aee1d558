/** Moves all that a tenant has sealed under earlier data keys to the newest one: a client without a tree, beside mounts that go on. */
import type { Address } from "../config/address.ts";
import type { ClientConfig } from "../config/mount-config.ts";
import type { Credentials } from "../crypto/credentials.ts";
import { ChunkMover } from "../fs/rewrite/chunk-mover.ts";
import { Pace } from "../fs/rewrite/pace.ts";
import { rewriteNamespace } from "../fs/rewrite/rewrite-namespace.ts";
import type { RewriteTally, SkipReason } from "../fs/rewrite/rewrite-tools.ts";
import { GuardedCalls, guardedTransfer } from "../fs/shard/guarded-calls.ts";
import { Shard } from "../fs/shard/shard.ts";
import type { Logger } from "../log.ts";
import { NodeError } from "../protocol/errors.ts";
import { MIB } from "../protocol/limits.ts";
import { type Client, openClient } from "./open-client.ts";

/** A few chunks at once: nothing is kept in it. */
const MEMORY_BYTES = 64 * MIB;
/** A pass that finds nothing ends the rewrite. Others find what mounts wrote under the key before, until they took the new one up. */
const PASSES_MAX = 6;
/** What a mount had begun to seal when it took the key up has reached the node by then. */
const SETTLE_MS = 500;
const STOP_POLL_MS = 100;

export interface RewriteJob {
  readonly dataAddresses: readonly Address[];
  /** The KEK is overwritten. */
  readonly credentials: Credentials;
  readonly log: Logger;
  /** What is moved a second, at most. */
  readonly bytesPerSecond: number;
  /** performance.now() when all mounts that run have taken the newest key up; the last look comes after it. */
  readonly takenUpAtMs: number;
  /** What is under way is finished, and nothing more begun. */
  readonly stop: AbortSignal;
  readonly onProgress: (progress: RewriteProgress) => void;
}

export interface RewriteProgress extends Readonly<RewriteTally> {
  readonly pass: number;
  /** Inodes looked at in this pass, and those that there are. */
  readonly inodes: number;
  readonly inodesTotal: number;
  /** Nothing is left to do but to wait for mounts that may not have taken the key up. */
  readonly isWaiting: boolean;
}

export interface Skipped {
  readonly namespace: string;
  readonly inode: number;
  readonly reason: SkipReason;
}

export interface RewriteResult extends Readonly<RewriteTally> {
  /** The newest. */
  readonly epoch: number;
  /** What the last pass could not move. */
  readonly skipped: readonly Skipped[];
  /** The last pass was whole and found nothing of an earlier epoch. */
  readonly isComplete: boolean;
}

/** @throws TransportError, NodeError, IntegrityError, FsError: what was moved stays moved */
export async function rewriteTenant(job: RewriteJob): Promise<RewriteResult> {
  const { credentials, log } = job;
  const config: ClientConfig = {
    dataAddresses: job.dataAddresses,
    tenant: credentials.tenant,
    namespaces: "all",
    credentialsPath: null,
    passphrasePath: null,
    cacheMode: "bypass",
    cacheDir: "",
    cacheL1MaxBytes: MEMORY_BYTES,
    cacheL2MaxBytes: 0,
    cachePoolId: null,
    transport: "tcp",
    fabricInterface: null,
    workload: null,
    metaTtlMs: null,
    attrTimeoutMs: null,
    entryTimeoutMs: null,
    logLevel: "warn",
    logFile: null,
  };
  const user = { kind: "stage", mountpoint: null } as const;
  const client = await openClient({ config, credentials, log }, user, {
    onRecall: () => {},
    onState: () => {},
    staging: { onChange: () => {} },
  });
  try {
    return await new TenantRewrite(job, client).run();
  } finally {
    await client.close();
  }
}

class TenantRewrite {
  readonly #job: RewriteJob;
  readonly #client: Client;
  readonly #calls: GuardedCalls;
  readonly #pace: Pace;
  readonly #mover: ChunkMover;
  readonly #tally: RewriteTally = { records: 0, chunks: 0, bytes: 0 };
  #at = { pass: 0, inodes: 0, inodesTotal: 0, isWaiting: false };
  /** Delta ids rise for as long as the session lives. */
  readonly #shards = new Map<string, Shard>();

  constructor(job: RewriteJob, client: Client) {
    this.#job = job;
    this.#client = client;
    this.#calls = new GuardedCalls(client.calls, client.lifecycle);
    this.#pace = new Pace(job.bytesPerSecond);
    const { transfer } = client;
    const chunks = guardedTransfer(client.lifecycle, {
      put: (cells, bytes) => transfer.put(cells, bytes),
      get: (ref, first, cells) => transfer.get(ref, first, cells),
    });
    this.#mover = new ChunkMover(client.arena, chunks, this.#pace, (bytes) => {
      this.#tally.chunks++;
      this.#tally.bytes += bytes;
      this.#tell();
    });
  }

  async run(): Promise<RewriteResult> {
    const { stop } = this.#job;
    const settledAtMs = this.#job.takenUpAtMs + SETTLE_MS;
    let skipped: Skipped[] = [];
    let isComplete = false;
    for (let pass = 1; pass <= PASSES_MAX && !stop.aborted && !isComplete; pass++) {
      if (pass > 1) await this.#waitUntil(settledAtMs);
      const isLast = performance.now() >= settledAtMs;
      const before = this.#tally.records;
      skipped = await this.#pass(pass);
      const foundNothing = before === this.#tally.records && !stop.aborted;
      isComplete = isLast && foundNothing && skipped.length === 0;
      if (isLast && foundNothing && skipped.every(({ reason }) => reason === "damaged")) break;
    }
    return { epoch: this.#client.keys.current.epoch, ...this.#tally, skipped, isComplete };
  }

  async #waitUntil(atMs: number): Promise<void> {
    while (performance.now() < atMs && !this.#job.stop.aborted) {
      this.#at.isWaiting = true;
      this.#tell();
      await Bun.sleep(STOP_POLL_MS);
    }
  }

  #tell(): void {
    this.#job.onProgress({ ...this.#at, ...this.#tally });
  }

  async #pass(pass: number): Promise<Skipped[]> {
    const { names } = (await this.#calls.call("namespaceList", {})).answer;
    let inodesTotal = 0;
    for (const ns of names) inodesTotal += await unlessGone(async () => (await this.#calls.call("statfs", { ns })).answer.inodes, 0);
    this.#at = { pass, inodes: 0, inodesTotal, isWaiting: false };
    const all: Skipped[] = [];
    for (const namespace of names) {
      if (this.#job.stop.aborted) break;
      const skipped = await unlessGone(() => this.#rewrite(namespace), new Map<number, SkipReason>());
      for (const [inode, reason] of skipped) all.push({ namespace, inode, reason });
    }
    return all;
  }

  async #rewrite(namespace: string): Promise<Map<number, SkipReason>> {
    const keys = this.#client.keys.namespace(namespace);
    let shard = this.#shards.get(namespace);
    if (shard === undefined) {
      shard = new Shard(this.#calls, keys, this.#job.log);
      this.#shards.set(namespace, shard);
    }
    const skipped = new Map<number, SkipReason>();
    const own = { calls: this.#calls, pace: this.#pace, mover: this.#mover, tally: this.#tally, stop: this.#job.stop };
    await rewriteNamespace({ ...own, keys, shard, skipped }, () => {
      this.#at.inodes++;
      this.#tell();
    });
    return skipped;
  }
}

/** A namespace may be deleted meanwhile. */
async function unlessGone<T>(work: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof NodeError && error.code === "not_found") return otherwise;
    throw error;
  }
}
