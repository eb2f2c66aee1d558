/** From settings and credentials to a filesystem: the tie to the node, the keys, the caches, the namespaces. */
import { randomBytes } from "node:crypto";
import { BlockArena } from "../cache/block-arena.ts";
import { formatAddress } from "../config/address.ts";
import { KeyRing } from "../crypto/key-ring.ts";
import { ContentStore } from "../fs/content-store.ts";
import { FileReader } from "../fs/file-reader.ts";
import { FileWriter } from "../fs/file-writer.ts";
import { Filesystem } from "../fs/filesystem.ts";
import { MountRoot } from "../fs/mount-root.ts";
import { Namespace } from "../fs/namespace.ts";
import { openRoot } from "../fs/open-namespace.ts";
import { Shard } from "../fs/shard.ts";
import { Tree } from "../fs/tree.ts";
import type { KernelCache, Vfs } from "../fs/vfs.ts";
import { Volume } from "../fs/volume.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { SESSION_ID_BYTES } from "../protocol/limits.ts";
import { defaultWorkerCount, TransferPool } from "../transfer/transfer-pool.ts";
import { NodeClient } from "../transport/node-client.ts";
import { VERSION } from "../version.ts";
import type { MountJob } from "./mount-process.ts";

/** A request that no node has answered by then fails with EIO: long enough for a node's restart, short enough not to hang a job. */
const REQUEST_TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** What is still dirty at the end of a mount has this long to reach a node. */
const CLOSE_FLUSH_MS = 30_000;
/** Inodes kept in memory (some 1 KiB each). */
const INODES_MAX = 65_536;

export interface OpenedFilesystem {
  readonly vfs: Vfs;
  /** From now on the kernel is told of what other mounts change. */
  attach(kernel: KernelCache): void;
  /** Writes out what is buffered and ends the session. Rejects when something could not be written: it is lost. */
  close(): Promise<void>;
}

/** @throws TransportError, NodeError, IntegrityError: nothing is left open. */
export async function openFilesystem({ config, credentials, log }: MountJob): Promise<OpenedFilesystem> {
  const sessionId = new Uint8Array(randomBytes(SESSION_ID_BYTES));
  const link = {
    addrs: config.dataAddresses.map(formatAddress),
    tls: { ca: credentials.ca, cert: credentials.cert, key: credentials.key },
    sessionId,
    clientVersion: VERSION,
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  };
  const volumes = new Map<string, Volume>();
  let kernel: KernelCache | null = null;
  const client = new NodeClient({
    ...link,
    role: "meta",
    logger: log,
    onRecall: (ns, inos) => volumes.get(ns)?.namespace.recall(inos),
    onState: (state) => {
      // Recalls that the lost connection carried are lost with it.
      if (state === "connected") for (const volume of volumes.values()) volume.namespace.distrustAll();
      log.info({ state }, "node connection");
    },
  });
  const cleanups: (() => Promise<void> | void)[] = [() => client.close()];
  const closeAll = async (): Promise<void> => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  };
  try {
    await client.connect();
    const keys = await openKeys(client, credentials.kek);
    cleanups.push(() => keys.wipe());
    const arena = new BlockArena(config.cacheL1MaxBytes);
    const pool = new TransferPool({
      arena: arena.memory,
      workers: defaultWorkerCount(),
      node: link,
      keys: keys.export(),
      onWarning: (message) => log.warn(message),
    });
    await pool.start();
    cleanups.push(() => pool.close());
    const store = new ContentStore(
      arena,
      {
        put: (cells, bytes) => pool.put(cells, bytes, REQUEST_TIMEOUT_MS),
        get: (ref, first, cells) => pool.get(ref, first, cells, REQUEST_TIMEOUT_MS),
      },
      { caches: config.cacheMode !== "bypass" },
    );
    const writer = new FileWriter(store, log);
    cleanups.push(() => writer.close());
    const tools = { reader: new FileReader(store), writer, log };
    const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
    const openVolume = async (name: string, index: number): Promise<Volume> => {
      const namespace = new Namespace(new Shard(client, keys.namespace(name)), client, {
        index,
        metaTtlMs: config.metaTtlMs,
        inodesMax: INODES_MAX,
      });
      const volume = new Volume(namespace, new Tree(namespace, sessionId), tools);
      volumes.set(name, volume);
      await openRoot(namespace, owner);
      if (kernel !== null) volume.attach(kernel);
      return volume;
    };
    const filesystem = await openTree(client, config.namespaces, openVolume, owner);
    return {
      vfs: filesystem,
      attach: (attached) => {
        kernel = attached;
        for (const volume of volumes.values()) volume.attach(attached);
      },
      close: async () => {
        try {
          if (writer.dirtyCount > 0) await withDeadline(writer.writeOutAll(), CLOSE_FLUSH_MS);
        } finally {
          await closeAll();
        }
      },
    };
  } catch (error) {
    await closeAll();
    throw error;
  }
}

/** One namespace: its tree. Several or all: a folder for each. */
async function openTree(
  client: NodeClient,
  namespaces: readonly string[] | "all",
  open: (name: string, index: number) => Promise<Volume>,
  owner: { uid: number; gid: number },
): Promise<Filesystem> {
  const existing = async (): Promise<string[]> => (await client.call("namespaceList", {})).answer.names;
  if (namespaces !== "all") {
    const known = await existing();
    for (const name of namespaces) {
      if (!known.includes(name)) throw new NodeError("not_found", `no namespace ${name}: make it with "kiseki namespace create ${name}"`);
    }
    const [only] = namespaces;
    if (namespaces.length === 1 && only !== undefined) return new Filesystem({ volumes: [await open(only, 0)], root: null });
  }
  const names = namespaces === "all" ? existing : async () => [...namespaces];
  const root = new MountRoot({ names, open, owner });
  for (const name of await names()) await root.open(name);
  return new Filesystem({ volumes: [], root });
}

/** The tenant's keys; the very first client makes the first data key. */
async function openKeys(client: NodeClient, kek: Uint8Array): Promise<KeyRing> {
  let { keys } = (await client.call("keyList", {})).answer;
  if (keys.length === 0) {
    const { epoch, wrapped } = KeyRing.newDataKey(kek, 1);
    // Another first client may have been faster: its key counts.
    await client.call("keyPut", { epoch, wrapped }).catch((error) => {
      if (!(error instanceof NodeError && error.code === "exists")) throw error;
    });
    ({ keys } = (await client.call("keyList", {})).answer);
  }
  return KeyRing.open(kek, keys);
}

async function withDeadline(work: Promise<void>, timeoutMs: number): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new TransportError("timeout", "some data could not be written out in time")), timeoutMs);
  try {
    await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
