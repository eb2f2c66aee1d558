/** Whether a folder can be mounted on, checked beforehand so that each reason gets its own message. */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { readdir, realpath, stat, statfs } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { MNT_DETACH } from "../../ffi/libc/constants.ts";
import { umount2 } from "../../ffi/libc/libc.ts";
import { mountAt } from "../process/mountinfo.ts";
import { MountError } from "./mount-error.ts";

const DEVICE = "/dev/fuse";
/** The second part of the type in mountinfo and of `mount -t`: fuse.kiseki. */
export const SUBTYPE = "kiseki";
/** How long another server of a mount may take to answer a statfs(2) before it counts as alive, and not as stale. */
const STAT_PATIENCE_MS = 3_000;

/**
 * Checks device, privileges and folder, and clears a stale mount away. Returns the folder's absolute path without symbolic links.
 * Throws MountError.
 */
export async function prepareMountpoint(path: string, options: { nonEmpty: boolean; allowOther: boolean }): Promise<string> {
  checkDevice();
  checkPrivileges(options.allowOther);
  const absolute = resolve(path);
  await clearStaleMount(absolute);
  const folder = await existingFolder(absolute);
  if (mountAt(folder)?.type === `fuse.${SUBTYPE}`) {
    throw new MountError("already-mounted", `${folder}: kiseki is mounted there already: unmount it first (umount ${folder})`);
  }
  if (!options.nonEmpty) await checkEmpty(folder);
  return folder;
}

function checkDevice(): void {
  if (existsSync(DEVICE)) return;
  const remedy = "load the kernel module (modprobe fuse), or give the container the device (--device /dev/fuse --cap-add SYS_ADMIN)";
  throw new MountError("no-device", `${DEVICE} is missing: ${remedy}`);
}

function checkPrivileges(allowOther: boolean): void {
  try {
    accessSync(DEVICE, constants.R_OK | constants.W_OK);
  } catch (cause) {
    throw new MountError("permission", `no permission for ${DEVICE}: run as root, or make it accessible (chmod 666 ${DEVICE})`, { cause });
  }
  if (process.geteuid?.() === 0) {
    if (mayMount()) return;
    const remedy = "give the container CAP_SYS_ADMIN (--cap-add SYS_ADMIN)";
    throw new MountError("permission", `this root user may not mount: ${remedy}`);
  }
  if (Bun.which("fusermount3") === null) {
    throw new MountError(
      "no-fusermount",
      "fusermount3 is missing, which users other than root need: install the package fuse3, or run as root",
    );
  }
  if (allowOther && !userAllowOther()) {
    throw new MountError("permission", "allow_other is for root only here: add the line user_allow_other to /etc/fuse.conf");
  }
}

/** CAP_SYS_ADMIN is bit 21 of the effective capabilities (capabilities(7)); where /proc does not say, mounting will. */
function mayMount(): boolean {
  try {
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    return effective === undefined || (BigInt(`0x${effective}`) & (1n << 21n)) !== 0n;
  } catch {
    return true;
  }
}

function userAllowOther(): boolean {
  try {
    return /^\s*user_allow_other\s*$/m.test(readFileSync("/etc/fuse.conf", "utf8"));
  } catch {
    return false;
  }
}

/** What a killed server leaves behind: every call on it fails with ENOTCONN. */
async function clearStaleMount(path: string): Promise<void> {
  while ((await statError(path)) === "ENOTCONN") {
    // The folder itself can't be resolved any more, but its parent can.
    const place = join(await realpath(dirname(path)), basename(path));
    try {
      await detach(place);
    } catch (cause) {
      // A scrubber that clears it away, too, may have been faster.
      if ((await statError(path)) !== "ENOTCONN") return;
      throw new MountError("already-mounted", `${place}: a stale mount is in the way: unmount it (umount -l ${place})`, { cause });
    }
  }
}

/**
 * Takes the mount of a server that died out of the tree: as long as it is there the kernel holds on to what the server had registered with
 * it. Anything else stays, and so does what may not be unmounted. Never rejects.
 * @param isLive whether the mount that is there now (`place`: without symbolic links) has a server: it is not looked at then, as who looks at a mount keeps others from
 * unmounting it at this moment (EBUSY)
 */
export async function clearDeadMount(mountpoint: string, isLive: (place: string) => boolean): Promise<void> {
  try {
    const place = join(await realpath(dirname(mountpoint)), basename(mountpoint));
    const isOurs = (): boolean => mountAt(place)?.type === `fuse.${SUBTYPE}`;
    // A server makes itself known before it mounts: in this order it is not missed.
    while (isOurs() && !isLive(place) && (await statError(place)) === "ENOTCONN") await detach(place);
  } catch {
    // Then it is no mount that we could do anything about.
  }
}

/** The error of statfs(2), which always asks the server: stat(2) may be answered from attributes that the kernel still holds. */
async function statError(path: string): Promise<string | null> {
  const failure = statfs(path).then(
    () => null,
    (error: NodeJS.ErrnoException) => error.code ?? null,
  );
  return Promise.race([failure, Bun.sleep(STAT_PATIENCE_MS).then(() => null)]);
}

async function existingFolder(path: string): Promise<string> {
  // A live mount of ours may be slow to answer, and is refused without asking it.
  if (mountAt(path)?.type === `fuse.${SUBTYPE}`) return path;
  try {
    const folder = await realpath(path);
    if (mountAt(folder)?.type === `fuse.${SUBTYPE}`) return folder;
    const isFolder = (await stat(folder)).isDirectory();
    // What fusermount3 insists on.
    if (isFolder && process.geteuid?.() !== 0) accessSync(folder, constants.W_OK);
    if (!isFolder) throw new MountError("not-a-folder", `${path}: not a folder: give an empty folder to mount on`);
    return folder;
  } catch (cause) {
    if (cause instanceof MountError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === "ENOENT") throw new MountError("not-found", `${path}: no such folder: create it (mkdir -p ${path})`, { cause });
    if (code === "ENOTDIR") throw new MountError("not-a-folder", `${path}: not a folder: give an empty folder to mount on`, { cause });
    if (code === "EACCES")
      throw new MountError("permission", `${path}: no permission: choose a folder of your own, or run as root`, { cause });
    throw new MountError("failed", `${path}: can't be mounted on (${code ?? String(cause)})`, { cause });
  }
}

async function checkEmpty(folder: string): Promise<void> {
  const [name] = await readdir(folder).catch(() => []);
  if (name === undefined) return;
  throw new MountError(
    "not-empty",
    `${folder}: the folder is not empty (it has ${JSON.stringify(name)}): empty it, or hide what is in it with -o nonempty`,
  );
}

/** Takes a mount out of the tree without asking its server. Throws an Error; never for a live mount of this process. */
async function detach(place: string): Promise<void> {
  if (process.geteuid?.() === 0) {
    umount2(place, MNT_DETACH);
    return;
  }
  if (!(await detachAsUser(place))) throw new Error("fusermount3 -u -z failed");
}

/** `fusermount3 -u -z`, for those who may not call umount2(2). Resolves to false when it fails. */
export async function detachAsUser(place: string): Promise<boolean> {
  const child = Bun.spawn(["fusermount3", "-u", "-q", "-z", "--", place], { stdio: ["ignore", "ignore", "ignore"] });
  return (await child.exited) === 0;
}
