/**
 * The sessions of all tenants: beginning, resuming, ending. They are stored, so that a restarted node knows whose deleted-but-open
 * inodes it keeps, and whose caches may still hold leases of its previous run.
 */
import { NodeError } from "../protocol/errors.ts";
import { ANSWER_RECORDS_MAX, LEASE_MS, MIB, ROOT_INO, SESSION_ID_BYTES, SESSION_TIMEOUT_MS } from "../protocol/limits.ts";
import type { Delta } from "../protocol/messages.ts";
import { inodePrefix, KEY_KIND_ORPHAN, orphanPrefix, prefixEnd } from "../protocol/record-keys.ts";
import type { FrameSession } from "../transport/frame-server.ts";
import type { Shard } from "./engines/engine.ts";
import type { NodeDatabase } from "./node-database.ts";
import { Session } from "./session.ts";
import type { Namespace, Tenant } from "./tenant.ts";

/** Sessions are looked at this often. */
const SWEEP_MS = 2_000;
/** A connected client that says nothing for this long is gone without a word (a host that died). */
const SILENT_CONNECTION_MS = 2 * SESSION_TIMEOUT_MS;
/** One for each mount and each running command. */
const SESSIONS_PER_TENANT_MAX = 16_384;
/** Orphans deleted per commit. */
const ORPHANS_PER_DELTA = 256;
/** The node's own deltas are committed under this session id; clients' ids are random. */
const NODE_SESSION_ID = new Uint8Array(SESSION_ID_BYTES);

export interface SessionsLogger {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

function nameOf(id: Uint8Array): string {
  return id.toHex();
}

export class Sessions {
  readonly #database: NodeDatabase;
  readonly #tenants: ReadonlyMap<string, Tenant>;
  readonly #logger: SessionsLogger;
  readonly #timeoutMs: number;
  readonly #sessions = new Map<string, Session>();
  readonly #sweeper: ReturnType<typeof setInterval>;
  /** By tenant: sessions of the previous run that have not come back, and how to end the wait for them. */
  readonly #awaited = new Map<string, { ids: Set<string>; over: () => void }>();
  /** Delta ids of the node: above those of every earlier run. */
  #deltaId = Date.now() * 1_000;

  constructor(database: NodeDatabase, tenants: ReadonlyMap<string, Tenant>, logger: SessionsLogger, timeoutMs = SESSION_TIMEOUT_MS) {
    this.#database = database;
    this.#tenants = tenants;
    this.#logger = logger;
    this.#timeoutMs = timeoutMs;
    this.#sweeper = setInterval(() => this.#sweep(), Math.min(SWEEP_MS, timeoutMs));
    this.#sweeper.unref();
  }

  /** Takes up the sessions of the node's previous run; call it once, before the first client. */
  load(): void {
    for (const { session, tenant } of this.#database.sessions()) {
      const { namespaces } = this.#add(session, tenant);
      for (const name of this.#database.namespacesOfSession(session)) namespaces.add(name);
    }
    for (const [name, tenant] of this.#tenants) {
      const ids = new Set([...this.#sessions].filter(([, session]) => session.tenant === name).map(([id]) => id));
      if (ids.size === 0) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, LEASE_MS);
      this.#awaited.set(name, { ids, over: resolve });
      tenant.startGrace(
        promise.then(() => {
          clearTimeout(timer);
          this.#awaited.delete(name);
        }),
      );
      tenant.credits.awaitDeclarations(ids, LEASE_MS);
    }
  }

  /**
   * A namespace was opened for the first time in this run. Sessions that are not known may have left deleted-but-open inodes in it: a backup has them,
   * which was restored without its sessions.
   */
  async adopt(tenant: string, namespace: string, shard: Shard): Promise<void> {
    for (const id of await orphanSessions(shard)) {
      const session = this.#sessions.get(nameOf(id)) ?? this.#add(id, tenant);
      session.namespaces.add(namespace);
    }
  }

  /** The session is about to change something in the namespace. @throws NodeError */
  uses(session: Session, namespace: string): void {
    if (session.namespaces.has(namespace)) return;
    this.#database.addSessionNamespace(session.id, namespace);
    session.namespaces.add(namespace);
  }

  #add(id: Uint8Array, tenant: string): Session {
    const session = new Session(id, tenant);
    this.#sessions.set(nameOf(id), session);
    return session;
  }

  /**
   * A client said hello. Meta connections make or resume the session; data connections join it where it exists.
   * @throws NodeError "not_authorized" for another tenant's session
   */
  hello(id: Uint8Array, tenant: string, role: "meta" | "data", connection: FrameSession): { session: Session | null; resumed: boolean } {
    const name = nameOf(id);
    let session = this.#sessions.get(name);
    if (session !== undefined && session.tenant !== tenant) throw new NodeError("not_authorized", "the session belongs to another tenant");
    if (id.every((byte) => byte === 0)) throw new NodeError("bad_request", "a session id must be random");
    if (session?.ended) throw new NodeError("shutting_down", "the session is being ended: try again");
    const resumed = session !== undefined;
    if (role === "data") {
      if (session !== undefined) this.#join(session, connection);
      return { session: session ?? null, resumed };
    }
    if (session === undefined) {
      if (this.#countOf(tenant) >= SESSIONS_PER_TENANT_MAX) {
        throw new NodeError("too_many", `tenant ${tenant} has ${SESSIONS_PER_TENANT_MAX} sessions: unmount what is not used`);
      }
      const kept = id.slice();
      this.#database.addSession(kept, tenant);
      session = this.#add(kept, tenant);
      this.#tenants.get(tenant)?.holds.returned(kept);
    }
    this.#join(session, connection);
    // Recalls sent on the old connection may be lost, so the client has dropped its caches: so do we.
    for (const namespace of this.#namespacesOf(session)) namespace.leases.releaseAll(session);
    session.letGo();
    session.meta?.close("the session has a new connection");
    session.meta = connection;
    this.#returned(tenant, name);
    return { session, resumed };
  }

  #countOf(tenant: string): number {
    let count = 0;
    for (const session of this.#sessions.values()) if (session.tenant === tenant) count++;
    return count;
  }

  #join(session: Session, connection: FrameSession): void {
    session.connections.add(connection);
    session.lastHeardMs = performance.now();
  }

  disconnected(session: Session, connection: FrameSession): void {
    session.connections.delete(connection);
    if (session.meta === connection) session.meta = null;
  }

  #returned(tenant: string, name: string): void {
    const awaited = this.#awaited.get(tenant);
    if (awaited === undefined) return;
    awaited.ids.delete(name);
    if (awaited.ids.size === 0) awaited.over();
  }

