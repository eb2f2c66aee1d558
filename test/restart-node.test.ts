/** The storage node is restarted or killed under mounts with writers: they go on, and nothing that was acknowledged is lost. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cleanEnvironment, cleanUp, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(150_000);

const RESTARTS = 4;
const BETWEEN_RESTARTS_MS = 700;

/**
 * Does until it is told to stop by a file: append a numbered record to "journal" and fsync it; create, write and close a file; rename it; make
 * and remove a folder; link. Each step that was acknowledged is printed to a local file, so that the test knows what must be there.
 */
const WRITER = `
import os, sys
where, acknowledged, stop = sys.argv[1:]
os.chdir(where)
ack = open(acknowledged, "w", buffering=1)
journal = os.open("journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
i = 0
while not os.path.exists(stop):
    if os.write(journal, b"%09d\\n" % i) != 10: sys.exit("short write")
    os.fsync(journal)
    with open(f"new-{i}", "x") as f: f.write(f"content {i}\\n" * (i % 2000))
    os.rename(f"new-{i}", f"file-{i}")
    os.mkdir(f"folder-{i}")
    if i % 2: os.rmdir(f"folder-{i}")
    os.link(f"file-{i}", f"link-{i}")
    if i % 3 == 0: os.unlink(f"file-{i}")
    print(i, file=ack)
    i += 1
os.close(journal)
`;

let node: TestNode;

beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(cleanUp);

/** Everything that the writer's `count` acknowledged rounds have left, exactly; and nothing else. */
async function expectWritten(folder: string, count: number): Promise<void> {
  expect(await runOk("cat", [join(folder, "journal")])).toBe(
    Array.from({ length: count }, (_, i) => `${String(i).padStart(9, "0")}\n`).join(""),
  );
  const expected: string[] = ["f 1 journal"];
  for (let i = 0; i < count; i++) {
    if (i % 3 !== 0) expected.push(`f 2 file-${i}`);
    expected.push(`f ${i % 3 === 0 ? 1 : 2} link-${i}`);
    if (i % 2 === 0) expected.push(`d 2 folder-${i}`);
  }
  expect((await runOk("find", [".", "-mindepth", "1", "-printf", "%y %n %P\\n"], { cwd: folder })).trim().split("\n").sort()).toEqual(
    expected.sort(),
  );
  const sums = await runOk("bash", ["-c", "cat $(ls -v | grep ^link-) | sha256sum"], { cwd: folder });
  const local = "import sys\nfor i in range(int(sys.argv[1])): sys.stdout.write(f'content {i}\\n' * (i % 2000))";
  expect(sums).toBe(await runOk("bash", ["-c", `python3 -c "$1" ${count} | sha256sum`, "bash", local]));
}

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`${signal} and start of the node, ${RESTARTS} times: the writer goes on, each step is done once, also seen elsewhere`, async () => {
    const mount = await TestMount.mount(node);
    const folder = join(mount.path, signal);
    await runOk("mkdir", [folder]);
    const local = tempFolder("restart-");
    const [acknowledged, stop] = [join(local, "acknowledged"), join(local, "stop")];
    const writer = Bun.spawn(["python3", "-c", WRITER, folder, acknowledged, stop], {
      env: cleanEnvironment(),
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    const rounds = () => (existsSync(acknowledged) ? readFileSync(acknowledged, "utf8").split("\n").length - 1 : 0);
    while (rounds() === 0 && writer.exitCode === null) await Bun.sleep(50);
    await Bun.sleep(BETWEEN_RESTARTS_MS);
    for (let i = 0; i < RESTARTS; i++) {
      const before = rounds();
      await node.restart(signal);
      await Bun.sleep(BETWEEN_RESTARTS_MS);
      while (rounds() === before && writer.exitCode === null) await Bun.sleep(50);
    }
    mkdirSync(stop);
    expect(await new Response(writer.stderr).text()).toBe("");
    expect(await writer.exited).toBe(0);
    const count = rounds();
    expect(count).toBeGreaterThan(RESTARTS * 2);
    await expectWritten(folder, count);
    const elsewhere = await TestMount.mount(node);
    await expectWritten(join(elsewhere.path, signal), count);
    await elsewhere.unmount();
    await mount.unmount();
  });
}

test("what was fsynced and closed before kill -9 of the node is there without the client's help", async () => {
  const mount = await TestMount.mount(node);
  const script = `
import os
fd = os.open("fsynced", os.O_WRONLY | os.O_CREAT); os.write(fd, b"s" * 5_000_000); os.fsync(fd)
with open("closed", "w") as f: f.write("c" * 5_000_000)
with open("small", "w") as f: f.write("small")
os.setxattr("small", "user.a", b"b")
`;
  await runOk("python3", ["-c", script], { cwd: mount.path });
  await node.kill();
  await mount.kill();
  await node.restart();
  const again = await TestMount.mount(node);
  expect(
    await runOk("bash", ["-c", "tr -d s < fsynced | wc -c; wc -c < fsynced; tr -d c < closed | wc -c; wc -c < closed; cat small"], {
      cwd: again.path,
    }),
  ).toBe("0\n5000000\n0\n5000000\nsmall");
  expect(await runOk("getfattr", ["--only-values", "-n", "user.a", join(again.path, "small")])).toBe("b");
  await again.unmount();
});

test("a read that began while the node was down is answered when it is back", async () => {
  const mount = await TestMount.mount(node, { args: ["-o", "cache_mode=bypass"] });
  await node.kill();
  const reader = run("sha256sum", [join(mount.path, "fsynced")]);
  await Bun.sleep(1_000);
  await node.restart();
  const { status, stderr } = await reader;
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  await mount.unmount();
});

test("a large file that is being written while the node is killed twice is whole", async () => {
  const mount = await TestMount.mount(node);
  const source = "import hashlib, sys\nfor i in range(150): sys.stdout.buffer.write(hashlib.sha512(b'%d' % i).digest() * 16384)";
  const writer = runOk("bash", ["-c", `python3 -c "$1" > large`, "bash", source], { cwd: mount.path });
  for (let i = 0; i < 2; i++) {
    await Bun.sleep(150);
    await node.restart("SIGKILL");
  }
  await writer;
  const expected = await runOk("bash", ["-c", `python3 -c "$1" | sha256sum`, "bash", source]);
  await mount.unmount();
  const elsewhere = await TestMount.mount(node);
  expect(await runOk("bash", ["-c", "sha256sum < large"], { cwd: elsewhere.path })).toBe(expected);
  await elsewhere.unmount();
});

test("kiseki serve --verify finds no damage after all this", async () => {
  await node.stop();
  const { status, stdout } = await run(KISEKI, ["serve", "--data-dir", node.dataDir, "--verify"]);
  expect(stdout).toContain(" 0 damages");
  expect(status).toBe(0);
});
