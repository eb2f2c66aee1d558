/** A mount's life, from the first check to the last answer. */
import { MNT_DETACH } from "../../ffi/libc/constants.ts";
import { FUSE_LOG_ERR } from "../../ffi/libfuse3/layout.ts";
import type { Libfuse } from "../../ffi/libfuse3/libfuse3.ts";
import type { KernelCache, Vfs } from "../fs/posix/vfs.ts";
import { loadLibfuse } from "./libfuse-path.ts";
import type { MountLog } from "./log.ts";
import { MountError } from "./mount-error.ts";
import { detachAsUser, prepareMountpoint, SUBTYPE } from "./mountpoint.ts";
import { Notifier } from "./notifier.ts";
import { serve } from "./reactor.ts";
import { FuseSession } from "./session.ts";
import { raiseReadAhead } from "./tuning.ts";

export interface MountOptions {
  /** A folder; relative paths and symbolic links are resolved. */
  readonly mountpoint: string;
  /** What mountinfo and df show as the source: for example node:9100/tenant/namespace. */
  readonly source: string;
  /** How long the kernel may believe attributes, names, and the absence of names, in seconds. */
  readonly attrTimeoutSec: number;
  readonly entryTimeoutSec: number;
  readonly negativeTimeoutSec: number;
  /** All files appear to belong to this user or group. */
  readonly uid?: number | null;
  readonly gid?: number | null;
  readonly readOnly?: boolean;
  readonly allowOther?: boolean;
  readonly nonEmpty?: boolean;
  readonly writebackCache?: boolean;
  /** The kernel reads what Vfs.open gives a backing file for by itself, where it can: as root, Linux 6.9 or later, without writebackCache. */
  readonly passthrough?: boolean;
  /** Further words for libfuse and the kernel, each without a comma: nosuid, nodev, noexec, noatime ... */
  readonly generic?: readonly string[];
  readonly log: MountLog;
  /** Aborted: the mount is taken out of the tree, what is in flight is answered, runMount returns. */
  readonly stop?: AbortSignal;
  /** Called once, just before the mount can be seen. `mountpoint`: absolute, without symbolic links. */
  onMounting?(mountpoint: string): void;
  /** Called once, when the kernel's first request has been answered. */
  onReady?(mounted: Mounted): void;
}

/** What the filesystem gets to talk back to the kernel. */
export interface Mounted {
  /** Absolute, without symbolic links. */
  readonly mountpoint: string;
  readonly kernelCache: KernelCache;
}

/** How long a stopped mount goes on serving programs that still have files open, before it cuts them off. */
const STOP_PATIENCE_MS = 10_000;
/** How long the end waits for Promises of the Vfs that belong to requests. */
const DRAIN_MS = 5_000;
const DRAIN_POLL_MS = 10;

/**
 * Mounts `vfs` and serves it until it is unmounted or `stop` is aborted. The process must not touch the mountpoint meanwhile: it would
 * wait for itself. Call it on the main thread. Rejects with MountError when it can't mount, else with what broke the session.
 */
export async function runMount(vfs: Vfs, options: MountOptions): Promise<void> {
  const { log } = options;
  const mountpoint = await prepareMountpoint(options.mountpoint, {
    nonEmpty: options.nonEmpty ?? false,
    allowOther: options.allowOther ?? false,
  });
  const library = await loadLibfuse();
  const complaints: string[] = [];
  library.onLog((level, message) => {
    complaints.push(message);
    if (level <= FUSE_LOG_ERR) log.warn({ libfuse: message }, "libfuse complains");
    else log.debug({ libfuse: message }, "libfuse");
  });
  const session = createSession(library, vfs, options, complaints);
  try {
    options.onMounting?.(mountpoint);
    if (!session.mount(mountpoint)) throw mountFailure(mountpoint, complaints);
    await serveUntilEnd(session, mountpoint, options);
  } finally {
    session.close();
  }
}