  #namespacesOf(session: Session): Namespace[] {
    return this.#tenants.get(session.tenant)?.namespaces() ?? [];
  }

  #sweep(): void {
    const now = performance.now();
    for (const session of this.#sessions.values()) {
      const silentMs = now - session.lastHeardMs;
      if (session.connections.size > 0 && silentMs > SILENT_CONNECTION_MS) {
        for (const connection of session.connections) connection.close("silent for too long");
      }
      if (session.connections.size === 0 && silentMs > this.#timeoutMs) {
        this.#endOrLog(session, true);
      }
    }
  }

  /** Ends a session: leases, deleted-but-open inodes, remembered deltas, holds of chunks. `lost`: it has not said so itself. What fails is tried again by the next sweep. */
  async end(session: Session, lost = false): Promise<void> {
    if (session.ended) return;
    session.ended = true;
    const tenant = this.#tenants.get(session.tenant);
    session.letGo();
    this.#returned(session.tenant, nameOf(session.id));
    try {
      for (const namespace of tenant?.namespaces() ?? []) {
        namespace.leases.releaseAll(session);
        if (!session.namespaces.has(namespace.name)) continue;
        if (tenant !== undefined) await this.#deleteOrphans(tenant, namespace, session.id);
        await namespace.shard.forgetSession(session.id);
      }
      tenant?.holds.end(session.id, lost);
      tenant?.credits.end(session.id);
      this.#database.removeSession(session.id);
      this.#sessions.delete(nameOf(session.id));
      this.#logger.info({ tenant: session.tenant, session: nameOf(session.id) }, "session ended");
    } catch (error) {
      session.ended = false;
      throw error;
    }
  }

  /** Ends the sessions of a tenant; what waits for their leases goes on at once. */
  endAll(tenant: string): void {
    for (const session of this.#sessions.values()) if (session.tenant === tenant) this.#endOrLog(session, false);
  }

  #endOrLog(session: Session, lost: boolean): void {
    this.end(session, lost).catch((error: unknown) =>
      this.#logger.error({ err: error, tenant: session.tenant }, "ending a session failed"),
    );
  }

  async #deleteOrphans(tenant: Tenant, namespace: Namespace, id: Uint8Array): Promise<void> {
    const prefix = orphanPrefix(id);
    for (;;) {
      const { records } = await namespace.shard.range(prefix, prefixEnd(prefix), ORPHANS_PER_DELTA, MIB);
      if (records.length === 0) return;
      const links = records.map(({ record }) => record.link).filter((ino) => ino > ROOT_INO);
      const deltaId = this.#deltaId++;
      const delta: Delta = {
        id: deltaId,
        answeredBelow: deltaId,
        checks: [],
        puts: [],
        deletes: records.map(({ key }) => key),
        deletePrefixes: links.map(inodePrefix),
        bumps: [],
        leases: [],
        durable: false,
      };
      await tenant.commit(namespace, { id: NODE_SESSION_ID, session: null }, delta);
    }
  }

  close(): void {
    clearInterval(this.#sweeper);
    for (const { over } of this.#awaited.values()) over();
  }
}

/** Sessions that have deleted-but-open inodes in the shard. */
async function orphanSessions(shard: Shard): Promise<Uint8Array[]> {
  const found: Uint8Array[] = [];
  const all = new Uint8Array([KEY_KIND_ORPHAN]);
  const end = prefixEnd(all);
  for (let from: Uint8Array = all; ; ) {
    const { records } = await shard.range(from, end, ANSWER_RECORDS_MAX, MIB);
    const first = records[0];
    if (first === undefined) return found;
    const id = first.key.slice(1, 1 + SESSION_ID_BYTES);
    if (id.length === SESSION_ID_BYTES) found.push(id);
    const next = prefixEnd(id.length === SESSION_ID_BYTES ? orphanPrefix(id) : first.key);
    if (next === null) return found;
    from = next;
  }
}
