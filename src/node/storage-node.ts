/** The storage node: takes the data folder, listens, brings connections together with tenants, and stops in order. */
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { ensureCluster, recordShredded, renewNode } from "../pki/cluster.ts";
import { RevokedList } from "../pki/revoked.ts";
import { NodeError } from "../protocol/errors.ts";
import { SESSION_TIMEOUT_MS } from "../protocol/limits.ts";
import { type FrameSession, serveFrames } from "../transport/frame-server.ts";
import { Lanes } from "../transport/lanes.ts";
import type { Connection, Listener, TlsIdentity, Transport } from "../transport/transport.ts";
import { type PeerRole, roleOfPeer } from "./authorization.ts";
import { LocalChunkStore, type SharedDisk } from "./chunks/local.ts";
import { OpenFiles } from "./chunks/open-files.ts";
import { ClientConnection, type NodeServices } from "./client-connection.ts";
import { Collector, GC_GRACE_DEFAULT_MS, returningAtStart } from "./collector.ts";
import { DataFolder } from "./data-folder.ts";
import type { DescriptorBudget } from "./descriptors.ts";
import { DiskSlots } from "./disk-slots.ts";
import { Doorkeeper, type PartialLimits } from "./doorkeeper.ts";
import { DEFAULT_NAMESPACE } from "./engines/engine.ts";
import { SqliteEngine } from "./engines/sqlite.ts";
import type { ProviderStart } from "./fabric/messages.ts";
import { RdmaService } from "./fabric/rdma-service.ts";
import { LimitsStore } from "./limits.ts";
import { NodeDatabase } from "./node-database.ts";
import { PolicyStore } from "./policy-store.ts";
import { removeShredded } from "./remove-shredded.ts";
import { Sessions } from "./sessions.ts";
import { Tenant } from "./tenant.ts";

/** Requests in flight may take this long when the node stops. */
const DRAIN_MS = 10_000;
/** A certificate that was revoked is not served any more after this. */
const REVOKED_CHECK_MS = 1_000;
/** A port that was ours is tried again for a minute. */
const RELISTEN_TRIES_MAX = 300;
const RELISTEN_PAUSE_MS = 200;
/** Whether the node's own certificate is to be renewed is looked at this often: it lasts for years, but the clock may have been wrong. */
const RENEWAL_CHECK_MS = 3_600_000;

export interface NodeLogger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface StorageNodeOptions {
  readonly dataDir: string;
  readonly host: string;
  /** 0: any free one, see StorageNode.port. */
  readonly port: number;
  readonly version: string;
  readonly transport: Transport;
  readonly logger: NodeLogger;
  /** The data folder has gone back on purpose: a backup was restored. It gets a new instance id, and numbers above all that were used. */
  readonly restored?: boolean;
  readonly door?: PartialLimits;
  readonly descriptors?: DescriptorBudget;
  readonly gcGraceMs?: number;
  readonly sessionTimeoutMs?: number;
  readonly renewalCheckMs?: number;
  /** Fabrics to open; those that can't be had are said in the log. */
  readonly fabrics?: readonly ProviderStart[];
}

export class StorageNode implements NodeServices {
  readonly cluster: string;
  readonly version: string;
  readonly sessions: Sessions;
  readonly lanes: Lanes;
  readonly keys: NodeDatabase;
  readonly policy: PolicyStore;
  readonly collector: Collector;
  readonly #options: StorageNodeOptions;
  readonly #folder: DataFolder;
  readonly #revoked: RevokedList;
  readonly #engine: SqliteEngine;
  /** Of one more tenant. */
  readonly #disk: () => SharedDisk;
  readonly limits: LimitsStore;
  readonly #tenants: Map<string, Tenant>;
  readonly #arriving = new Map<string, Promise<Tenant>>();
  readonly #connections = new Set<FrameSession>();
  readonly #logger: NodeLogger;
  readonly door: Doorkeeper;
  rdma: RdmaService | null = null;
  #listener: Listener | null = null;
  readonly #stopping = new AbortController();
  #removal: Promise<void> = Promise.resolve();

