/** The process behind a mount: puts the layers together and keeps them until the mount ends. */
import { formatAddress } from "../config/address.ts";
import type { MountConfig } from "../config/mount-config.ts";
import type { Logger } from "../log.ts";
import { runMount } from "../mount/run.ts";
import { writeRuntimeEntry } from "../process/runtime-file.ts";
import { type MountControl, openMountControl } from "./mount-control.ts";
import type { MountJob } from "./mount-job.ts";
import { openFilesystem } from "./open-filesystem.ts";
import { warmUp } from "./warm-up.ts";

/** fusermount3 refuses these; a user's mount is nosuid,nodev whatever fstab says. */
const ROOT_ONLY_FLAGS = ["dev", "suid"];

/** What mount and df show as the source, in the form that mount(8) takes: node:9100/tenant/namespace. */
function sourceOf(config: MountConfig, tenant: string): string {
  const namespaces = config.namespaces === "all" ? "all" : config.namespaces.join(",");
  return `${config.dataAddresses.map(formatAddress).join(",")}/${tenant}/${namespaces}`;
}

/** Lets kiseki umount find this process. Returns how to take that back. A mount works without it: umount(8) needs none. */
function makeKnown(mountpoint: string, control: string | null, log: Logger): () => void {
  try {
    return writeRuntimeEntry(mountpoint, control);
  } catch (error) {
    log.warn({ err: error }, "kiseki umount will not find this mount's process");
    return () => {};
  }
}

/**
 * Mounts, and returns when the mount has ended: by umount, or by `stop`, with everything flushed.
 * @throws CredentialsError, TransportError, NodeError, MountError before onReady; after it, whatever ended the mount.
 */
export async function mountMain(job: MountJob): Promise<void> {
  const { config, log } = job;
  const source = sourceOf(config, job.credentials.tenant);
  const filesystem = await openFilesystem(job);
  let control: MountControl | null = null;
  let forget = (): void => {};
  try {
    control = openMountControl(filesystem.caches, job.credentials.tenant, config, log);
    const { socket } = control;
    await runMount(filesystem.vfs, {
      mountpoint: config.mountpoint,
      source,
      attrTimeoutSec: filesystem.settings.attrTimeoutMs / 1_000,
      entryTimeoutSec: filesystem.settings.entryTimeoutMs / 1_000,
      negativeTimeoutSec: filesystem.settings.entryTimeoutMs / 1_000,
      uid: config.uid,
      gid: config.gid,
      readOnly: config.readOnly,
      allowOther: config.allowOther,
      nonEmpty: config.nonEmpty,
      writebackCache: config.writebackCache,
      // The kernel lets nobody else name files for it to read.
      passthrough: process.geteuid?.() === 0 && filesystem.settings.cacheMode !== "bypass",
      generic: config.kernelFlags.filter((flag) => process.geteuid?.() === 0 || !ROOT_ONLY_FLAGS.includes(flag)),
      log,
      stop: job.stop,
      // A scrubber that finds a dead pool of this mountpoint asks the mount whether it is the dead one's: one that is known is left alone.
      onMounting: (mountpoint) => {
        forget = makeKnown(mountpoint, socket, log);
      },
      onReady: ({ mountpoint, kernelCache }) => {
        filesystem.attach(kernelCache);
        log.info({ mountpoint, source }, "mounted");
        job.onReady();
        warmUp().catch((error) => log.warn({ err: error }, "practising failed: the first requests will be slow"));
      },
    });
  } finally {
    await control?.close();
    await filesystem.close();
    forget();
  }
  log.info({ mountpoint: config.mountpoint }, "unmounted");
}
