/** One client's connection: who it is, and what each operation does. */
import { NodeError } from "../protocol/errors.ts";
import { ANSWER_TARGET_BYTES, DISCOVER_TTL_MS, FRAME_HEADER_MAX_BYTES, LEASE_MS } from "../protocol/limits.ts";
import {
  type InodeBundle,
  type InodeWant,
  type NamespaceState,
  PROTOCOL_VERSION,
  type RequestOf,
  type StoreState,
} from "../protocol/messages.ts";
import { inodeOfKey } from "../protocol/record-keys.ts";
import type { ClientOpName, FrameHandler, FrameSession, HandlerTable, MaybePromise, Reply } from "../transport/frame-server.ts";
import type { Lanes } from "../transport/lanes.ts";
import type { PeerRole } from "./authorization.ts";
import { type Collector, GC_GRACE_SHORT_MS } from "./collector.ts";
import type { Doorkeeper } from "./doorkeeper.ts";
import type { RdmaPeer, RdmaService } from "./fabric/rdma-service.ts";
import type { LimitsStore } from "./limits.ts";
import type { PolicyStore } from "./policy-store.ts";
import type { Session } from "./session.ts";
import type { Sessions } from "./sessions.ts";
import type { Namespace, Tenant } from "./tenant.ts";

/** Records of one `get` together: room is left for what MessagePack adds. */
const GET_MAX_BYTES = FRAME_HEADER_MAX_BYTES / 2;

const DONE = { answer: {} };

/** Where the connection finds the node. */
export interface NodeServices {
  readonly cluster: string;
  readonly version: string;
  readonly sessions: Sessions;
  readonly lanes: Lanes;
  readonly door: Pick<Doorkeeper, "greeted" | "tenantLeft">;
  readonly policy: Pick<PolicyStore, "effective">;
  readonly collector: Pick<Collector, "sweepPart">;
  /** Makes a tenant that was never here. */
  tenant(name: string): Promise<Tenant>;
  keys: {
    keys(tenant: string): { epoch: number; wrapped: Uint8Array }[];
    addKey(tenant: string, epoch: number, wrapped: Uint8Array): void;
    isShredded(tenant: string): boolean;
    readonly instance: Uint8Array;
    readonly start: { readonly number: number; readonly id: Uint8Array };
    knowsStart(id: Uint8Array): boolean;
    recoveredSince(id: Uint8Array, tenant: string, namespace: string): number | null;
  };
  /** null: no fabric. */
  readonly rdma: Pick<RdmaService, "offers" | "open"> | null;
  readonly limits: Pick<LimitsStore, "of" | "change">;
  /** Destroys the tenant's keys and ends its sessions. Returns how many keys there were. */
  shred(tenant: string): number;
}

/** What a connection may do once it has said hello. */
interface Greeted {
  readonly tenant: Tenant;
  /** null on a data connection that came before its session. */
  session: Session | null;
  readonly sessionId: Uint8Array;
}

export class ClientConnection implements FrameHandler {
  readonly #services: NodeServices;
  /** From the certificate; an error where that names no tenant. */
  readonly #tenantName: string | NodeError;
  readonly #isOperator: boolean;
  #frames: FrameSession | null = null;
  #greeted: Greeted | null = null;
  #closed = false;
  /** The doorkeeper counts it as its tenant's. */
  #isCounted = false;
  /** Memory of the client that bodies are moved to and from. */
  #peer: RdmaPeer | null = null;
  readonly #table: HandlerTable;

  constructor(services: NodeServices, role: PeerRole | NodeError) {
    this.#services = services;
    this.#tenantName = role instanceof NodeError ? role : role.tenant;
    this.#isOperator = !(role instanceof NodeError) && role.isOperator;
    this.#table = this.#operations();
  }

  attach(frames: FrameSession): void {
    this.#frames = frames;
  }