  private constructor(
    options: StorageNodeOptions,
    folder: DataFolder,
    cluster: string,
    database: NodeDatabase,
    engine: SqliteEngine,
    tenants: Map<string, Tenant>,
    disk: () => SharedDisk,
    lanes: Lanes,
    limits: LimitsStore,
  ) {
    this.limits = limits;
    this.#disk = disk;
    this.#options = options;
    this.#revoked = new RevokedList(folder.pki);
    this.cluster = cluster;
    this.version = options.version;
    this.#logger = options.logger;
    this.door = new Doorkeeper((fields, message) => options.logger.info(fields, message), {
      total: options.descriptors?.connections,
      ...options.door,
    });
    this.#folder = folder;
    this.#engine = engine;
    this.#tenants = tenants;
    this.lanes = lanes;
    this.keys = database;
    this.policy = new PolicyStore(folder.policy, options.logger);
    this.sessions = new Sessions(database, tenants, options.logger, options.sessionTimeoutMs ?? SESSION_TIMEOUT_MS);
    this.collector = new Collector(
      tenants,
      options.gcGraceMs ?? GC_GRACE_DEFAULT_MS,
      database.hasSessions ? returningAtStart() : null,
      options.logger,
    );
  }

  /**
   * Starts serving; makes the data folder the first time.
   * @throws Error, one line: the folder is in use or not ours, the address is taken
   */
  static async start(options: StorageNodeOptions): Promise<StorageNode> {
    const folder = new DataFolder(options.dataDir);
    folder.prepare();
    const database = new NodeDatabase(folder.database, options.restored === true);
    let sessions: Sessions | null = null;
    const chunkFiles = new OpenFiles(options.descriptors?.chunkFiles);
    const slots = new DiskSlots();
    const promised = { bytes: 0 };
    const disk = () => ({ open: chunkFiles, slots: slots.tenant(), promised });
    const lanes = new Lanes();
    const limits = new LimitsStore(folder.limits, (error) => {
      options.logger.error({ err: error }, "the limits of tenants can't be read; those before hold");
    });
    const engine = new SqliteEngine(folder.tenants, {
      lane: (tenant) => lanes.lane(tenant),
      onDamaged: (tenant, namespace, record) =>
        options.logger.error({ tenant, namespace, record }, "a record fails its checksum: what it says is lost, and clients are told so"),
      openShardsMax: options.descriptors?.shards,
      onFirstOpen: (tenant, namespace, shard, recoveredSeq) => {
        database.recordRecovered(tenant, namespace, recoveredSeq);
        sessions?.adopt(tenant, namespace, shard).catch((error: unknown) => {
          options.logger.error({ err: error, tenant, namespace }, "sessions that left something in a namespace could not be looked for");
        });
      },
    });
    try {
      const { cluster, tls } = await ensureCluster(folder.pki, hostname());
      const tenants = await openTenants(folder, engine, database.shreddedTenants, disk, limits);
      if (options.restored === true) await skipNumbers(tenants);
      const node = new StorageNode(options, folder, cluster, database, engine, tenants, disk, lanes, limits);
      sessions = node.sessions;
      node.sessions.load();
      if (options.restored === true) await node.#adoptAll();
      const { fabrics = [] } = options;
      if (fabrics.length > 0) node.rdma = await RdmaService.start(fabrics, options.logger);
      await node.#listen(tls);
      node.#watch();
      node.collector.start();
      node.#removal = removeShredded(folder, database.shreddedTenants, node.#stopping.signal, options.logger);
      folder.announce(node.address);
      return node;
    } catch (error) {
      sessions?.close();
      await engine.close();
      database.close();
      throw error;
    }
  }

