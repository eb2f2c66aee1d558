/** A node whose data has gone back, as by a restored backup, and one with other data: no mount takes it for the one that it knew. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { mountImage } from "./support/disk.ts";
import { cleanUp, isMounted, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

/** Appends and has it fsynced; appends and has it on the node alone (by a second descriptor's close); appends and asks for fsync after the failure. */
const WRITER = `
import errno, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b"a" * 100); os.fsync(fd); print("synced", flush=True)
sys.stdin.readline()
os.write(fd, b"b" * 100); os.close(os.dup(fd)); print("written out", flush=True)
sys.stdin.readline()
said = []
for name, call in (("write", lambda: os.write(fd, b"c" * 100)), ("fsync", lambda: os.fsync(fd))):
  try: call(); said.append(name + " ok")
  except OSError as error: said.append(name + " " + errno.errorcode[error.errno])
print(", ".join(said), flush=True)
`;
/** A node that is away for less than this is waited for. */
const REFUSED_PATIENCE_MS = 15_000;

const put = (mount: TestMount, name: string, text: string) =>
  runOk("bash", ["-c", `printf %s "$2" > "$1" && sync "$1"`, "bash", join(mount.path, name), text]);
const get = async (mount: TestMount, name: string) => (await run("cat", [join(mount.path, name)])).stdout;

async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + REFUSED_PATIENCE_MS;
  while (!(await what())) {
    if (performance.now() > deadline) throw new Error(`waited for too long: ${what}`);
    await Bun.sleep(50);
  }
}

/** Puts the data folder back to what it was when `backup` was made. */
function restore(node: TestNode, backup: string): void {
  rmSync(node.dataDir, { recursive: true });
  cpSync(backup, node.dataDir, { recursive: true });
}

function backUp(node: TestNode): string {
  const backup = tempFolder("backup-");
  cpSync(node.dataDir, backup, { recursive: true });
  return backup;
}

test("a restored backup: living mounts get EIO and can be unmounted, new ones see what the backup has", async () => {
  const node = await TestNode.start();
  const [one, other] = [await TestMount.mount(node), await TestMount.mount(node)];
  await put(one, "old", "before the backup");
  await put(one, "changed", "1");
  await node.stop();
  const backup = backUp(node);
  await node.restart();
  await put(one, "changed", "2");
  await put(one, "new", "after the backup");
  expect(await get(other, "new")).toBe("after the backup");
  await node.stop();
  restore(node, backup);
  await node.restart();

  for (const mount of [one, other]) {
    await until(() => mount.log().includes("its data has gone back"));
    const made = await run("bash", ["-c", `echo mine > ${join(mount.path, "made")}`]);
    expect(made.stderr).toContain("Input/output error");
    expect((await run("ls", [join(mount.path, "never-looked-at")])).stderr).toContain("Input/output error");
    expect(["2", ""]).toContain(await get(mount, "changed"));
    expect(mount.log()).toContain("start the node with --restored, and then unmount, and mount again");
  }
  const stats = JSON.parse((await runOk(KISEKI, ["cache", "stats", "--json", one.path])).trim());
  expect(stats.node).toMatchObject({
    connected: false,
    refusal: expect.stringContaining("gone back"),
    lostSince: expect.stringContaining("T"),
  });
  expect((await runOk(KISEKI, ["cache", "stats", one.path])).toString()).toContain("NO STORAGE NODE since");
  // Others go on with the older data. What they write does not make it the newer one.
  const later = await TestMount.mount(node);
  expect(await get(later, "changed")).toBe("1");
  for (let i = 0; i < 20; i++) await put(later, `later-${i}`, "x");
  expect((await run("ls", [join(one.path, "later-3")])).stderr).toContain("Input/output error");
  for (const mount of [one, other, later]) expect((await run(KISEKI, ["umount", mount.path])).status).toBe(0);
});

