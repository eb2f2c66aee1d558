/** One tenant on the node: its namespaces, its chunks, and the rules by which deltas get into them. */
import { NodeError } from "../protocol/errors.ts";
import { MIB, NAMESPACE_NAME_PATTERN, NAMESPACES_MAX, ROOT_INO } from "../protocol/limits.ts";
import type { AnswerOf, CommitResult, Delta } from "../protocol/messages.ts";
import { isAttrKey, isRegionKey, isXattrKey } from "../protocol/record-keys.ts";
import { ChunkHolds } from "./chunks/chunk-holds.ts";
import type { ChunkStore } from "./chunks/chunk-store.ts";
import { chunkName } from "./engines/chunk-list.ts";
import type { MaybePromise, MetadataEngine, Shard } from "./engines/engine.ts";
import { inosOfDelta } from "./engines/touched-inos.ts";
import { LeaseBudget, NamespaceLeases } from "./leases.ts";
import type { TenantLimits } from "./limits.ts";
import type { Session } from "./session.ts";
import { SpaceCredits } from "./space-credits.ts";

/** Ahead of what it needs a session is granted this part of what is free at most: the rest is left for others. */
const CREDIT_AHEAD_PART = 1 / 8;
/** Records that a delta replaces are read, to learn by how much it grows, up to so many bytes; beyond it counts as all new. */
const REPLACED_READ_MAX_BYTES = 8 * MIB;

/** Room that was found for what is on its way. Exactly one of the two is to be called; who calls `stored` may call `failed` afterwards. */
interface Reservation {
  /** All of it was promised to the session. */
  readonly isPromised: boolean;
  stored(): void;
  failed(): void;
}

export interface Namespace {
  readonly name: string;
  readonly shard: Shard;
  readonly leases: NamespaceLeases<Session>;
}

/** Who commits: a client's session, or the node itself when it cleans up after one. */
export interface Committer {
  readonly id: Uint8Array;
  /** Whose leases the delta leaves alone. */
  readonly session: Session | null;
}

export class Tenant {
  readonly name: string;
  readonly chunks: ChunkStore;
  readonly holds = new ChunkHolds();
  readonly credits: SpaceCredits;
  readonly #leaseBudget = new LeaseBudget();
  readonly #engine: MetadataEngine;
  readonly #namespaces = new Map<string, Namespace>();
  #lastChange: Promise<unknown> = Promise.resolve();
  /** Chunks that deltas on their way refer to, with the number of these: not to be collected. */
  readonly #pinned = new Map<string, number>();
  readonly #watches = new Set<Set<string>>();
  /** Until then the leases of the node's previous run may live on in clients, and commits wait. */
  #grace: Promise<void> | null = null;

  readonly #limits: () => TenantLimits;
  /** Inodes and bytes that deltas and chunks on their way will add. */
  readonly #coming = { inodes: 0, bytes: 0 };

  constructor(name: string, engine: MetadataEngine, chunks: ChunkStore, limits: () => TenantLimits = () => ({})) {
    this.#limits = limits;
    this.name = name;
    this.#engine = engine;
    this.chunks = chunks;
    this.credits = new SpaceCredits(chunks.promised);
  }

