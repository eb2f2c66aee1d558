/** Staged files that the kernel reads by itself (FUSE passthrough), through real mounts: it is shown by freezing or killing the client. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, Dialog, KISEKI, run, runOk, TestMount, TestNode } from "./support/harness.ts";
import { cacheDirOf, controlOf, poolOf, poolsIn, stage } from "./support/staging.ts";

setDefaultTimeout(60_000);

const BYTES = 5_000_003;
let node: TestNode;
let other: TestMount;
/** Folders of this file's tests, so that they don't meet. */
let folders = 0;

beforeAll(async () => {
  node = await TestNode.start();
  other = await TestMount.mount(node);
});
afterAll(cleanUp);

const sh = (script: string, ...args: string[]): Promise<string> => runOk("sh", ["-ec", script, "sh", ...args]);
const sumOf = async (path: string): Promise<string> => (await sh('sha256sum < "$1"', path)).slice(0, 64);

/** A program with files open. Descriptors have names; each command is answered with a line. */
const PROGRAM = `
import ctypes, fcntl, hashlib, mmap, os, sys
# Not Python's own mapping, which keeps the descriptor.
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
fds, maps = {}, {}
sha = lambda data: hashlib.sha256(data).hexdigest()
def do(words):
    what, name, *more = words
    if what == "open": fds[name] = os.open(more[0], getattr(os, more[1]) | (os.O_DIRECT if "direct" in more else 0)); return "ok"
    if what == "read": return sha(os.pread(fds[name], ${BYTES} + 1000, 0))
    if what == "write": return str(os.pwrite(fds[name], more[0].encode(), 0))
    if what == "map":
        how = {"private": (mmap.MAP_PRIVATE, mmap.PROT_READ), "shared": (mmap.MAP_SHARED, mmap.PROT_READ),
               "writable": (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)}[more[0]]
        at = libc.mmap(None, ${BYTES}, how[1], how[0], fds[name], 0)
        if at == 2**64 - 1: raise OSError(ctypes.get_errno(), "mmap")
        maps[name] = at; return "ok"
    if what == "look": return sha((ctypes.c_char * ${BYTES}).from_address(maps[name]).raw)
    if what == "lock": fcntl.flock(fds[name], fcntl.LOCK_EX | fcntl.LOCK_NB); return "ok"
    if what == "unmap": libc.munmap(maps.pop(name), ${BYTES}); return "ok"
    if what == "close": os.close(fds.pop(name)); return "ok"
    if what == "uncache": os.posix_fadvise(fds[name], 0, 0, os.POSIX_FADV_DONTNEED); return "ok"
for line in sys.stdin:
    try: print(do(line.split()), flush=True)
    except OSError as e: print(e.errno, flush=True)
`;

class Program {
  readonly #dialog = new Dialog("python3", ["-c", PROGRAM]);