  handle<O extends ClientOpName>(op: O, request: RequestOf<O>, body: Uint8Array, requestId: number): MaybePromise<Reply<O>> {
    const tenantName = this.#tenantName;
    if (tenantName instanceof NodeError) throw tenantName;
    if (this.#services.keys.isShredded(tenantName))
      throw new NodeError("key_revoked", `tenant ${tenantName} was shredded: its keys are destroyed`);
    if (op !== "hello") {
      if (this.#greeted === null) throw new NodeError("session_lost", "hello first");
      if (this.#greeted.session !== null) this.#greeted.session.lastHeardMs = performance.now();
    }
    return this.#table[op](request, body, requestId);
  }

  get hasGreeted(): boolean {
    return this.#greeted !== null;
  }

  onClose(): void {
    this.#closed = true;
    this.#peer?.close();
    this.#peer = null;
    if (this.#isCounted && typeof this.#tenantName === "string") this.#services.door.tenantLeft(this.#tenantName);
    const session = this.#greeted?.session ?? null;
    if (session !== null && this.#frames !== null) this.#services.sessions.disconnected(session, this.#frames);
  }

  /** @throws NodeError "fabric" */
  get #rdma(): RdmaPeer {
    if (this.#peer === null) throw new NodeError("fabric", "rdmaOpen first");
    return this.#peer;
  }

  get #tenant(): Tenant {
    if (this.#greeted === null) throw new NodeError("session_lost", "hello first");
    return this.#greeted.tenant;
  }

  /** @throws NodeError "session_lost" where the session has ended, or this connection never had one */
  get #session(): Session {
    const session = this.#greeted?.session ?? null;
    if (session === null || session.ended) throw new NodeError("session_lost", "the session has ended: hello first");
    return session;
  }

  /** Also of a connection that came before its session. */
  get #sessionId(): Uint8Array {
    if (this.#greeted === null) throw new NodeError("session_lost", "hello first");
    return this.#greeted.sessionId;
  }

  #grant(namespace: Namespace, ino: number): boolean {
    return ino !== 0 && namespace.leases.grant(this.#session, ino);
  }

  /** Leases are granted in the turn of the read, so that no change comes between. */
  #lease(namespace: Namespace, inode: InodeBundle | null, want: InodeWant): InodeBundle | null {
    if (inode !== null && want.lease) inode.leased = this.#grant(namespace, inode.ino);
    return inode;
  }

  async #hello(request: RequestOf<"hello">): Promise<Reply<"hello">> {
    const { protocol, sessionId, role } = request;
    if (protocol !== PROTOCOL_VERSION) {
      throw new NodeError(
        "bad_request",
        `this node speaks protocol ${PROTOCOL_VERSION}, the client ${protocol}: use the same version of kiseki`,
      );
    }
    const frames = this.#frames;
    if (frames === null || this.#tenantName instanceof NodeError) throw new NodeError("not_authorized");
    if (this.#greeted !== null) throw new NodeError("bad_request", "hello was said already");
    // A session costs a write to the disk.
    const lane = this.#services.lanes.lane(this.#tenantName);
    await lane.ready();
    const tenant = await this.#services.tenant(this.#tenantName);
    if (this.#services.keys.isShredded(tenant.name)) throw new NodeError("key_revoked", `tenant ${tenant.name} was shredded`);
    if (this.#closed) throw new NodeError("session_lost", "the connection is closed");
    if (this.#greeted !== null) throw new NodeError("bad_request", "hello was said already");
    this.#services.door.greeted(tenant.name);
    this.#isCounted = true;
    const { session, resumed } = lane.run(() => this.#services.sessions.hello(sessionId, tenant.name, role, frames));
    this.#greeted = { tenant, session, sessionId: sessionId.slice() };
    frames.greeted(lane);
    return {
      answer: {
        nodeVersion: this.#services.version,
        cluster: this.#services.cluster,
        tenant: tenant.name,
        leaseMs: LEASE_MS,
        resumed,
        store: await this.#store(tenant, request),
      },
    };
  }

  async #store(tenant: Tenant, { lastStart, namespaces }: RequestOf<"hello">): Promise<StoreState> {
    const { instance, start } = this.#services.keys;
    return {
      instance,
      start: start.number,
      startId: start.id,
      knowsLastStart: lastStart.length === 0 || this.#services.keys.knowsStart(lastStart),
      namespaces: await Promise.all(
        namespaces.flatMap((name) => tenant.find(name) ?? []).map((namespace) => this.#state(tenant, namespace, lastStart)),
      ),
    };
  }

  async #state(tenant: Tenant, { name, shard }: Namespace, lastStart: Uint8Array): Promise<NamespaceState> {
    const { id, seq, durableSeq } = await shard.state();
    const recoveredSeq = lastStart.length === 0 ? seq : (this.#services.keys.recoveredSince(lastStart, tenant.name, name) ?? seq);
    return { name, id, seq, durableSeq, recoveredSeq };
  }

  async #statfs(ns: string): Promise<Reply<"statfs">> {
    const tenant = this.#tenant;
    const { inodes } = await tenant.namespace(ns).shard.usage();
    return { answer: { ...(await tenant.space(this.#sessionId)), inodes, freeInodes: await tenant.freeInodes() } };
  }

  /** A tenant may see its limits; only who holds the CA may change them. */
  async #tenantLimit(change: RequestOf<"tenantLimit">): Promise<Reply<"tenantLimit">> {
    const tenant = this.#tenant;
    if (Object.values(change).some((value) => value !== undefined)) {
      if (!this.#isOperator) throw new NodeError("not_authorized", "a tenant's limits are set by who holds the CA");
      await this.#services.limits.change(tenant.name, change);
    }
    const used = { ...(await tenant.usage()), namespaces: tenant.names().length };
    const { bytes = null, inodes = null, namespaces = null } = this.#services.limits.of(tenant.name);
    return { answer: { limits: { bytes, inodes, namespaces }, used } };
  }

  #operations(): HandlerTable {
    return {
      hello: (request) => this.#hello(request),
      ping: () => DONE,
      bye: async () => {
        await this.#services.sessions.end(this.#session);
        return DONE;
      },

      keyList: () => ({ answer: { keys: this.#services.keys.keys(this.#tenant.name) } }),
      keyPut: ({ epoch, wrapped }) => {
        this.#services.keys.addKey(this.#tenant.name, epoch, wrapped);
        return DONE;
      },

      keyShred: () => ({ answer: { keys: this.#services.shred(this.#tenant.name) } }),

      namespaceList: () => ({ answer: { names: this.#tenant.names() } }),
      namespaceCreate: async ({ name }) => {
        await this.#tenant.createNamespace(name);
        return DONE;
      },
      namespaceDelete: async ({ name, force }) => {
        await this.#tenant.deleteNamespace(name, force);
        return DONE;
      },
      gc: async ({ part, dryRun }) => ({
        answer: await this.#services.collector.sweepPart(this.#tenant, part, { graceMs: GC_GRACE_SHORT_MS, dryRun }),
      }),
      namespaceState: async ({ ns }) => ({
        answer: { state: await this.#state(this.#tenant, this.#tenant.namespace(ns), new Uint8Array(0)) },
      }),
      statfs: ({ ns }) => this.#statfs(ns),
      tenantLimit: (request) => this.#tenantLimit(request),
      credit: async ({ bytes, needed }) => ({ answer: await this.#tenant.credit(this.#session, bytes, needed) }),

      policyGet: ({ namespaces, workload }) => {
        const names = namespaces.length === 0 ? this.#tenant.names() : namespaces;
        return { answer: { policy: this.#services.policy.effective(this.#tenant.name, names, workload === "" ? null : workload) } };
      },

      inoGrant: async ({ ns, count }) => ({ answer: await this.#tenant.namespace(ns).shard.grantInos(count) }),
      get: ({ ns, keys }) =>
        then(this.#tenant.namespace(ns).shard.get(keys, GET_MAX_BYTES), (records) => {
          if (records === null)
            throw new NodeError("bad_request", `these records have more than ${GET_MAX_BYTES} bytes: ask for fewer at once`);
          return { answer: { records } };
        }),
      inode: ({ ns, ino, want }) => {
        const namespace = this.#tenant.namespace(ns);
        return then(namespace.shard.inode(ino, want.region0MaxBytes), (inode) => {
          if (want.lease) inode.leased = this.#grant(namespace, ino);
          return { answer: { inode } };
        });
      },
      lookup: ({ ns, key, want, leaseParent }) => {
        const namespace = this.#tenant.namespace(ns);
        return then(namespace.shard.lookup(key, want.region0MaxBytes), ({ dentry, inode }) => {
          const parentLeased = leaseParent && this.#grant(namespace, inodeOfKey(key));
          return { answer: { dentry, inode: this.#lease(namespace, inode, want), parentLeased } };
        });
      },
      list: ({ ns, dir, after, limit, inodes, want, leaseDir }) => {
        const namespace = this.#tenant.namespace(ns);
        const listed = namespace.shard.list(dir, after, limit, ANSWER_TARGET_BYTES, inodes ? want.region0MaxBytes : null);
        return then(listed, ({ entries, more, counters }) => {
          for (const { inode } of entries) this.#lease(namespace, inode, want);
          return { answer: { entries, more, counters, dirLeased: leaseDir && this.#grant(namespace, dir) } };
        });
      },
      range: ({ ns, from, to, limit }) =>
        then(this.#tenant.namespace(ns).shard.range(from, to.length === 0 ? null : to, limit, ANSWER_TARGET_BYTES), (answer) => ({
          answer,
        })),

      commit: async ({ ns, delta }) => {
        const session = this.#session;
        const tenant = this.#tenant;
        this.#services.sessions.uses(session, ns);
        return { answer: await tenant.commit(tenant.namespace(ns), { id: session.id, session }, delta) };
      },
      sync: async ({ ns }) => ({ answer: { seq: await this.#tenant.namespace(ns).shard.sync() } }),
      leaseRelease: ({ ns, inos }) => {
        const { leases } = this.#tenant.namespace(ns);
        for (const ino of inos) leases.release(this.#session, ino);
        return DONE;
      },

      chunkPut: async ({ id }, body) => ({ answer: await this.#tenant.putChunk(this.#sessionId, id, body) }),
      chunkRelease: ({ ids }) => {
        this.#tenant.holds.settle(this.#sessionId, ids);
        return DONE;
      },
      chunkGet: ({ id, offset, length }) =>
        then(this.#tenant.chunks.get(id, offset, length), ({ bytes, totalBytes, release }) => ({
          answer: { totalBytes },
          body: [bytes],
          ...(release === undefined ? {} : { onTaken: release }),
        })),

      discover: () => ({ answer: { fabrics: [...(this.#services.rdma?.offers ?? [])], ttlMs: DISCOVER_TTL_MS } }),
      rdmaOpen: async (request) => {
        if (this.#services.rdma === null) throw new NodeError("fabric", "this node uses no fabric");
        const { peer, name } = await this.#services.rdma.open(request, this.#tenant.name);
        if (this.#closed) peer.close();
        else {
          this.#peer?.close();
          this.#peer = peer;
        }
        return { answer: { name } };
      },
      rdmaProbe: async (body) => {
        await this.#rdma.probe(body);
        return DONE;
      },
      rdmaPut: async ({ id, body }) => {
        const tenant = this.#tenant;
        return { answer: await this.#rdma.fetch(body, (bytes) => tenant.putChunk(this.#sessionId, id, bytes)) };
      },
      rdmaGet: async ({ id, offset, length, at }) => {
        const { chunks } = this.#tenant;
        const answer = await this.#rdma.place(at, async (memory) => {
          const { bytes, totalBytes } = await chunks.get(id, offset, length, (wanted) => memory.subarray(0, wanted));
          return { bytes, result: { totalBytes, placed: bytes.length } };
        });
        return { answer };
      },
    };
  }
}

/** Stays in this turn where the value is there already. */
function then<T, R>(value: MaybePromise<T>, next: (value: T) => R): MaybePromise<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}
