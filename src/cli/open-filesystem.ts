/** From settings and credentials to a filesystem: the tie to the node, the keys, the caches, the namespaces. */
import type { KernelCache, Vfs } from "../fs/vfs.ts";
import type { MountJob } from "./mount-process.ts";

export interface OpenedFilesystem {
  readonly vfs: Vfs;
  /** From now on the kernel is told of what other mounts change. */
  attach(kernel: KernelCache): void;
  /** Writes out what is buffered and ends the session. Rejects when something could not be written: it is lost. */
  close(): Promise<void>;
}

/** @throws TransportError, NodeError, IntegrityError: nothing is left open. */
export async function openFilesystem(job: MountJob): Promise<OpenedFilesystem> {
  throw new Error(`${job.config.mountpoint}: this build has no filesystem yet`);
}
