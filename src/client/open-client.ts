/**
 * What a mount and a staging daemon share: the tie to the node, the keys, the caches. The namespaces come on top of it
 * (open-filesystem.ts).
 */
import { randomBytes } from "node:crypto";
import { DiskCache } from "../cache/disk/disk-cache.ts";
import { ChunkIndex } from "../cache/index/chunk-index.ts";
import { Lifecycle } from "../cache/lifecycle/lifecycle.ts";
import { BlockArena } from "../cache/memory/block-arena.ts";
import { applyPolicy, type CacheSettings, openPolicy, rememberPolicy } from "../cache/policy.ts";
import { readKnownStore } from "../cache/pool/known-store.ts";
import type { Pool } from "../cache/pool/pool.ts";
import { destroyWrappedKeys, readWrappedKeys, storeWrappedKeys } from "../cache/pool/wrapped-keys.ts";
import { formatAddress } from "../config/address.ts";
import type { ClientConfig } from "../config/mount-config.ts";
import { KeyRing, type WrappedKey, wipeMaterial } from "../crypto/key-ring.ts";
import { ContentStore } from "../fs/content/content-store.ts";
import { guardedTransfer } from "../fs/shard/guarded-calls.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { SESSION_ID_BYTES } from "../protocol/limits.ts";
import type { AnswerOf } from "../protocol/messages.ts";
import type { EffectivePolicy } from "../protocol/policy.ts";
import type { AnyCalls } from "../staging/any-calls.ts";
import { StagingArea, type StagingHooks } from "../staging/staging-area.ts";
import { defaultWorkerCount, TransferPool } from "../transfer/transfer-pool.ts";
import { NodeClient } from "../transport/node-client.ts";
import type { NodeClientOptions } from "../transport/node-client-options.ts";
import { VERSION } from "../version.ts";
import { certificateEnd, watchExpiry } from "./certificate-end.ts";
import { chooseFabric } from "./choose-fabric.ts";
import { KeyEpochs } from "./key-epochs.ts";
import type { MountJob } from "./mount-job.ts";
import { requireOneStore } from "./one-store.ts";
import { adoptedPoolPath, closePool, destroyPool, openPool, type PoolUser } from "./open-pool.ts";
import { rememberStore } from "./remember-store.ts";

/** A request that no node has answered by then fails with EIO: long enough for a node's restart, short enough not to hang a job. */
const REQUEST_TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 5_000;

/** What a client is made of: settings, credentials, log. */
export type ClientJob = Pick<MountJob, "credentials" | "log"> & { readonly config: ClientConfig };

export interface ClientHooks {
  readonly onRecall: NonNullable<NodeClientOptions["onRecall"]>;
  readonly onState: NonNullable<NodeClientOptions["onState"]>;
  readonly onTailLost?: NonNullable<NodeClientOptions["onTailLost"]>;
  readonly staging: StagingHooks;
}

export interface Client {
  readonly sessionId: Uint8Array;
  readonly node: NodeClient;
  readonly credentialsExpire: Date;
  /** What namespaces ask: the node, behind what is staged. */
  readonly calls: AnyCalls;
  readonly keys: KeyRing;
  /** In force for this session to its end. */
  readonly policy: EffectivePolicy;
  /** What the policy left of the options: these count, not the config's. */
  readonly settings: CacheSettings;
  readonly arena: BlockArena;
  readonly transfer: TransferPool;
  readonly store: ContentStore;
  /** null, both: nothing is kept on disk. */
  readonly pool: Pool | null;
  readonly disk: DiskCache | null;
  /** null: there is no pool, or the policy forbids staging. */
  readonly staging: StagingArea | null;
  /** Of files that are made where there is none: this process. */
  readonly owner: { readonly uid: number; readonly gid: number };
  /** When the caches must go. */
  readonly lifecycle: Lifecycle;
  /** Ends the session. */
  close(): Promise<void>;
}

