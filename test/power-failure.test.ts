/**
 * The node loses its power: its data folder is on a disk image, of which a copy is taken while everything runs. The copy has what had been
 * sent to the disk; what was only in the machine's page cache is not in it.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { mountImage } from "./support/disk.ts";
import { cleanUp, isMounted, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import { py } from "./support/posix.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

const IMAGE = "256M";
const ROUNDS = 2;
/** Longer than the test: nothing but fsync(2) sends anything to the image. */
const MOUNT_OPTIONS = "commit=300";
/** `where` is what a file's name begins with. Descriptors stay open: closing must not be what saves the data. */
const WRITE = (where: string) => py`
  os.chdir(sys.argv[1])
  fd = os.open("${where} large", os.O_WRONLY | os.O_CREAT, 0o640); os.write(fd, pattern(9_000_000)); os.fchmod(fd, 0o600); os.setxattr(fd, "user.x", b"1")
  os.utime(fd, ns=(1, 2)); os.fsync(fd)
  small = os.open("${where} small", os.O_RDWR | os.O_CREAT, 0o644); os.write(small, b"small"); os.fdatasync(small); os.write(small, b", appended"); os.fdatasync(small)
  os.mkdir("${where} folder"); put("${where} folder/a", "a"); os.link("${where} folder/a", "${where} folder/b"); os.unlink("${where} folder/a")
  directory = os.open("${where} folder", os.O_RDONLY); os.fsync(directory)
  put("${where} replaced", "old"); new = os.open("${where} new", os.O_WRONLY | os.O_CREAT, 0o644); os.write(new, b"new" * 50_000); os.fsync(new)
  os.rename("${where} new", "${where} replaced")
`;

const LOOK = (where: string) => py`
  os.chdir(sys.argv[1]); s = os.stat("${where} large")
  print((st("${where} large"), s.st_mtime_ns, os.getxattr("${where} large", "user.x"), get("${where} large") == pattern(9_000_000)))
  print(get("${where} small")); print(listing("${where} folder"), get("${where} folder/b"))
  print(get("${where} replaced") in (b"old", b"new" * 50_000))
`;

const KEPT = ["('file, 0600, nlink 1, 0:0, size 9000000', 2, b'1', True)", "b'small, appended'", "['b'] b'a'", "True"];

async function python(mount: TestMount, snippet: string): Promise<string[]> {
  const env = { PYTHONPATH: join(import.meta.dir, "support"), PYTHONDONTWRITEBYTECODE: "1" };
  return (await runOk("python3", ["-c", `from posix_lab import *\n${snippet}`, mount.path], { env })).split("\n").slice(0, -1);
}

test("what was fsynced survives a power failure of the node: data, attributes, new files, folders", async () => {
  const folder = tempFolder("power-");
  const disk = join(folder, "disk");
  const image = (round: number) => join(folder, `image-${round}`);
  mkdirSync(disk);
  const unmount = () => void (isMounted(disk) && Bun.spawnSync(["umount", "-l", disk]));
  onCleanUp({ end: unmount, endNow: unmount });
  await runOk("truncate", ["-s", IMAGE, image(0)]);
  await runOk("mkfs.ext4", ["-q", image(0)]);
  await mountImage(image(0), disk, MOUNT_OPTIONS);
  const node = await TestNode.start({ dataDir: join(disk, "data") });
  // A new tenant's certificate is made on the node's machine: sent now, as this is about files.
  await node.credentials("t");
  await runOk("sync", ["-f", disk]);

  for (let round = 1; round <= ROUNDS; round++) {
    const mount = await TestMount.mount(node);
    await python(mount, WRITE(String(round)));
    node.freeze();
    await runOk("bash", ["-c", `echo not synced > ${disk}/control-${round}`]);
    await runOk("cp", ["--sparse=always", image(round - 1), image(round)]);
    await mount.kill();
    await node.kill();
    await runOk("umount", [disk]);
    await mountImage(image(round), disk, MOUNT_OPTIONS);
    // Else the copy would have more than a disk has without power.
    expect((await run("cat", [join(disk, `control-${round}`)])).stdout).toBe("");
    await node.restart();
    const again = await TestMount.mount(node);
    for (let written = 1; written <= round; written++) expect(await python(again, LOOK(String(written)))).toEqual(KEPT);
    await again.unmount();
  }
  await node.stop();
  const { status, stdout } = await run(KISEKI, ["serve", "--verify", "--data-dir", node.dataDir]);
  expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringContaining(" 0 damages") });
  await runOk("umount", [disk]);
});
