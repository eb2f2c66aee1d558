/**
 * What a running mount tells other kiseki commands about itself: <runtime folder>/<hash of the mountpoint>.json, written just before it
 * can be seen and removed when its process ends. `kiseki umount` finds the process by it.
 */
import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";

const schema = z.object({
  mountpoint: z.string(),
  pid: z.int().positive(),
  /** Field 22 of /proc/PID/stat: with it, a pid that was used again is told apart. */
  startTicks: z.string(),
  /** The control socket (cache/control/server.ts); null: it could not be opened. */
  control: z.string().nullable().default(null),
});
export type RuntimeEntry = z.infer<typeof schema>;

/** Where the control socket of this process's mount stands, besides the one in its pool. What dead mounts of the folder left is removed. */
export function runtimeSocketPath(mountpoint: string): string {
  const folder = ownRuntimeFolder();
  const name = fileName(mountpoint).replace(/\.json$/, "");
  for (const left of readdirSync(folder)) {
    const pid = left.startsWith(`${name}-`) ? /-(\d+)\.sock$/.exec(left)?.[1] : undefined;
    if (pid !== undefined && startTicksOf(Number(pid)) === null) rmSync(join(folder, left), { force: true });
  }
  // With the process's number: a mount that is still ending must not take the socket of the next one with it.
  return join(folder, `${name}-${process.pid}.sock`);
}

/** Where this user's mounts stand: /run/kiseki for root, else $XDG_RUNTIME_DIR/kiseki, else a private folder in $TMPDIR. */
function runtimeFolder(): string {
  const uid = process.getuid?.() ?? 0;
  if (uid === 0) return "/run/kiseki";
  const xdg = process.env.XDG_RUNTIME_DIR;
  return xdg !== undefined && xdg !== "" ? join(xdg, "kiseki") : join(tmpdir(), `kiseki-${uid}`);
}

/** The folders to look in: root may also end the mounts of others. */
function searchedFolders(): string[] {
  if (process.getuid?.() !== 0) return [runtimeFolder()];
  try {
    return [runtimeFolder(), ...readdirSync("/run/user").map((uid) => join("/run/user", uid, "kiseki"))];
  } catch {
    return [runtimeFolder()];
  }
}

function fileName(mountpoint: string): string {
  return `${createHash("sha256").update(mountpoint).digest("hex").slice(0, 32)}.json`;
}

/** When the process started, in clock ticks since boot; null when it has ended. */
function startTicksOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The second field is the command's name in parentheses, and may itself hold any character. The third is the state.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A zombie has ended and waits for its parent, which in a container may never come.
    return fields[0] === "Z" || fields[0] === "X" ? null : (fields[19] ?? null);
  } catch {
    return null;
  }
}

/** Whether the process that wrote the entry still lives. */
export function isRunning(entry: RuntimeEntry): boolean {
  return startTicksOf(entry.pid) === entry.startTicks;
}

/** The runtime folder of this user, made if need be. @throws Error when it is not this user's */
function ownRuntimeFolder(): string {
  const folder = runtimeFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const stat = lstatSync(folder);
  // In a shared /tmp somebody else may have been there first.
  if (!stat.isDirectory() || stat.uid !== process.getuid?.()) throw new Error(`${folder}: not a folder of this user`);
  return folder;
}

/**
 * Makes this process known as the one behind `mountpoint`.
 * @returns a function that takes it back.
 */
export function writeRuntimeEntry(mountpoint: string, control: string | null): () => void {
  const path = join(ownRuntimeFolder(), fileName(mountpoint));
  const entry: RuntimeEntry = { mountpoint, pid: process.pid, startTicks: startTicksOf(process.pid) ?? "", control };
  const aside = `${path}.${process.pid}`;
  writeFileSync(aside, JSON.stringify(entry), { mode: 0o600 });
  renameSync(aside, path);
  return () => {
    // Not when a new mount of the same folder has replaced it.
    if (readEntry(path)?.pid === process.pid) rmSync(path, { force: true });
  };
}

function readEntry(path: string): RuntimeEntry | null {
  try {
    return schema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null; // none, or not ours
  }
}

/** The living process behind `mountpoint`, or null. */
export function findRuntimeEntry(mountpoint: string): RuntimeEntry | null {
  return findRuntimeFile(mountpoint)?.entry ?? null;
}

/** The same, with the path of the file that says so. */
export function findRuntimeFile(mountpoint: string): { entry: RuntimeEntry; path: string } | null {
  for (const folder of searchedFolders()) {
    const path = join(folder, fileName(mountpoint));
    const entry = readEntry(path);
    if (entry !== null && entry.mountpoint === mountpoint && isRunning(entry)) return { entry, path };
  }
  return null;
}

/** All living mounts of this user; of every user, if this is root. */
export function runtimeEntries(): RuntimeEntry[] {
  return searchedFolders().flatMap((folder) => {
    let names: string[];
    try {
      names = readdirSync(folder);
    } catch {
      return []; // no mount was ever made
    }
    return names
      .filter((name) => name.endsWith(".json"))
      .map((name) => readEntry(join(folder, name)))
      .filter((entry): entry is RuntimeEntry => entry !== null && isRunning(entry));
  });
}