  /** Finds the namespaces that exist. */
  async load(): Promise<void> {
    for (const name of this.#engine.list(this.name)) await this.#open(name);
  }

  async #open(name: string): Promise<Namespace> {
    const shard = await this.#engine.open(this.name, name);
    const namespace = { name, shard, leases: new NamespaceLeases<Session>(name, this.#leaseBudget) };
    this.#namespaces.set(name, namespace);
    return namespace;
  }

  namespaces(): Namespace[] {
    return [...this.#namespaces.values()];
  }

  names(): string[] {
    return [...this.#namespaces.keys()].sort();
  }

  find(name: string): Namespace | undefined {
    return this.#namespaces.get(name);
  }

  /** @throws NodeError "not_found" */
  namespace(name: string): Namespace {
    const namespace = this.#namespaces.get(name);
    if (namespace === undefined) throw new NodeError("not_found", `no namespace ${name}`);
    return namespace;
  }

  async createNamespace(name: string): Promise<void> {
    if (!NAMESPACE_NAME_PATTERN.test(name)) throw new NodeError("bad_request", "not a namespace name");
    await this.#inTurn(async () => {
      if (this.#namespaces.has(name)) throw new NodeError("exists", `namespace ${name} exists`);
      const { namespaces: limit } = this.#limits();
      if (limit !== undefined && this.#namespaces.size >= limit) {
        throw new NodeError("over_quota", `tenant ${this.name} may have ${limit} namespaces`);
      }
      if (this.#namespaces.size >= NAMESPACES_MAX) throw new NodeError("bad_request", `a tenant has at most ${NAMESPACES_MAX} namespaces`);
      await this.#open(name);
    });
  }

  async deleteNamespace(name: string, force: boolean): Promise<void> {
    await this.#inTurn(() => this.#delete(name, force));
  }

  /** Namespaces are made and deleted one at a time. */
  async #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#lastChange.then(work);
    this.#lastChange = done.catch(() => {});
    await done;
  }

  async #delete(name: string, force: boolean): Promise<void> {
    const { shard, leases } = this.namespace(name);
    if (!force) {
      const { entries } = await shard.list(ROOT_INO, new Uint8Array(0), 1, 1, null);
      if (entries.length > 0) throw new NodeError("not_empty", `namespace ${name} is not empty`);
    }
    this.#namespaces.delete(name);
    await this.#engine.delete(this.name, name);
    // Nobody says which chunks only it referred to.
    this.holds.hasForgotten = true;
    await leases.touch(null, leases.inos());
  }

  /** Commits wait for `over`. */
  startGrace(over: Promise<void>): void {
    this.#grace = over.then(() => {
      this.#grace = null;
    });
  }

  async commit(namespace: Namespace, by: Committer, delta: Delta): Promise<CommitResult> {
    if (this.#grace !== null) await this.#grace;
    const { inodes: inodesMax, bytes: bytesMax } = this.#limits();
    if (by.session === null || (inodesMax === undefined && bytesMax === undefined)) return await this.#commit(namespace, by, delta);
    const { inodes, bytes } = await growthOf(namespace.shard, delta);
    const reserved = await this.#reserve(by.session.id, { inodes, recordBytes: bytes });
    try {
      return await this.#commit(namespace, by, delta, () => reserved.stored());
    } finally {
      reserved.failed();
    }
  }

  async #commit(namespace: Namespace, by: Committer, delta: Delta, onApplied?: () => void): Promise<CommitResult> {
    const pinned = delta.puts.some((put) => put.chunks.length > 0) ? await this.#pinChunks(namespace.shard, delta) : null;
    try {
      let wait: Promise<unknown> | null = null;
      const outcome = await namespace.shard.commit({
        session: by.id,
        delta,
        onApplied: () => {
          // From here on the engine counts it.
          onApplied?.();
          wait = namespace.leases.touch(by.session, inosOfDelta(delta));
          if (by.session !== null) for (const ino of delta.leases) namespace.leases.grant(by.session, ino);
        },
      });
      if (!outcome.ok) return outcome;
      if (pinned !== null && !outcome.replayed) this.#added(by.id, pinned.added);
      if (wait !== null) await wait;
      // While we waited, another session's delta may have ended a lease that this one was granted.
      const session = by.session;
      const leased = session === null ? [] : delta.leases.filter((ino) => namespace.leases.holds(session, ino));
      return { ...outcome, leased };
    } finally {
      pinned?.unpin();
    }
  }

  #added(session: Uint8Array, added: readonly Uint8Array[]): void {
    for (const watch of this.#watches) for (const id of added) watch.add(chunkName(id));
    this.holds.settle(session, added);
  }

