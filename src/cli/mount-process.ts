/** The process behind a mount: puts the layers together and keeps them until the mount ends. */
import type { MountConfig } from "../config/mount-config.ts";
import type { Credentials } from "../crypto/credentials.ts";
import type { Logger } from "../log.ts";

export interface MountJob {
  readonly config: MountConfig;
  readonly credentials: Credentials;
  readonly log: Logger;
  /** Aborted when the user wants the mount to end: flush, unmount, return. */
  readonly stop: AbortSignal;
  /** To be called once, when the kernel's first request has been answered. */
  readonly onReady: () => void;
}

/**
 * Mounts, and returns when the mount has ended: by umount, or by `stop`, with everything flushed.
 * @throws CredentialsError, TransportError, NodeError, MountError before onReady; after it, whatever ended the mount.
 */
export async function mountMain(job: MountJob): Promise<void> {
  job.log.info({ mountpoint: job.config.mountpoint }, "mounting");
  throw new Error("not there yet");
}