test("a copy that was made of the running node is put back: also a mount that has only read notices", async () => {
  const node = await TestNode.start();
  const writer = await TestMount.mount(node);
  await put(writer, "old", "in the copy");
  node.freeze();
  const copy = backUp(node);
  node.resume();
  await put(writer, "new", "not in the copy");
  const reader = await TestMount.mount(node);
  expect(await get(reader, "new")).toBe("not in the copy");
  await writer.unmount();
  await node.kill();
  restore(node, copy);
  await node.restart();
  await until(() => reader.log().includes("was said to be durable"));
  expect((await run("ls", [join(reader.path, "never-looked-at")])).stderr).toContain("Input/output error");
  expect((await run(KISEKI, ["umount", reader.path])).status).toBe(0);
});

test("serve --restored: what was mounted before is refused, what is mounted anew is not, and numbers are new", async () => {
  const node = await TestNode.start();
  const before = await TestMount.mount(node);
  await put(before, "a", "a");
  const number = Number((await runOk("stat", ["-c", "%i", join(before.path, "a")])).trim());
  await node.restart("SIGTERM", ["--restored"]);
  await until(() => before.log().includes("--restored"));
  expect((await run("ls", [join(before.path, "b")])).stderr).toContain("Input/output error");
  const after = await TestMount.mount(node);
  expect(await get(after, "a")).toBe("a");
  await put(after, "c", "c");
  expect(Number((await runOk("stat", ["-c", "%i", join(after.path, "c")])).trim())).toBeGreaterThan(number + 2 ** 31);
  await after.unmount();
  expect((await run(KISEKI, ["umount", before.path])).status).toBe(0);
  // One start with it is enough: the next one is the same data's.
  const living = await TestMount.mount(node);
  await node.restart();
  expect(await get(living, "c")).toBe("c");
  await living.unmount();
});

test("two storage nodes in --data-addr are refused, whichever comes first", async () => {
  const [one, other] = [await TestNode.start(), await TestNode.start()];
  // One authority for both, else they would not get as far as looking at data.
  await other.stop();
  rmSync(join(other.dataDir, "pki"), { recursive: true });
  cpSync(join(one.dataDir, "pki"), join(other.dataDir, "pki"), { recursive: true });
  await other.restart();
  const credentials = await one.credentials("t");
  const mountpoint = tempFolder("two-");
  for (const [first, second] of [
    [one, other],
    [other, one],
  ] as const) {
    const where = ["--data-addr", `${first.addr},${second.addr}`, "--tenant", "t", "--credentials", credentials];
    const result = await run(KISEKI, ["mount", mountpoint, ...where, "--cache-dir", tempFolder("cache-")]);
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(/^kiseki: [^\n]*\n$/);
    expect(result.stderr).toContain(`${second.addr} has other data than ${first.addr}`);
    expect(isMounted(mountpoint)).toBe(false);
  }
});

test("a pool that is taken over remembers what was durable", async () => {
  const node = await TestNode.start();
  await node.credentials("t");
  const first = await TestMount.mount(node);
  await first.unmount();
  await node.stop();
  const backup = backUp(node);
  await node.restart();
  const mount = await TestMount.mount(node);
  await put(mount, "durable", "yes");
  const tenant = join(mount.cacheDir, "t");
  await until(() => readdirSync(tenant).some((pool) => /^[0-9a-f]{32}$/.test(pool)));
  const pool = readdirSync(tenant).find((name) => /^[0-9a-f]{32}$/.test(name)) as string;
  await until(async () => (await Bun.file(join(tenant, pool, "store.json")).text()).includes('"default"'));
  await mount.kill();
  await node.stop();
  restore(node, backup);
  await node.restart();
  const args = ["--data-addr", node.addr, "--tenant", "t", "--credentials", await node.credentials("t"), "--cache-dir", mount.cacheDir];
  const result = await run(KISEKI, ["mount", tempFolder("adopts-"), ...args, "-o", `pool_id=${pool}`]);
  expect(result.stderr).toMatch(/^kiseki: [^\n]*gone back[^\n]*\n$/);
  expect(result.status).toBe(1);
});

