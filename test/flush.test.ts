/** What is on the node when: the client is killed right after a call has returned, and a new one shows what was there. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cleanEnvironment, cleanUp, TestMount, TestNode } from "./support/harness.ts";
import { py } from "./support/posix.ts";

setDefaultTimeout(60_000);

/** Buffered data goes by itself after 5 s, looked at once a second; and the machine may be busy. */
const FLUSHED_BY_ITSELF_MS = 8_000;

let node: TestNode;
/** Has a file open that it wrote to, while the other tests run. */
let buffering: Bun.Subprocess;
beforeAll(async () => {
  node = await TestNode.start();
  const mount = await TestMount.mount(node);
  buffering = begin(
    mount.path,
    py`
      fd = os.open("open", os.O_WRONLY | os.O_CREAT, 0o644); os.write(fd, pattern(100_000)); os.fchmod(fd, 0o600)
      time.sleep(600)
    `,
  );
});
afterAll(async () => {
  buffering.kill("SIGKILL");
  await buffering.exited;
  await cleanUp();
});

const POSIX_LAB = { PYTHONPATH: `${import.meta.dir}/support`, PYTHONDONTWRITEBYTECODE: "1" };

function begin(cwd: string, snippet: string): Bun.Subprocess<"ignore", "pipe", "inherit"> {
  const source = `from posix_lab import *\n${snippet}`;
  return Bun.spawn(["python3", "-c", source], { cwd, env: cleanEnvironment(POSIX_LAB), stdio: ["ignore", "pipe", "inherit"] });
}

async function python(cwd: string, snippet: string): Promise<string[]> {
  const child = begin(cwd, snippet);
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return text.split("\n").slice(0, -1);
}

/** Runs a snippet whose descriptors stay open until its client is killed; returns what another snippet prints on a new mount. */
async function afterKill(snippet: string, look: string, args: string[] = []): Promise<string[]> {
  const mount = await TestMount.mount(node, { args });
  const child = begin(mount.path, `${snippet}\nprint("ready", flush=True); time.sleep(600)`);
  const { value } = await child.stdout.getReader().read();
  // The line and its end may come one after the other.
  expect(new TextDecoder().decode(value).trimEnd()).toBe("ready");
  await mount.kill();
  child.kill("SIGKILL");
  await child.exited;
  const again = await TestMount.mount(node);
  const lines = await python(again.path, look);
  await again.unmount();
  return lines;
}

test("names, attributes, closed files and O_DIRECT writes are on the node when their calls have returned", async () => {
  const change = py`
    os.mkdir("d"); os.chdir("d"); put("a"); put("b"); put("c"); os.mkdir("gone"); os.mkdir("kept")
    os.rename("a", "renamed"); os.unlink("b"); os.link("c", "link"); os.symlink("to", "symlink"); os.mkfifo("fifo"); os.rmdir("gone")
    os.chmod("c", 0o600); os.chown("c", 3, 4); os.utime("c", ns=(5, 6)); os.setxattr("c", "user.x", b"1"); os.chmod("kept", 0o700)
    created = os.open("created", os.O_WRONLY | os.O_CREAT, 0o640); os.mkdir("closed"); os.chdir("closed")
    fd = os.open("by a dup", os.O_WRONLY | os.O_CREAT, 0o644); os.write(fd, pattern(3_000_000)); os.close(os.dup(fd))
    first = os.open("by another", os.O_WRONLY | os.O_CREAT, 0o644); second = os.open("by another", os.O_RDWR); os.write(first, b"small"); os.close(second)
    child = os.open("by a child", os.O_WRONLY | os.O_CREAT, 0o644); os.write(child, b"small"); fork_do(lambda: None)
    direct = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644); os.write(direct, aligned(8192, pattern(8192)))
    synced = os.open("synced", os.O_WRONLY | os.O_CREAT, 0o644); os.write(synced, pattern(100_000)); os.fdatasync(synced)
  `;
  const look = py`
    os.chdir("d"); print(*listing(), sep=","); show("c", st("c")); show("times", (os.stat("c").st_atime_ns, os.stat("c").st_mtime_ns))
    show("xattr", os.getxattr("c", "user.x")); show("kept", st("kept"))
    os.chdir("closed"); show("by a dup", get("by a dup") == pattern(3_000_000)); show("by another", get("by another")); show("by a child", get("by a child"))
    show("direct", get("direct") == pattern(8192)); show("synced", get("synced") == pattern(100_000))
  `;
  expect(await afterKill(change, look)).toEqual([
    "c,closed,created,fifo,kept,link,renamed,symlink",
    "c: file, 0600, nlink 2, 3:4, size 0",
    "times: (5, 6)",
    "xattr: b'1'",
    "kept: folder, 0700, nlink 2, 0:0",
    "by a dup: True",
    "by another: b'small'",
    "by a child: b'small'",
    "direct: True",
    "synced: True",
  ]);
});

test("with writeback_cache too, close() and fsync() put the data on the node", async () => {
  const change = py`
    put("written back", pattern(1_000_000))
    fd = os.open("synced back", os.O_WRONLY | os.O_CREAT, 0o644); os.write(fd, pattern(1_000_000, 2)); os.fsync(fd)
  `;
  const look = py`show("closed", get("written back") == pattern(1_000_000)); show("synced", get("synced back") == pattern(1_000_000, 2))`;
  expect(await afterKill(change, look, ["-o", "writeback_cache"])).toEqual(["closed: True", "synced: True"]);
});

test("what stays buffered in an open file goes to the node by itself after some seconds", async () => {
  const mount = await TestMount.mount(node);
  const look = py`
    deadline = time.monotonic() + ${FLUSHED_BY_ITSELF_MS / 1000}
    while os.stat("open").st_size == 0 and time.monotonic() < deadline: time.sleep(0.1)
    show("open", get("open") == pattern(100_000)); show("stat", st("open"))
  `;
  expect(await python(mount.path, look)).toEqual(["open: True", "stat: file, 0600, nlink 1, 0:0, size 100000"]);
  expect(buffering.exitCode).toBeNull();
  await mount.unmount();
});
