/** Folders with a bit of everything, and what must survive when a program copies one. */
import { createHash } from "node:crypto";
import { chmodSync, linkSync, lutimesSync, mkdirSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runOk } from "./run.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** Around the limits inside kiseki: inline content (16 KiB), sealed blocks (64 KiB), chunks (4 MiB). */
const SIZES_BYTES = [0, 1, 4095, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB, 64 * KIB + 1, MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1];
const FOLDERS = 8;
const FILES_PER_FOLDER = 30;
const NAME_MAX_BYTES = 255;

/** The same bytes for the same seed, and no two alike. */
export function someBytes(seed: string, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0, block = 0; at < length; block++) {
    const hash = createHash("sha512").update(`${seed} ${block}`).digest();
    // Hashing all of it would take most of a test's time: each block of 4 KiB repeats one hash.
    for (let i = 0; i < 4 * KIB && at < length; i += hash.length, at += hash.length) bytes.set(hash.subarray(0, length - at), at);
  }
  return bytes;
}

/**
 * Fills a new local folder: some 270 entries; files of all sizes, empty folders, unusual names and modes, hard and symbolic links, holes,
 * fifos, extended attributes, times with nanoseconds.
 */
export async function makeTree(root: string): Promise<void> {
  mkdirSync(root);
  for (const size of SIZES_BYTES) writeFileSync(join(root, `size-${size}`), someBytes(`size ${size}`, size));
  for (let i = 0; i < FOLDERS; i++) {
    const folder = join(root, `folder-${i}`, "inner");
    mkdirSync(folder, { recursive: true });
    for (let j = 0; j < FILES_PER_FOLDER; j++) {
      writeFileSync(join(folder, `file-${j}`), someBytes(`${i} ${j}`, (i * 977 + j * 331) % 20_000));
    }
    chmodSync(folder, i % 2 === 0 ? 0o755 : 0o2750);
  }
  mkdirSync(join(root, "empty folder"));
  const names = ["with space", "neue\nzeile", "日本語 ñ", "-dash", "quote'\"", "back\\slash", "x".repeat(NAME_MAX_BYTES), "..."];
  for (const name of names) writeFileSync(join(root, "folder-0", name), name);
  writeFileSync(Buffer.concat([Buffer.from(join(root, "folder-1", "not utf-8 ")), Buffer.from([0xff, 0xfe])]), "bytes");
  linkSync(join(root, "size-4095"), join(root, "folder-2", "hard link"));
  linkSync(join(root, "size-1048576"), join(root, "hard link 2"));
  linkSync(join(root, "size-1048576"), join(root, "folder-3", "hard link 3"));
  symlinkSync("../size-1", join(root, "folder-4", "relative link"));
  symlinkSync("/nonexistent/target", join(root, "dangling link"));
  symlinkSync("t".repeat(2000), join(root, "long link"));
  for (const [name, mode] of [
    ["mode-000", 0],
    ["mode-4755", 0o4755],
    ["mode-1777", 0o1777],
  ] as const) {
    writeFileSync(join(root, name), name);
    chmodSync(join(root, name), mode);
  }
  writeFileSync(join(root, "hole at the end"), "start");
  truncateSync(join(root, "hole at the end"), 3 * MIB);
  await runOk("mkfifo", [join(root, "fifo")]);
  await runOk("setfattr", ["-n", "user.colour", "-v", "0x00ff10", join(root, "size-1")]);
  await runOk("setfattr", ["-n", "user.long", "-v", "v".repeat(1000), join(root, "folder-5")]);
  await runOk("setfattr", ["-n", "trusted.note", "-v", "for root", join(root, "hard link 2")]);
  // Nothing is as young as a copy: programs such as rsync leave times alone that differ by less than a second.
  await runOk("find", [root, "-depth", "-exec", "touch", "-h", "-d", "2019-05-06 07:08:09.123456789", "{}", "+"]);
  await runOk("touch", ["-d", "2001-02-03 04:05:06.123456789", join(root, "size-0")]);
  utimesSync(join(root, "size-65536"), 0, 0);
  lutimesSync(join(root, "dangling link"), 1_000_000_000.25, 1_000_000_000.25);
  await runOk("touch", ["-d", "2010-01-01 00:00:00.000000001", join(root, "empty folder")]);
}

const FIND = [
  ["-type", "d", "-printf", "%y %m %U:%G %T@ %P\\0"],
  ["-type", "l", "-printf", "%y %U:%G %T@ %l %P\\0"],
  ["-printf", "%y %m %U:%G %T@ %n %s %P\\0"],
] as const;

/** In `folder`: kinds, modes, owners, times, link counts, sizes, link targets; which names are one file; xattrs; checksums. */
const DESCRIBE = `
find . -mindepth 1 \\( ${FIND.map((words) => words.map((word) => `'${word}'`).join(" ")).join(" -o ")} \\) | LC_ALL=C sort -z | tr '\\0' '\\n'
find . -type f -links +1 -printf '%i %P\\n' | LC_ALL=C sort -k 2 | awk '{ if (!($1 in group)) group[$1] = ++n; $1 = "group " group[$1]; print }'
find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex --
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --
`;

/** Everything about a tree that a faithful copy has too, as text to compare. */
export async function describeTree(folder: string): Promise<string> {
  return await runOk("bash", ["-e", "-o", "pipefail", "-c", DESCRIBE], { cwd: folder, env: { TZ: "UTC" } });
}