  async do(command: string): Promise<string> {
    this.#dialog.say(command);
    return (await this.#dialog.line()) ?? "the program has ended";
  }

  end(): Promise<string> {
    return this.#dialog.end();
  }
}

interface Staged extends AsyncDisposable {
  readonly mount: TestMount;
  /** The dataset's file, in the mount that has staged it and in another. */
  readonly file: string;
  readonly there: string;
  readonly dataset: string;
  readonly sum: string;
}

async function staged(args: string[] = []): Promise<Staged> {
  const dataset = `/set${++folders}`;
  await sh(`mkdir "$1" && head -c ${BYTES} /dev/urandom > "$1/file"`, other.path + dataset);
  const mount = await TestMount.mount(node, { args });
  await stage(poolOf(mount), dataset);
  const [file, there] = [join(mount.path, dataset, "file"), join(other.path, dataset, "file")];
  // A client that is killed keeps its leases for seconds, which the next test would wait for.
  const end = (): Promise<void> => (mount.isRunning ? mount.unmount().catch(() => mount.kill()) : mount.kill());
  return { mount, file, there, dataset, sum: await sumOf(there), [Symbol.asyncDispose]: end };
}

test("a staged file is read without the client, from the disk too", async () => {
  await using set = await staged();
  const program = new Program();
  expect(await program.do(`open a ${set.file} O_RDONLY`)).toBe("ok");
  set.mount.freeze();
  expect(await program.do("read a")).toBe(set.sum);
  expect(await program.do("map a private")).toBe("ok");
  expect(await program.do("uncache a")).toBe("ok");
  await sh("echo 1 > /proc/sys/vm/drop_caches");
  expect(await program.do("look a")).toBe(set.sum);
  expect(await program.do("read a")).toBe(set.sum);
  set.mount.resume();
  await program.end();
  expect(await sumOf(set.file)).toBe(set.sum);
});

test("O_DIRECT reads past the image, beside those who read it", async () => {
  await using set = await staged();
  const program = new Program();
  await program.do(`open a ${set.file} O_RDONLY`);
  expect(await program.do(`open b ${set.file} O_RDONLY direct`)).toBe("ok");
  set.mount.freeze();
  expect(await program.do("read a")).toBe(set.sum);
  set.mount.resume();
  const before = await controlOf(poolOf(set.mount)).stats();
  expect(await sh('dd if="$1" iflag=direct bs=1M status=none | sha256sum', set.file)).toStartWith(set.sum);
  expect((await controlOf(poolOf(set.mount)).stats()).reads.bypasses).toBeGreaterThan(before.reads.bypasses);
  await program.end();
});

test("an open descriptor keeps the snapshot while the file is written beside it; all who come later see what was written", async () => {
  await using set = await staged();
  const program = new Program();
  await program.do(`open reader ${set.file} O_RDONLY`);
  expect(await program.do(`open writer ${set.file} O_RDWR`)).toBe("ok");
  expect(await program.do("write writer CHANGED")).toBe("7");
  expect(await sh('head -c 7 "$1"', set.file)).toBe("CHANGED");
  expect(await program.do("read reader")).toBe(set.sum);
  expect(await program.do("close writer")).toBe("ok");
  const now = await sumOf(set.there);
  expect(await sh('head -c 7 "$1"', set.there)).toBe("CHANGED");
  expect(await sumOf(set.file)).toBe(now);
  expect(await program.do("read reader")).toBe(set.sum);
  // Further ones, in every way.
  await sh('printf more >> "$1"; printf MIDDLE | dd of="$1" bs=1 seek=1000 conv=notrunc 2>/dev/null', set.file);
  expect(await sumOf(set.file)).toBe(await sumOf(set.there));
  await sh('truncate -s 100 "$1"', set.file);
  expect(await sh('stat -c %s "$1"', set.file)).toBe("100\n");
  expect(await sumOf(set.file)).toBe(await sumOf(set.there));
  expect(await program.do("read reader")).toBe(set.sum);
  await program.end();
  expect(await sumOf(set.file)).toBe(await sumOf(set.there));
});

test("locks of a snapshot and of the file as it is now are two", async () => {
  await using set = await staged();
  const program = new Program();
  for (const name of ["a", "b"]) await program.do(`open ${name} ${set.file} O_RDONLY`);
  expect(await program.do("lock a")).toBe("ok");
  expect(await program.do("lock b")).toBe("11");
  for (const name of ["c", "d"]) await program.do(`open ${name} ${set.file} O_RDWR`);
  expect(await program.do("lock c")).toBe("ok");
  expect(await program.do("lock d")).toBe("11");
  await program.end();
});

test("a shared writable mapping of a staged file is refused, whoever reads it", async () => {
  await using set = await staged();
  const program = new Program();
  await program.do(`open reader ${set.file} O_RDONLY`);
  await program.do(`open writer ${set.file} O_RDWR`);
  expect(await program.do("map writer writable")).toBe("19");
  expect(await program.do("map reader shared")).toBe("ok");
  expect(await program.do("look reader")).toBe(set.sum);
  expect(await program.do("map writer private")).toBe("ok");
  expect(await program.do("look writer")).toBe(set.sum);
  await program.end();
});

test("a file that is staged anew is read anew, beside those who still read the old one", async () => {
  await using set = await staged();
  const program = new Program();
  await program.do(`open old ${set.file} O_RDONLY`);
  await sh(`head -c ${BYTES} /dev/urandom > "$1"`, set.there);
  await stage(poolOf(set.mount), set.dataset);
  const now = await sumOf(set.there);
  await program.do(`open new ${set.file} O_RDONLY`);
  set.mount.freeze();
  expect(await program.do("read old")).toBe(set.sum);
  expect(await program.do("read new")).toBe(now);
  set.mount.resume();
  await program.end();
});

const imagesIn = (pool: string): string[] => readdirSync(join(pool, "files")).filter((name) => !name.endsWith(".crc"));

test("a released file stays on the disk until the last program lets go of it, mapping or descriptor", async () => {
  await using set = await staged();
  const pool = poolOf(set.mount);
  const program = new Program();
  await program.do(`open a ${set.file} O_RDONLY`);
  await program.do("map a shared");
  await program.do("close a");
  const released = controlOf(pool).release({ path: set.dataset });
  await Bun.sleep(1_000);
  expect(imagesIn(pool)).toHaveLength(1);
  expect(await sumOf(set.file)).toBe(set.sum);
  expect(await program.do("look a")).toBe(set.sum);
  await program.do("unmap a");
  await released;
  expect(imagesIn(pool)).toEqual([]);
  await program.end();
});

test("a client that is killed or told to end leaves readers their snapshot, and scrub waits for them", async () => {
  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    await using set = await staged();
    const cacheDir = cacheDirOf(set.mount);
    const program = new Program();
    await program.do(`open a ${set.file} O_RDONLY`);
    await program.do("map a private");
    await program.do(`open b ${set.file} O_RDONLY`);
    await program.do("close a");
    process.kill(set.mount.pid, signal);
    while (set.mount.isRunning) await Bun.sleep(20);
    expect((await run(KISEKI, ["scrub", "--cache-dir", cacheDir])).stdout).toContain("a program has this staged file open");
    expect(await program.do("read b")).toBe(set.sum);
    expect(await program.do("look a")).toBe(set.sum);
    const [pool = ""] = poolsIn(cacheDir);
    expect(imagesIn(pool)).toHaveLength(1);
    await program.end();
    expect((await run(KISEKI, ["scrub", "--cache-dir", cacheDir])).status).toBe(0);
    expect(poolsIn(cacheDir)).toEqual([]);
  }
});

