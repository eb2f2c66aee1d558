/** Small disks of a node's own: ext4 in a file, on a loop device; and one that fails on demand. */
import { existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { onCleanUp, tempFolder } from "./resources.ts";
import { cleanEnvironment, run, runOk } from "./run.ts";
import { isMounted } from "./test-mount.ts";

/** The block device number of loop devices (Linux, Documentation/admin-guide/devices.txt). */
const LOOP_MAJOR = "7";
/** FUSE hands at least this much over at once. */
const REQUEST_MAX_KIB = 64;
const START_PATIENCE_MS = 10_000;
const START_POLL_MS = 10;

/** Mounts the filesystem in a file. @throws Error when there are no loop devices. */
export async function mountImage(image: string, path: string, options = "defaults"): Promise<void> {
  // A container may lack the file of a device that the kernel has.
  const device = (await runOk("losetup", ["--find"])).trim();
  if (!existsSync(device)) await runOk("mknod", [device, "b", LOOP_MAJOR, device.replace("/dev/loop", "")]);
  await runOk("mount", ["-o", `loop,${options}`, image, path]);
}

/** A new folder for a mount, which is unmounted at the end. */
function mountFolder(parent: string, name: string): string {
  const path = join(parent, name);
  mkdirSync(path);
  const unmount = () => void (isMounted(path) && Bun.spawnSync(["umount", "-l", path]));
  onCleanUp({ end: unmount, endNow: unmount });
  return path;
}

async function makeImage(path: string, size: string): Promise<void> {
  await runOk("truncate", ["-s", size, path]);
  // Blocks of a page, as on any larger disk.
  await runOk("mkfs.ext4", ["-q", "-b", "4096", path]);
}

/**
 * A small disk; `size` as in 64M. Returns the folder where it is mounted. Where there are no loop devices a tmpfs stands in, and a line
 * on the output says so.
 */
export async function smallDisk(size: string): Promise<string> {
  const folder = tempFolder("disk-");
  const path = mountFolder(folder, "disk");
  const image = join(folder, "image");
  await makeImage(image, size);
  try {
    await mountImage(image, path);
  } catch (error) {
    console.log(`A tmpfs stands in for a disk, as a file can't be mounted here: ${error instanceof Error ? error.message : error}`);
    await runOk("mount", ["-t", "tmpfs", "-o", `size=${size}`, "none", path]);
  }
  return path;
}

/** A part of a disk, in bytes: `end` is behind the last one. */
export interface DiskRange {
  readonly first: number;
  readonly end: number;
}

const WHOLE: readonly DiskRange[] = [{ first: 0, end: Number.MAX_SAFE_INTEGER }];

/**
 * A disk of which requests fail with EIO when they are told to: its blocks are served by failing-disk.c. Only fsync(2) and the test bring
 * anything from the page cache to the disk.
 */
export class FailingDisk {
  /** Where it is mounted. */
  readonly path: string;
  readonly #device: string;
  readonly #faults: string;

  private constructor(path: string, device: string, faults: string) {
    this.path = path;
    this.#device = device;
    this.#faults = faults;
  }

  /** `size` as in 64M. */
  static async make(size: string): Promise<FailingDisk> {
    const folder = tempFolder("failing-");
    const server = join(folder, "failing-disk");
    const source = join(import.meta.dir, "failing-disk.c");
    await runOk("cc", ["-O1", "-D_FILE_OFFSET_BITS=64", "-I/usr/include/fuse3", "-o", server, source, "-lfuse3"]);
    const image = join(folder, "image");
    await makeImage(image, size);
    const served = mountFolder(folder, "served");
    const faults = join(folder, "faults");
    const child = Bun.spawn([server, served, image, faults], { env: cleanEnvironment(), stdio: ["ignore", "inherit", "inherit"] });
    const end = () => child.kill("SIGKILL");
    onCleanUp({ end, endNow: end });
    const device = join(served, "disk");
    const deadline = performance.now() + START_PATIENCE_MS;
    while (!isMounted(served)) {
      if (child.exitCode !== null || performance.now() > deadline) throw new Error("the failing disk did not start");
      await Bun.sleep(START_POLL_MS);
    }
    const disk = new FailingDisk(mountFolder(folder, "disk"), device, faults);
    await disk.#mount();
    return disk;
  }

  /** From now on, until heal(). */
  fail(what: "reads" | "writes", ranges: readonly DiskRange[] = WHOLE): void {
    this.#tell(ranges.map(({ first, end }) => `${what.charAt(0)} ${first} ${end}\n`).join(""));
  }

  heal(): void {
    this.#tell("");
  }

  #tell(faults: string): void {
    writeFileSync(`${this.#faults}.new`, faults);
    renameSync(`${this.#faults}.new`, this.#faults);
  }

  /** Where the bytes of a file lie. */
  async rangesOf(file: string): Promise<DiskRange[]> {
    const text = await runOk("filefrag", ["-s", "-v", file]);
    const blockBytes = Number(/blocks? of (\d+) bytes/.exec(text)?.[1]);
    return [...text.matchAll(/^ *\d+: *\d+\.\. *\d+: *(\d+)\.\. *(\d+):/gm)].map(([, first, last]) => ({
      first: Number(first) * blockBytes,
      end: (Number(last) + 1) * blockBytes,
    }));
  }

  /**
   * The machine loses its power and comes back with a good disk: what was not on it is lost. Whoever used the disk must be killed by
   * `kill`, which is called when nothing can get to the disk any more.
   */
  async losePower(kill: () => Promise<void>): Promise<void> {
    this.fail("writes");
    await kill();
    await this.repair();
  }

  /** Unmounts, makes the disk good, checks the filesystem and mounts it. Nobody may use the disk. */
  async repair(): Promise<void> {
    await runOk("umount", [this.path]);
    this.heal();
    const { status, stdout } = await run("e2fsck", ["-f", "-p", this.#device]);
    // e2fsck(8): 1 is "errors corrected".
    if (status > 1) throw new Error(`e2fsck: exit status ${status}\n${stdout}`);
    await this.#mount();
  }

  async #mount(): Promise<void> {
    await mountImage(this.#device, this.path, "commit=300");
    // A larger request comes in parts to the server, and the loop device calls one a success of which only the first parts were.
    const loop = (await runOk("findmnt", ["-n", "-o", "SOURCE", this.path])).trim();
    writeFileSync(`/sys/block/${basename(loop)}/queue/max_sectors_kb`, String(REQUEST_MAX_KIB));
  }
}
