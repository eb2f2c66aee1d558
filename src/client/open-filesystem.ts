/** From settings and credentials to a filesystem: the client (open-client.ts), and the namespaces on top of it. */
import type { ControlledCaches } from "../cache/control/control.ts";
import type { CacheSettings } from "../cache/policy.ts";
import { FileReader } from "../fs/content/file-reader.ts";
import { FileWriter } from "../fs/content/file-writer.ts";
import { Filesystem } from "../fs/filesystem.ts";
import { Namespace } from "../fs/inodes/namespace.ts";
import { openRoot } from "../fs/inodes/open-namespace.ts";
import { MountRoot } from "../fs/mount-root.ts";
import { Tree } from "../fs/names/tree.ts";
import type { KernelCache, Vfs } from "../fs/posix/vfs.ts";
import { askOrRemember } from "../fs/shard/ask-or-remember.ts";
import { GuardedCalls } from "../fs/shard/guarded-calls.ts";
import type { NodeCalls } from "../fs/shard/node-calls.ts";
import { Shard } from "../fs/shard/shard.ts";
import { Volume } from "../fs/volume.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { controlledCaches } from "./controlled-caches.ts";
import type { MountJob } from "./mount-job.ts";
import { type Client, openClient } from "./open-client.ts";
import { wipeFilesystem } from "./wipe-filesystem.ts";

/** What is still dirty at the end of a mount has this long to reach a node. */
const CLOSE_FLUSH_MS = 30_000;
/** Inodes kept in memory (some 1 KiB each). */
const INODES_MAX = 65_536;

export interface OpenedFilesystem {
  readonly vfs: Vfs;
  /** What the cache policy left of the mount's options. */
  readonly settings: CacheSettings;
  readonly caches: ControlledCaches;
  /** From now on the kernel is told of what other mounts change. */
  attach(kernel: KernelCache): void;
  /** Writes out what is buffered and ends the session. Rejects when something could not be written: it is lost. */
  close(): Promise<void>;
}

/** @throws TransportError, NodeError, IntegrityError: nothing is left open. */
export async function openFilesystem(job: MountJob): Promise<OpenedFilesystem> {
  const volumes = new Map<string, Volume>();
  let writer: FileWriter | null = null;
  const user = { kind: "mount", mountpoint: job.config.mountpoint } as const;
  const client = await openClient(job, user, {
    onRecall: (ns, inos) => volumes.get(ns)?.namespace.recall(inos),
    onState: (state) => {
      // Recalls that the lost connection carried are lost with it.
      if (state === "connected") {
        for (const volume of volumes.values()) volume.namespace.distrustAll();
        writer?.onConnected();
      }
      job.log.info({ state }, "node connection");
    },
    onTailLost: (namespaces) => {
      for (const { name, recoveredSeq } of namespaces) {
        job.log.warn(
          { namespace: name },
          "the storage node has lost changes that it had not promised to keep, as by a power failure: what is cached is asked for again",
        );
        volumes.get(name)?.tailLost(recoveredSeq);
      }
    },
    staging: {
      onChange: (ns, inos) => volumes.get(ns)?.namespace.stateChanged(inos),
      newestKnown: (ns, ino) => newestKnown(volumes.get(ns), ino),
      beforeStage: async () => {
        await Promise.all([...volumes.values()].map((volume) => volume.syncAll()));
      },
    },
  });
  try {
    return await openVolumes(job, client, volumes, (opened) => {
      writer = opened;
    });
  } catch (error) {
    await client.close();
    throw error;
  }
}

async function openVolumes(
  { config, log }: MountJob,
  client: Client,
  volumes: Map<string, Volume>,
  onWriter: (writer: FileWriter) => void,
): Promise<OpenedFilesystem> {
  const { keys, store, owner, sessionId, settings, lifecycle } = client;
  const calls = new GuardedCalls(client.calls, lifecycle);
  let kernel: KernelCache | null = null;
  const writer = new FileWriter(store, log, calls);
  onWriter(writer);
  const tools = { reader: new FileReader(store), writer, log, images: client.staging };
  const openVolume = async (name: string, index: number): Promise<Volume> => {
    const namespace = new Namespace(new Shard(calls, keys.namespace(name), log), calls, {
      index,
      metaTtlMs: settings.metaTtlMs,
      inodesMax: INODES_MAX,
    });
    const volume = new Volume(namespace, new Tree(namespace, sessionId), tools);
    volumes.set(name, volume);
    await openRoot(namespace, owner);
    if (kernel !== null) volume.attach(kernel);
    return volume;
  };
  let filesystem: Filesystem;
  try {
    filesystem = await openTree(calls, config.namespaces, openVolume, owner);
  } catch (error) {
    writer.close();
    throw error;
  }
  lifecycle.onWipe((reason) => wipeFilesystem(reason, filesystem, volumes.values(), writer, log));
  return {
    vfs: filesystem,
    settings,
    caches: controlledCaches(client),
    attach: (attached) => {
      kernel = attached;
      for (const volume of volumes.values()) volume.attach(attached);
    },
    close: async () => {
      try {
        if (writer.dirtyCount > 0) await withDeadline(writer.writeOutAll(), CLOSE_FLUSH_MS);
      } finally {
        writer.close();
        await client.close();
      }
    },
  };
}

/** The newest version of an inode that the mount has seen. */
function newestKnown(volume: Volume | undefined, number: number): { version: number; bumps: number } | null {
  const inode = volume?.namespace.peek(number);
  return inode === undefined ? null : { version: inode.version, bumps: inode.counters?.bumps ?? 0 };
}

/** One namespace: its tree. Several or all: a folder for each. */
async function openTree(
  client: NodeCalls,
  namespaces: readonly string[] | "all",
  open: (name: string, index: number) => Promise<Volume>,
  owner: { uid: number; gid: number },
): Promise<Filesystem> {
  const existing = async (): Promise<string[]> => (await client.call("namespaceList", {})).answer.names;
  if (namespaces !== "all") {
    const known = await existing();
    for (const name of namespaces) {
      if (known.includes(name)) continue;
      if (!client.connected)
        throw new TransportError("unreachable", `no storage node can be reached, and nothing of namespace ${name} is in the pool`);
      throw new NodeError("not_found", `no namespace ${name}: make it with "kiseki namespace create ${name}"`);
    }
    const [only] = namespaces;
    if (namespaces.length === 1 && only !== undefined) return new Filesystem({ volumes: [await open(only, 0)], root: null });
  }
  let seen: readonly string[] = namespaces === "all" ? [] : namespaces;
  const names = async (): Promise<readonly string[]> => {
    if (namespaces === "all") seen = await askOrRemember(client.outage, existing, () => seen);
    return seen;
  };
  const root = new MountRoot({ names, open, owner });
  for (const name of await names()) await root.open(name);
  return new Filesystem({ volumes: [], root });
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
