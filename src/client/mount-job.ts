/** What the process behind a mount works with. */
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
