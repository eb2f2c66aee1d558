import { readFileSync } from "node:fs";

/** One line of /proc/self/mountinfo (proc(5)). */
export interface MountEntry {
  /** major:minor of the filesystem, st_dev of what is in it. */
  readonly device: string;
  readonly mountpoint: string;
  readonly options: string;
  /** For example fuse.kiseki. */
  readonly type: string;
  readonly source: string;
  /** The filesystem's own options, for example rw,user_id=0,group_id=0. */
  readonly superOptions: string;
}

/** Reads the mounts that this process sees, in the order of mounting: of several on one folder, the last one is on top. */
export function readMounts(): MountEntry[] {
  return parseMountinfo(readFileSync("/proc/self/mountinfo", "latin1"));
}

/** Lines look like `36 35 98:0 /root /mountpoint rw,noatime master:1 - ext3 /dev/root rw`; the fields before the hyphen vary. */
export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split("\n")) {
    const fields = line.split(" ");
    const [, , device, , mountpoint, options] = fields;
    const [type, source, superOptions = ""] = fields.slice(fields.indexOf("-", 6) + 1);
    if (device === undefined || mountpoint === undefined || options === undefined || type === undefined || source === undefined) continue;
    entries.push({
      device,
      mountpoint: unescapeOctal(mountpoint),
      options,
      type: unescapeOctal(type),
      source: unescapeOctal(source),
      superOptions,
    });
  }
  return entries;
}

/** The kernel writes space, tab, newline and backslash as \040 and so on; the bytes are UTF-8. */
function unescapeOctal(text: string): string {
  const bytes = text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
  return Buffer.from(bytes, "latin1").toString("utf8");
}

/** The mount that a path lies in, which need not be there; null: none that is known. */
export function mountOf(path: string, mounts: readonly MountEntry[] = readMounts()): MountEntry | null {
  let found: MountEntry | null = null;
  for (const entry of mounts) {
    const holds = entry.mountpoint === "/" || path === entry.mountpoint || path.startsWith(`${entry.mountpoint}/`);
    if (holds && entry.mountpoint.length >= (found?.mountpoint.length ?? 0)) found = entry;
  }
  return found;
}

/** The mount on top of a folder, given by its absolute path without symbolic links; null when nothing is mounted there. */
export function mountAt(path: string, mounts: readonly MountEntry[] = readMounts()): MountEntry | null {
  return mounts.findLast((entry) => entry.mountpoint === path) ?? null;
}