test("a power failure that took only what was never promised: the mount goes on with what there is", async () => {
  const folder = tempFolder("tail-");
  const disk = join(folder, "disk");
  const image = (n: number) => join(folder, `image-${n}`);
  mkdirSync(disk);
  const unmount = () => void (isMounted(disk) && Bun.spawnSync(["umount", "-l", disk]));
  onCleanUp({ end: unmount, endNow: unmount });
  await runOk("truncate", ["-s", "256M", image(0)]);
  await runOk("mkfs.ext4", ["-q", image(0)]);
  await mountImage(image(0), disk, "commit=300");
  const node = await TestNode.start({ dataDir: join(disk, "data") });
  await node.credentials("t");
  await runOk("sync", ["-f", disk]);
  const mount = await TestMount.mount(node);
  await put(mount, "kept", "fsynced");
  // A program that has written, and was answered, and goes on after the failure.
  const writer = Bun.spawn(["python3", "-c", WRITER, join(mount.path, "log")], { stdin: "pipe", stdout: "pipe" });
  const said = writer.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let heard = "";
  /** The next line that the program says: a pipe may bring it in parts. */
  const hear = async (): Promise<string> => {
    while (!heard.includes("\n")) {
      const { value, done } = await said.read();
      if (done) throw new Error(`the writer ended; it had said ${heard}`);
      heard += value;
    }
    const [line = "", ...rest] = heard.split("\n");
    heard = rest.join("\n");
    return line;
  };
  expect(await hear()).toBe("synced");
  await runOk("bash", ["-c", `cd ${mount.path}; echo lost > lost; echo more > kept; cat lost kept`]);
  writer.stdin.write("1\n");
  writer.stdin.flush();
  expect(await hear()).toBe("written out");
  node.freeze();
  await runOk("cp", ["--sparse=always", image(0), image(1)]);
  await node.kill();
  await runOk("umount", [disk]);
  await mountImage(image(1), disk, "commit=300");
  await node.restart();
  await until(() => mount.log().includes("has lost changes that it had not promised to keep"));
  writer.stdin.write("2\n");
  writer.stdin.flush();
  expect(await hear()).toBe("write EIO, fsync EIO");
  writer.stdin.end();
  await writer.exited;
  expect(await get(mount, "log")).toBe("a".repeat(100));
  await runOk("bash", ["-c", `printf %s again >> ${join(mount.path, "log")}`]);
  expect(await get(mount, "log")).toBe(`${"a".repeat(100)}again`);
  expect(await get(mount, "kept")).toBe("fsynced");
  expect((await run("cat", [join(mount.path, "lost")])).stderr).toContain("No such file");
  await put(mount, "lost", "made again");
  expect(await get(mount, "lost")).toBe("made again");
  const fresh = await TestMount.mount(node);
  expect([await get(fresh, "kept"), await get(fresh, "lost")]).toEqual(["fsynced", "made again"]);
  await fresh.unmount();
  await mount.unmount();
  await node.stop();
  await runOk("umount", [disk]);
});

test("a mount of a namespace that was deleted can be unmounted", async () => {
  const node = await TestNode.start();
  const args = ["--data-addr", node.addr, "--credentials", await node.credentials("t")];
  await runOk(KISEKI, ["namespace", "create", "gone", ...args]);
  const mount = await TestMount.mount(node, { namespace: "gone" });
  await put(mount, "a", "a");
  await runOk(KISEKI, ["namespace", "delete", "gone", "--force", ...args]);
  expect((await run("ls", [join(mount.path, "b")])).status).not.toBe(0);
  const { status, stderr } = await run(KISEKI, ["umount", mount.path]);
  expect({ status, stderr }).toEqual({
    status: 0,
    stderr: `kiseki: ${mount.path}: the namespace was deleted; what was unwritten is lost\n`,
  });
  expect(isMounted(mount.path)).toBe(false);
});