test("with the kernel's writeback cache there is no passthrough, and the same bytes", async () => {
  await using set = await staged(["-o", "writeback_cache"]);
  expect(await sumOf(set.file)).toBe(set.sum);
  const program = new Program();
  await program.do(`open reader ${set.file} O_RDONLY`);
  await program.do(`open writer ${set.file} O_RDWR`);
  await program.do("write writer CHANGED");
  expect(await sh('head -c 7 "$1"', set.file)).toBe("CHANGED");
  expect(await program.do("read reader")).not.toBe(set.sum);
  await program.end();
});

test("thousands of opens of staged files, at once and one after the other", async () => {
  await using set = await staged();
  const script = `
import hashlib, os, sys
path, want = sys.argv[1], sys.argv[2]
fds = [os.open(path, os.O_RDONLY) for _ in range(900)]
for i in range(5000): os.close(os.open(path, os.O_RDONLY))
for fd in fds: assert hashlib.sha256(os.pread(fd, ${BYTES}, 0)).hexdigest() == want if fd % 100 == 0 else True
`;
  await runOk("python3", ["-c", script, set.file, set.sum]);
  await controlOf(poolOf(set.mount)).release({ path: set.dataset });
  expect(imagesIn(poolOf(set.mount))).toEqual([]);
});