async function serveUntilEnd(session: FuseSession, mountpoint: string, options: MountOptions): Promise<void> {
  const notifier = new Notifier(session.fd, session.nodes, session.request, options.log);
  session.onOutdated = (ino, edition) => notifier.invalidateNode(ino, edition);
  const stopping = new AbortController();
  try {
    session.onStarted = () => {
      raiseReadAhead(mountpoint, options.log);
      options.onReady?.({ mountpoint, kernelCache: notifier });
    };
    const stop = (): void => void stopServing(session, notifier, mountpoint, options.log);
    options.stop?.addEventListener("abort", stop, { once: true, signal: stopping.signal });
    if (options.stop?.aborted) stop();
    await serve(session);
    await drained(session, options.log);
  } finally {
    stopping.abort();
    await notifier.close();
  }
}

/** Takes the mount out of the tree: new programs don't see it, those with open files are served for a while. */
async function stopServing(session: FuseSession, notifier: Notifier, mountpoint: string, log: MountLog): Promise<void> {
  const asRoot = process.geteuid?.() === 0;
  const detaching = (asRoot ? notifier.unmount(mountpoint, MNT_DETACH) : detachAsUser(mountpoint)).catch(() => false);
  if (await Promise.race([detaching, Bun.sleep(STOP_PATIENCE_MS).then(() => false)])) session.detached();
  const deadline = performance.now() + STOP_PATIENCE_MS;
  while (!session.ended && performance.now() < deadline) await Bun.sleep(DRAIN_POLL_MS);
  if (session.ended) return;
  log.warn({ mountpoint }, "programs still have files open in the mount: cutting them off");
  session.end();
}

async function drained(session: FuseSession, log: MountLog): Promise<void> {
  const deadline = performance.now() + DRAIN_MS;
  while (session.inFlight > 0 && performance.now() < deadline) await Bun.sleep(DRAIN_POLL_MS);
  if (session.inFlight > 0) log.warn({ requests: session.inFlight }, "requests were still unanswered when the mount ended");
}

function createSession(library: Libfuse, vfs: Vfs, options: MountOptions, complaints: readonly string[]): FuseSession {
  try {
    return new FuseSession(
      library,
      vfs,
      [SUBTYPE, "-o", mountOptions(options)],
      {
        ...options,
        uid: options.uid ?? null,
        gid: options.gid ?? null,
        writebackCache: options.writebackCache ?? false,
        passthrough: options.passthrough ?? false,
      },
      options.log,
    );
  } catch (cause) {
    const unknown = complaints.find((message) => message.includes("unknown option"));
    throw new MountError("option", `libfuse refuses the mount options: ${unknown ?? complaints.at(-1) ?? String(cause)}`, { cause });
  }
}

/** The kernel checks permissions (default_permissions) whoever may see the mount: the Vfs does not. */
function mountOptions(options: MountOptions): string {
  const words = [
    `fsname=${escapeOption(options.source)}`,
    `subtype=${SUBTYPE}`,
    "default_permissions",
    ...(options.readOnly ? ["ro"] : []),
    ...(options.allowOther ? ["allow_other"] : []),
    ...(options.generic ?? []).map(escapeOption),
  ];
  return words.join(",");
}

function escapeOption(value: string): string {
  return value.replace(/[\\,]/g, "\\$&");
}

function mountFailure(mountpoint: string, complaints: readonly string[]): MountError {
  const said = complaints.join("; ");
  if (/not permitted|permission denied/i.test(said)) {
    const remedy = "run as root, or give the container the right to mount (--cap-add SYS_ADMIN --device /dev/fuse)";
    return new MountError("permission", `${mountpoint}: no permission to mount (${said}): ${remedy}`);
  }
  if (/No such device|fuse device not found/i.test(said)) {
    return new MountError("no-device", `${mountpoint}: the kernel has no FUSE (${said}): load its module (modprobe fuse)`);
  }
  return new MountError("failed", `${mountpoint}: mounting failed${said === "" ? " (fusermount3 has said why)" : `: ${said}`}`);
}
