/** The client is killed while programs write: what was closed or fsynced is there, every file has content that it once had. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cleanEnvironment, cleanUp, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(120_000);

const KILLS = 3;
const WRITE_MS = 1_500;
const RECORD_BYTES = 10;

/** Prints a line to a local file for each promise that it has got: closed (small or large), replaced by rename, fsynced up to a record. */
const WRITER = `
import os, sys
where, promises = sys.argv[1:]
os.chdir(where)
out = open(promises, "w", buffering=1)
journal = os.open("journal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
try:
    for i in range(10**9):
        os.write(journal, b"%09d\\n" % i)
        if i % 7 == 0:
            os.fsync(journal)
            print("fsynced", i, file=out)
        size = (i % 5) * 300_000
        with open(f"closed-{i}", "w") as f: f.write(f"{i}\\n" + "x" * size)
        print("closed", i, size, file=out)
        with open("new", "w") as f:
            f.write(f"{i}\\n" * 1000); f.flush(); os.fsync(f.fileno())
        os.rename("new", "replaced")
        print("replaced", i, file=out)
        if i % 4 == 3:
            os.unlink(f"closed-{i - 3}")
            print("unlinked", i - 3, file=out)
except OSError:
    print("end", file=out)
`;

let node: TestNode;

beforeAll(async () => {
  node = await TestNode.start();
});
afterAll(cleanUp);

test(`kill -9 of the client under a writer, ${KILLS} times`, async () => {
  for (let kill = 0; kill < KILLS; kill++) {
    const mount = await TestMount.mount(node);
    const name = `run-${kill}`;
    await runOk("mkdir", [join(mount.path, name)]);
    const promises = join(tempFolder("restart-"), "promises");
    const writer = Bun.spawn(["python3", "-c", WRITER, join(mount.path, name), promises], {
      env: cleanEnvironment(),
      stdio: ["ignore", "ignore", "ignore"],
    });
    await Bun.sleep(WRITE_MS + kill * 130);
    await mount.kill();
    await writer.exited;
    const again = await TestMount.mount(node);
    await expectKept(join(again.path, name), readFileSync(promises, "utf8").trim().split("\n"));
    await again.unmount();
  }
});

async function expectKept(folder: string, promises: readonly string[]): Promise<void> {
  expect(promises.at(-1)).toBe("end");
  const closed = new Map<number, number>();
  const unlinked = new Set<number>();
  let fsynced = -1;
  let replaced = -1;
  for (const promise of promises) {
    const [kind, i, size] = promise.split(" ");
    if (kind === "fsynced") fsynced = Number(i);
    if (kind === "closed") closed.set(Number(i), Number(size));
    if (kind === "replaced") replaced = Number(i);
    if (kind === "unlinked") unlinked.add(Number(i));
  }
  // A run in which nothing was promised shows nothing.
  expect(fsynced).toBeGreaterThan(0);
  expect(replaced).toBeGreaterThan(3);
  expect(unlinked.size).toBeGreaterThan(0);

  const listed = await runOk("find", [".", "-name", "closed-*", "-printf", "%f %s\\n"], { cwd: folder });
  const sizes = new Map(
    listed
      .trim()
      .split("\n")
      .map((line) => line.split(" ") as [string, string]),
  );
  const last = Math.max(...closed.keys());
  for (const [i, size] of closed) {
    // The unlink that was under way may have happened.
    if (!unlinked.has(i) && i !== last - 3) expect(sizes.get(`closed-${i}`), `closed-${i}`).toBe(String(`${i}\n`.length + size));
    if (unlinked.has(i)) expect(sizes.has(`closed-${i}`), `closed-${i}`).toBe(false);
  }
  const wrong = await runOk(
    "bash",
    ["-c", "for f in closed-*; do [ ! -s $f ] || [ closed-$(head -n 1 $f) = $f ] || echo $f; tail -n +2 $f | tr -d x | head -c 1; done"],
    { cwd: folder },
  );
  expect(wrong).toBe("");

  const journal = await runOk("cat", [join(folder, "journal")]);
  expect(journal.length).toBeGreaterThanOrEqual((fsynced + 1) * RECORD_BYTES);
  journal.match(/[\s\S]{1,10}/g)?.forEach((record, i) => {
    expect(`${String(i).padStart(9, "0")}\n`.startsWith(record)).toBe(true);
  });

  const lines = new Set((await runOk("cat", [join(folder, "replaced")])).trim().split("\n"));
  expect(lines.size).toBe(1);
  expect(Number([...lines][0])).toBeGreaterThanOrEqual(replaced);
  expect(Number([...lines][0])).toBeLessThanOrEqual(replaced + 1);
}

test("what a killed client had deleted while it was open takes no room, and --verify finds no damage", async () => {
  const mount = await TestMount.mount(node);
  const holder = Bun.spawn(
    [
      "python3",
      "-c",
      "import os, time\nf = open('held', 'wb'); f.write(os.urandom(20_000_000)); f.flush(); os.fsync(f.fileno())\nos.unlink('held'); print('ready', flush=True); time.sleep(600)",
    ],
    {
      cwd: mount.path,
      env: cleanEnvironment(),
      stdin: "ignore",
      stdout: "pipe",
    },
  );
  await holder.stdout.getReader().read();
  await mount.kill();
  holder.kill("SIGKILL");
  await holder.exited;
  const again = await TestMount.mount(node);
  expect((await run("stat", [join(again.path, "held")])).status).toBe(1);
  await again.unmount();
  await node.stop();
  const { status, stdout } = await run(KISEKI, ["serve", "--data-dir", node.dataDir, "--verify"]);
  expect(stdout).toContain(" 0 damages");
  expect(status).toBe(0);
});