/** @throws TransportError, NodeError, IntegrityError, CacheFolderError, PoolError: nothing is left open. */
export async function openClient(job: ClientJob, user: PoolUser, hooks: ClientHooks): Promise<Client> {
  const { config, credentials, log } = job;
  const sessionId = new Uint8Array(randomBytes(SESSION_ID_BYTES));
  const link = {
    addrs: config.dataAddresses.map(formatAddress),
    tls: { ca: credentials.ca, cert: credentials.cert, key: credentials.key },
    sessionId,
    clientVersion: VERSION,
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  };
  let lifecycle: Lifecycle | null = null;
  let epochs: KeyEpochs | null = null;
  const adopted = adoptedPoolPath(job);
  const knownStore = adopted === null ? null : readKnownStore(adopted);
  const node = new NodeClient({
    ...link,
    role: "meta",
    logger: log,
    ...hooks,
    knownStore,
    beforeAnswer: (op, answer) => epochs?.before(op, answer) ?? null,
    onRevoked: () => lifecycle?.revoke(),
  });
  const cleanups: (() => Promise<void> | void)[] = [() => node.close(), watchExpiry(credentials, log)];
  const close = async (): Promise<void> => {
    const failures: unknown[] = [];
    // Each gets its turn: whatever fails, the pool is wiped, and the keys are.
    for (const cleanup of cleanups.splice(0).reverse()) {
      try {
        await cleanup();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  };
  try {
    const hello = await connect(node, adopted, log).catch(async (error) => {
      if (error instanceof NodeError && error.code === "key_revoked") await destroyPool(job);
      throw error;
    });
    if (hello !== null) await requireOneStore(link, hello);
    const opened = await openPolicy(node, config, adopted, log);
    const settings = applyPolicy(opened, config, log);
    const pool = await openPool({ ...job, policy: opened.policy, settings }, user);
    if (pool !== null) cleanups.push(() => closePool(pool, log));
    if (pool !== null) {
      rememberPolicy(pool.path, opened, log);
      cleanups.push(rememberStore(pool.path, () => node.knownStore, log));
    }
    const keys = await openKeys(node, credentials.kek, pool);
    // It has opened the data keys, and is not needed again.
    credentials.kek.fill(0);
    cleanups.push(() => keys.wipe());
    const arena = new BlockArena(config.cacheL1MaxBytes);
    const workers = defaultWorkerCount();
    // Without a node nothing can be tried; a pool that is taken over has what the job needs.
    const rdma = hello === null ? null : await chooseFabric(node, config, workers, log);
    const material = keys.export();
    const transfer = new TransferPool({
      arena: arena.memory,
      workers,
      node: { ...link, knownStore: node.knownStore, rdma },
      keys: material,
      onWarning: (message) => log.warn(message),
    });
    wipeMaterial(material);
    await transfer.start();
    cleanups.push(() => transfer.close());
    const known = new KeyEpochs({ node, keys, transfer, pool, log });
    epochs = known;
    const { cacheMode } = settings;
    const disk =
      pool === null || cacheMode === "bypass" ? null : new DiskCache({ pool, index: new ChunkIndex(), mode: cacheMode, arena, log });
    if (disk !== null) cleanups.push(() => disk.close());
    if (adopted !== null) await disk?.adopt();
    lifecycle = new Lifecycle({
      node,
      maxDisconnectMs: opened.policy.max_disconnect_seconds * 1_000,
      keyHealthIntervalMs: opened.policy.key_health_interval_ms,
      onKeys: (wrapped) => known.takeUp(wrapped),
      log,
    });
    cleanups.push(() => lifecycle?.stop());
    lifecycle.onWipe(async (reason) => {
      if (reason !== "revoked") return;
      keys.wipe();
      if (pool !== null) destroyWrappedKeys(pool.path);
      await transfer.close();
    });
    const guarded = guardedTransfer(lifecycle, {
      put: (cells, bytes) => transfer.put(cells, bytes, REQUEST_TIMEOUT_MS),
      get: (ref, first, cells) => transfer.get(ref, first, cells, REQUEST_TIMEOUT_MS),
    });
    const store = new ContentStore(arena, guarded, { caches: cacheMode !== "bypass", disk });
    const { get } = guarded;
    const staging =
      pool === null || disk === null || !opened.policy.staging_enabled
        ? null
        : await StagingArea.open({ pool, disk, node, keys, arena, get, namespaces: config.namespaces, hooks: hooks.staging, log });
    if (staging !== null) cleanups.push(() => staging.close());
    lifecycle.onWipe(async () => {
      const forgotten = staging?.forgetAll();
      store.wipe();
      await forgotten;
      await disk?.wipe();
    });
    const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
    const calls = staging?.calls ?? node;
    const { policy } = opened;
    const credentialsExpire = certificateEnd(credentials.cert);
    const parts = { node, calls, keys, policy, settings, arena, transfer, store, pool, disk, staging, lifecycle };
    return { sessionId, credentialsExpire, owner, close, ...parts };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A mount that takes a pool over may begin without a node: what is staged needs none, and the rest waits for one. */
async function connect(node: NodeClient, adopted: string | null, log: ClientJob["log"]): Promise<AnswerOf<"hello"> | null> {
  try {
    return await node.connect();
  } catch (error) {
    const isAway = error instanceof TransportError && (error.kind === "unreachable" || error.kind === "timeout");
    if (!isAway || adopted === null || readWrappedKeys(adopted) === null) throw error;
    log.warn({ err: error }, "no storage node can be reached: the mount begins with what is in its pool");
    node.connectLater();
    return null;
  }
}

/** The tenant's keys, as the node has them, or, when it can't be reached, the pool. */
async function openKeys(node: NodeClient, kek: Uint8Array, pool: Pool | null): Promise<KeyRing> {
  const stored = node.connected || pool === null ? null : readWrappedKeys(pool.path);
  const keys = stored ?? (await fetchKeys(node, kek));
  if (stored === null && pool !== null) storeWrappedKeys(pool.path, keys);
  return KeyRing.open(kek, keys);
}

/** The very first client makes the first data key. */
async function fetchKeys(node: NodeClient, kek: Uint8Array): Promise<WrappedKey[]> {
  const { keys } = (await node.call("keyList", {})).answer;
  if (keys.length > 0) return keys;
  const { epoch, wrapped } = KeyRing.newDataKey(kek, 1);
  // Another first client may have been faster: its key counts.
  await node.call("keyPut", { epoch, wrapped }).catch((error) => {
    if (!(error instanceof NodeError && error.code === "exists")) throw error;
  });
  return (await node.call("keyList", {})).answer.keys;
}