  /** @throws NodeError "missing_chunk" @returns those that the puts add to their records, and what lets go of all of them */
  async #pinChunks(shard: Shard, delta: Delta): Promise<{ added: readonly Uint8Array[]; unpin: () => void }> {
    const names = delta.puts.flatMap((put) => put.chunks.map(chunkName));
    for (const name of names) this.#pinned.set(name, (this.#pinned.get(name) ?? 0) + 1);
    const unpin = () => {
      for (const name of names) {
        const count = this.#pinned.get(name) ?? 0;
        if (count > 1) this.#pinned.set(name, count - 1);
        else this.#pinned.delete(name);
      }
    };
    try {
      const { added, unreferenced } = await shard.newChunks(delta.puts);
      for (const id of unreferenced) {
        if (!(await this.chunks.exists(id))) throw new NodeError("missing_chunk", `no chunk ${id.toHex()}: put it before the delta`);
      }
      return { added, unpin };
    } catch (error) {
      unpin();
      throw error;
    }
  }

  /** What the tenant has stored: inodes of all namespaces, and bytes of chunks (each once) and records. In this turn where all is counted already. */
  usage(): MaybePromise<{ inodes: number; bytes: number }> {
    const counts = this.namespaces().map(({ shard }) => shard.usage());
    const chunkBytes = this.chunks.usedBytes();
    const sum = { inodes: 0, bytes: 0 };
    for (const count of counts) {
      if (count instanceof Promise) return Promise.all([chunkBytes, ...counts]).then(() => this.usage());
      sum.inodes += count.inodes;
      sum.bytes += count.bytes;
    }
    if (chunkBytes instanceof Promise) return chunkBytes.then(() => this.usage());
    return { inodes: sum.inodes, bytes: sum.bytes + chunkBytes };
  }

  /** Inodes that the tenant may still make; null: as many as there is room for. */
  async freeInodes(): Promise<number | null> {
    const { inodes: limit } = this.#limits();
    return limit === undefined ? null : Math.max(0, limit - (await this.usage()).inodes - this.#coming.inodes);
  }

  /** Bytes of what the tenant may use, and those of them that are left for this session: what is promised to others is not. */
  async space(session: Uint8Array): Promise<{ totalBytes: number; freeBytes: number }> {
    const { bytes: limit } = this.#limits();
    const used = limit === undefined ? null : await this.usage();
    const own = this.credits.of(session);
    const disk = this.chunks.space();
    const freeOfDisk = Math.max(0, disk.freeBytes - (this.chunks.promised.bytes - own));
    if (limit === undefined || used === null) return { totalBytes: disk.totalBytes, freeBytes: freeOfDisk };
    const freeOfLimit = limit - used.bytes - (this.credits.bytes - own);
    return { totalBytes: Math.min(disk.totalBytes, limit), freeBytes: Math.max(0, Math.min(freeOfDisk, freeOfLimit)) };
  }

  /**
   * Sets what the session holds of the space, see the message `credit`. Check and grant are one turn, as with #reserve: nobody comes between.
   * @throws NodeError "session_lost"
   */
  async credit(session: Session, bytes: number, needed: number): Promise<AnswerOf<"credit">> {
    const { credits } = this;
    for (;;) {
      if (session.ended) throw new NodeError("session_lost", "the session has ended: hello first");
      const held = credits.of(session.id);
      if (bytes <= held) {
        credits.set(session.id, bytes);
        return { granted: bytes, overQuota: false };
      }
      const before = credits.before(session.id);
      const { bytes: limit } = this.#limits();
      const used = limit === undefined ? null : this.usage();
      if (before !== null || used instanceof Promise) {
        await Promise.all([before, used]);
        continue;
      }
      const quota =
        limit === undefined || used === null ? Number.POSITIVE_INFINITY : limit - used.bytes - this.#coming.bytes - credits.bytes;
      const disk = this.chunks.space().freeBytes - this.chunks.promised.bytes;
      const free = Math.max(0, Math.min(quota, disk));
      const wanted = Math.min(bytes - held, Math.max(needed - held, Math.floor(free * CREDIT_AHEAD_PART)));
      const granted = held + Math.min(wanted, free);
      credits.set(session.id, granted);
      return { granted, overQuota: granted < needed && quota <= disk };
    }
  }

  /**
   * Finds room for what is on its way: of the session's credit first, which is never refused, and of what is free beyond all credits.
   * @throws NodeError "over_quota", "no_space"
   */
  async #reserve(session: Uint8Array, want: { inodes?: number; recordBytes?: number; chunkBytes?: number }): Promise<Reservation> {
    const { inodes = 0, recordBytes = 0, chunkBytes = 0 } = want;
    const bytes = recordBytes + chunkBytes;
    const credited = this.credits.take(session, bytes);
    const rest = bytes - credited;
    const { promised } = this.chunks;
    try {
      for (let isCounted = false; !isCounted; ) {
        const used = this.#isLimited(inodes, rest) ? this.usage() : null;
        if (used instanceof Promise) {
          await used;
          continue;
        }
        if (used !== null) this.#checkLimits(used, inodes, rest);
        isCounted = true;
      }
      // Records may use what the store keeps for them.
      if (chunkBytes > 0 && rest > 0 && this.chunks.space().freeBytes - promised.bytes < rest)
        throw new NodeError("no_space", "the node's disk is full");
    } catch (error) {
      this.credits.giveBack(session, credited);
      throw error;
    }
    this.#coming.inodes += inodes;
    this.#coming.bytes += bytes;
    promised.bytes += rest;
    let isOver = false;
    const over = (spent: number): boolean => {
      if (isOver) return false;
      isOver = true;
      this.#coming.inodes -= inodes;
      this.#coming.bytes -= bytes;
      promised.bytes -= spent;
      return true;
    };
    return {
      isPromised: rest === 0,
      stored: () => void over(bytes),
      failed: () => {
        if (over(rest)) this.credits.giveBack(session, credited);
      },
    };
  }

  #isLimited(inodes: number, bytes: number): boolean {
    const limits = this.#limits();
    return (inodes > 0 && limits.inodes !== undefined) || (bytes > 0 && limits.bytes !== undefined);
  }

  #checkLimits(used: { inodes: number; bytes: number }, inodes: number, bytes: number): void {
    const limits = this.#limits();
    const over = (what: string, limit: number): NodeError => new NodeError("over_quota", `tenant ${this.name} may have ${limit} ${what}`);
    if (inodes > 0 && limits.inodes !== undefined && used.inodes + this.#coming.inodes + inodes > limits.inodes)
      throw over("inodes", limits.inodes);
    if (bytes > 0 && limits.bytes !== undefined && used.bytes + this.#coming.bytes + this.credits.bytes + bytes > limits.bytes)
      throw over("bytes", limits.bytes);
  }

  isPinned(id: Uint8Array): boolean {
    return this.#pinned.has(chunkName(id));
  }

  /** Of these chunks (by chunkName), those that a record of any namespace refers to, and those that one did within the last `graceMs`. */
  async references(ids: readonly Uint8Array[], graceMs: number): Promise<{ referenced: Set<string>; recent: Set<string> }> {
    const referenced = new Set<string>();
    const recent = new Set<string>();
    for (const { shard } of this.namespaces()) {
      for (const id of ids) {
        if (!(await shard.holdsChunk(id, graceMs))) continue;
        recent.add(chunkName(id));
        if (await shard.holdsChunk(id, 0)) referenced.add(chunkName(id));
      }
    }
    return { referenced, recent };
  }

  /** The chunks (by chunkName) that committed records name from here on, and did not name before; dispose of it when done. */
  watchAdded(): Set<string> & Disposable {
    const added = Object.assign(new Set<string>(), { [Symbol.dispose]: () => void this.#watches.delete(added) });
    this.#watches.add(added);
    return added;
  }

  /** Stores a chunk, and keeps it until the session has committed a record that names it. */
  async putChunk(session: Uint8Array, id: Uint8Array, body: Uint8Array): Promise<{ existed: boolean }> {
    // Before it is there: it could be collected before this knows that it was.
    this.holds.hold(session, id);
    let reserved: Reservation | null = null;
    try {
      // One that is there is not stored again.
      if (!(await this.chunks.exists(id))) reserved = await this.#reserve(session, { chunkBytes: body.length + this.chunks.extraBytes });
      const put = await this.chunks.put(id, body, reserved?.isPromised ?? false);
      if (!put.existed) reserved?.stored();
      return put;
    } catch (error) {
      this.holds.settle(session, [id]);
      throw error;
    } finally {
      reserved?.failed();
    }
  }
}

/**
 * Inodes that a delta makes, and bytes by which its records grow: content (small files stand in their region's record), new names, extended attributes.
 * A change of attributes, and above all a deletion, is never refused.
 */
async function growthOf(shard: Shard, { checks, puts, deletes, deletePrefixes }: Delta): Promise<{ inodes: number; bytes: number }> {
  const isNew = (key: Uint8Array): boolean => checks.some((check) => check.kind === "absent" && Buffer.compare(check.key, key) === 0);
  const inodes = puts.filter(({ key }) => isAttrKey(key) && isNew(key)).length;
  // What takes a record away, to delete or to rename, goes through at the limit too.
  const isGrowth = deletes.length === 0 && deletePrefixes.length === 0;
  const counted = puts.filter(({ key }) => isRegionKey(key) || (isGrowth && (isXattrKey(key) || isNew(key))));
  if (counted.length === 0) return { inodes, bytes: 0 };
  const replaced = await shard.get(
    counted.map(({ key }) => key),
    REPLACED_READ_MAX_BYTES,
  );
  const bytes = counted.reduce((sum, { value }, i) => sum + Math.max(0, value.length - (replaced?.[i]?.value.length ?? 0)), 0);
  return { inodes, bytes };
}