  /** A backup has deleted-but-open inodes of sessions that are known no more. */
  async #adoptAll(): Promise<void> {
    for (const tenant of this.#tenants.values()) {
      for (const { name, shard } of tenant.namespaces()) await this.sessions.adopt(tenant.name, name, shard);
    }
  }

  /** Reads what was revoked meanwhile, and ends the connections of those certificates. */
  #checkRevoked(): void {
    try {
      if (!this.#revoked.refresh()) return;
    } catch (error) {
      this.#logger.error({ err: error }, "the list of revoked certificates can't be read; the one that was read before holds");
      return;
    }
    for (const frames of [...this.#connections]) {
      const { serial } = frames.connection.peer;
      if (!this.#revoked.has(serial)) continue;
      this.#logger.info(
        { serial: serial.toLowerCase(), remoteAddress: frames.connection.remoteAddress },
        "its certificate was revoked: closed",
      );
      frames.close("its certificate was revoked");
    }
  }

  /** The node's certificate, when it comes near its end or the clock has been set right. Connections that exist go on. */
  async #renewCertificate(): Promise<void> {
    try {
      const tls = await renewNode(this.#folder.pki, hostname());
      if (tls === null) return;
      await this.#listen(tls);
      this.#logger.info({}, "the node's certificate was renewed");
    } catch (error) {
      this.#logger.error({ err: error }, "the node's certificate could not be renewed; it is tried again in an hour");
    }
  }

  /** HOST:PORT that it listens on. */
  get address(): string {
    const host = this.#listener?.host ?? "";
    return `${host.includes(":") ? `[${host}]` : host}:${this.port}`;
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  #accept(connection: Connection): void {
    let role: PeerRole | NodeError;
    try {
      role = roleOfPeer(connection.peer, this.cluster);
      if (this.#revoked.has(connection.peer.serial)) {
        this.door.turnedAway(connection.remoteAddress, `its certificate ${connection.peer.serial.toLowerCase()} was revoked`);
        role = new NodeError("not_authorized", "the certificate was revoked");
      }
    } catch (error) {
      role = error instanceof NodeError ? error : new NodeError("not_authorized");
      this.door.turnedAway(connection.remoteAddress, `its certificate ${connection.peer.serial} names no tenant`);
    }
    const handler = new ClientConnection(this, role);
    let patienceEnds = (): void => {};
    const frames: FrameSession = serveFrames(
      connection,
      {
        reuseBodies: true,
        isStranger: true,
        handle: (op, request, body, requestId) => handler.handle(op, request, body, requestId),
        onClose: (reason) => {
          this.#connections.delete(frames);
          patienceEnds();
          handler.onClose();
          this.#logger.debug({ remoteAddress: connection.remoteAddress, reason }, "connection closed");
        },
      },
      this.#logger,
    );
    handler.attach(frames);
    patienceEnds = this.door.expectHello(
      () => handler.hasGreeted,
      (reason) => {
        this.door.turnedAway(connection.remoteAddress, reason);
        frames.close(reason);
      },
    );
    this.#connections.add(frames);
  }

  /** In the place of the listener before, on the same port. */
  async #listen(tls: TlsIdentity): Promise<void> {
    const { transport, host, port } = this.#options;
    const before = this.#listener;
    const where = before === null ? { host, port } : { host: before.host, port: before.port };
    before?.close();
    const listen = () =>
      transport.listen(
        {
          ...where,
          tls,
          onRejected: (remoteAddress, reason) => this.door.turnedAway(remoteAddress, reason),
          refusal: (remoteAddress) => this.door.refusal(remoteAddress),
          onLeft: (remoteAddress) => this.door.left(remoteAddress),
        },
        (connection) => this.#accept(connection),
      );
    // A node that has served must not be left without an address because another program was there for a moment.
    for (let tries = 1; ; tries++) {
      try {
        this.#listener = await listen();
        return;
      } catch (error) {
        if (before === null || tries === RELISTEN_TRIES_MAX || this.#stopping.signal.aborted) throw error;
        await Bun.sleep(RELISTEN_PAUSE_MS);
      }
    }
  }

  #watch(): void {
    const revoked = setInterval(() => this.#checkRevoked(), REVOKED_CHECK_MS);
    const renewal = setInterval(() => void this.#renewCertificate(), this.#options.renewalCheckMs ?? RENEWAL_CHECK_MS);
    for (const timer of [revoked, renewal]) {
      timer.unref();
      this.#stopping.signal.addEventListener("abort", () => clearInterval(timer));
    }
  }

  /** The tenant's data; made, with its first namespace, when the tenant comes for the first time. */
  async tenant(name: string): Promise<Tenant> {
    const known = this.#tenants.get(name);
    if (known !== undefined) return known;
    const arriving = this.#arriving.get(name);
    if (arriving !== undefined) return await arriving;
    const opening = this.#welcome(name).finally(() => this.#arriving.delete(name));
    this.#arriving.set(name, opening);
    return await opening;
  }

  async #welcome(name: string): Promise<Tenant> {
    const tenant = new Tenant(
      name,
      this.#engine,
      new LocalChunkStore(this.#folder.chunks(name), this.#folder.aside(name), this.#disk()),
      () => this.limits.of(name),
    );
    await tenant.createNamespace(DEFAULT_NAMESPACE);
    this.#tenants.set(name, tenant);
    this.#logger.info({ tenant: name }, "new tenant");
    return tenant;
  }

  shred(name: string): number {
    try {
      return this.keys.shred(name);
    } finally {
      if (this.keys.isShredded(name)) {
        this.#logger.warn({ tenant: name }, "tenant shredded: its keys are destroyed; its data is deleted when the node starts again");
        this.sessions.endAll(name);
        try {
          recordShredded(this.#folder.pki, name);
        } catch (error) {
          this.#logger.warn({ tenant: name, err: error }, "kiseki tenant list will not show that the tenant was shredded");
        }
      }
    }
  }

  /** Stops accepting, finishes requests in flight (for a bounded time), writes everything down. */
  async stop(): Promise<void> {
    this.#listener?.close();
    try {
      this.#folder.announce(null);
    } catch (error) {
      // A disk that takes nothing any more. Those who are connected still get their answers.
      this.#logger.warn({ err: error }, "the data folder still says that the node listens");
    }
    const drained = Promise.all([...this.#connections].map((connection) => connection.drain()));
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, DRAIN_MS);
    await Promise.race([drained, late.promise]);
    clearTimeout(timer);
    this.#stopping.abort();
    await this.#removal;
    await this.collector.stop();
    for (const connection of this.#connections) connection.close("the node stops");
    await this.rdma?.stop();
    this.sessions.close();
    for (const { chunks } of this.#tenants.values()) chunks.close();
    await this.#engine.close();
    this.keys.close();
  }
}

async function skipNumbers(tenants: ReadonlyMap<string, Tenant>): Promise<void> {
  for (const tenant of tenants.values()) for (const { shard } of tenant.namespaces()) await shard.skipNumbers();
}

/** All tenants that have data in the folder, but for those that were shredded. */
export async function openTenants(
  folder: DataFolder,
  engine: SqliteEngine,
  shredded: ReadonlySet<string>,
  disk?: () => SharedDisk,
  limits?: LimitsStore,
): Promise<Map<string, Tenant>> {
  const tenants = new Map<string, Tenant>();
  for (const name of folder.tenantNames()) {
    if (shredded.has(name)) continue;
    // Made by a first contact that did not get further than its folder: as good as never here.
    if (!existsSync(join(folder.tenants, name, "namespaces"))) continue;
    engine.cleanUp(name);
    const tenant = new Tenant(
      name,
      engine,
      new LocalChunkStore(folder.chunks(name), folder.aside(name), disk?.()),
      limits && (() => limits.of(name)),
    );
    await tenant.load();
    tenants.set(name, tenant);
  }
  return tenants;
}
