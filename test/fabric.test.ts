/** Content over a fabric (libfabric's net, which needs no hardware): the same bytes, and TLS takes over where the fabric fails. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(180_000);

const FABRIC = "libfabric:net";
/** Of the fabric alone: its connections are told by it from those of TLS. */
const FABRIC_ADDRESS = "127.0.0.9";
const SERVE = ["--transports", FABRIC, "--fabric-interface", FABRIC_ADDRESS];
const OVER_FABRIC = ["-o", `transport=${FABRIC},fabric_interface=${FABRIC_ADDRESS}`, "--cache-mode", "bypass"];
const PATIENCE_MS = 40_000;
const USED = "bodies go over the fabric net";
const NOT_USED = "bodies go by TLS";

let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start({ args: SERVE });
});
afterAll(cleanUp);

/** A file of random bytes beside the mount. */
async function source(mib: number): Promise<string> {
  const path = join(tempFolder("source-"), "bytes");
  await runOk("dd", ["if=/dev/urandom", `of=${path}`, "bs=1M", `count=${mib}`, "status=none"]);
  return path;
}

const copy = (from: string, to: string) => runOk("dd", [`if=${from}`, `of=${to}`, "bs=1M", "conv=fsync", "status=none"]);

async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await what())) {
    if (performance.now() > deadline) throw new Error(`waited for too long: ${what}`);
    await Bun.sleep(50);
  }
}

const timesIn = (log: string, words: string) => log.split(words).length - 1;

test("what is written over the fabric is read over it, and by TLS, and the other way round", async () => {
  const bytes = await source(50);
  const mount = await TestMount.mount(node, { args: OVER_FABRIC });
  await until(() => mount.log().includes(USED));
  const byTls = await TestMount.mount(node, { args: ["-o", "transport=tcp", "--cache-mode", "bypass"] });
  await copy(bytes, join(mount.path, "one"));
  await copy(bytes, join(byTls.path, "two"));
  // Ends within a block, and within a chunk.
  await runOk("truncate", ["-s", "20000003", join(mount.path, "one")]);
  await runOk("bash", ["-c", `cat ${bytes} >> one`], { cwd: mount.path });
  const expected = `${bytes}.expected`;
  await runOk("bash", ["-c", `head -c 20000003 ${bytes} > ${expected}; cat ${bytes} >> ${expected}`]);
  for (const { path } of [mount, byTls]) {
    await runOk("cmp", [expected, join(path, "one")]);
    await runOk("cmp", [bytes, join(path, "two")]);
  }
  expect(mount.log()).not.toContain(NOT_USED);
  expect(byTls.log()).not.toContain(USED);
  await mount.unmount();
  await byTls.unmount();
});

test("the fabric's connections are cut again and again under a writer and a reader: right bytes, no error, and it is used again", async () => {
  const bytes = await source(200);
  const mount = await TestMount.mount(node, { args: OVER_FABRIC });
  await until(() => mount.log().includes(USED));
  await copy(bytes, join(mount.path, "read"));
  let isOver = false;
  let cuts = 0;
  const cutting = (async () => {
    while (!isOver) {
      const { stdout } = await run("ss", ["-K", "-t", "-H", "dst", FABRIC_ADDRESS]);
      if (stdout.trim() !== "") cuts++;
      await Bun.sleep(150);
    }
  })();
  for (let round = 0; round < 5; round++) {
    await Promise.all([
      copy(bytes, join(mount.path, "written")),
      runOk("cmp", [bytes, join(mount.path, "read")]).then(() => runOk("cmp", [bytes, join(mount.path, "read")])),
    ]);
    await runOk("cmp", [bytes, join(mount.path, "written")]);
  }
  isOver = true;
  await cutting;
  expect(cuts).toBeGreaterThan(1);
  expect(mount.log()).toContain(NOT_USED);
  // It is tried again when something is to be moved.
  await until(async () => {
    await run("dd", [`if=${join(mount.path, "read")}`, "of=/dev/null", "bs=4M", "count=1", "iflag=direct"]);
    return mount.log().lastIndexOf(USED) > mount.log().lastIndexOf(NOT_USED);
  });
  await mount.unmount();
});

test("what went which way: kiseki cache stats, the metrics, kiseki transports", async () => {
  const bytes = await source(20);
  const mount = await TestMount.mount(node, { args: OVER_FABRIC });
  await until(() => mount.log().includes(USED));
  await copy(bytes, join(mount.path, "counted"));
  const stats = JSON.parse(await runOk(KISEKI, ["cache", "stats", mount.path, "--json"])).transport;
  expect(stats).toMatchObject({ fabric: "net", fallbacks: 0 });
  expect(stats.openPaths).toBeGreaterThan(0);
  expect(stats.fabricBytes).toBeWithin(20 * 1024 * 1024, 21 * 1024 * 1024);
  expect(await runOk(KISEKI, ["cache", "stats", mount.path])).toMatch(/^transport fabric net: 20\.\d MiB; by TLS /m);
  const where = ["--data-addr", node.addr, "--credentials", await node.credentials("t")];
  const rows = (await runOk(KISEKI, ["transports", ...where, "--fabric-interface", FABRIC_ADDRESS, "--json"]))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const row = (name: string) => rows.find(({ transport }) => transport === name);
  expect(row(FABRIC)).toMatchObject({
    device: expect.any(String),
    nodeDevice: expect.any(String),
    isChosen: false,
    reason: "only when it is named",
  });
  expect(row(FABRIC).bytesPerSecond).toBeGreaterThan(0);
  expect(row("libfabric:tcp;ofi_rxm").reason).toBe("the storage node does not offer it");
  expect(row("tcp")).toMatchObject({ isChosen: true, reason: "" });
  expect(await runOk(KISEKI, ["transports"])).toMatch(/^TRANSPORT +DEVICE\ncxi +- +no such device\nverbs /);
  await mount.unmount();
});

test("a node that comes back without the fabric, and with it again", async () => {
  const own = await TestNode.start();
  await own.restart("SIGTERM", SERVE);
  const bytes = await source(30);
  const mount = await TestMount.mount(own, { args: OVER_FABRIC });
  await until(() => mount.log().includes(USED));
  await own.restart("SIGKILL");
  await copy(bytes, join(mount.path, "a"));
  await runOk("cmp", [bytes, join(mount.path, "a")]);
  expect(mount.log()).toContain("this node uses no fabric");
  const before = timesIn(mount.log(), USED);
  await own.restart("SIGKILL", SERVE);
  await until(async () => {
    await run("cmp", [bytes, join(mount.path, "a")]);
    return timesIn(mount.log(), USED) > before;
  });
  await runOk("cmp", [bytes, join(mount.path, "a")]);
  await mount.unmount();
  await own.kill();
});

test("a node that is stopped, and one that is killed, while bytes move: writer and reader wait, no error, right bytes", async () => {
  const own = await TestNode.start();
  await own.restart("SIGTERM", SERVE);
  const bytes = await source(150);
  const mount = await TestMount.mount(own, { args: OVER_FABRIC });
  await until(() => mount.log().includes(USED));
  await copy(bytes, join(mount.path, "read"));
  let moved = 0;
  let hit = 0;
  let isOver = false;
  const moving = (async () => {
    for (let round = 0; !isOver; round++) {
      await Promise.all([copy(bytes, join(mount.path, `written${round % 2}`)), runOk("cmp", [bytes, join(mount.path, "read")])]);
      moved++;
    }
  })();
  for (let i = 0; i < 3; i++) {
    await Bun.sleep(300);
    const before = moved;
    own.freeze();
    await Bun.sleep(1_500);
    if (moved === before) hit++;
    own.resume();
    await Bun.sleep(700);
    await own.restart("SIGKILL", SERVE);
  }
  isOver = true;
  await moving;
  expect(hit).toBeGreaterThan(0);
  for (const name of ["read", "written0"]) await runOk("cmp", [bytes, join(mount.path, name)]);
  // The fabric is used again.
  const carried = async () => JSON.parse(await runOk(KISEKI, ["cache", "stats", mount.path, "--json"])).transport.fabricBytes;
  const before = await carried();
  await until(async () => {
    await runOk("dd", [`if=${join(mount.path, "read")}`, "of=/dev/null", "bs=4M", "count=4", "iflag=direct", "status=none"]);
    return (await carried()) > before;
  });
  await mount.unmount();
  await own.kill();
});

const mountArgs = async (of: TestNode, ...more: string[]) => {
  const folder = tempFolder("refused-");
  return ["mount", folder, "--data-addr", of.addr, "--credentials", await of.credentials("t"), "--cache-dir", `${folder}-cache`, ...more];
};

test("a transport that is named and not to be had fails the mount, in one line that says why", async () => {
  const own = await TestNode.start();
  const none = await run(KISEKI, await mountArgs(own, "-o", `transport=${FABRIC}`));
  expect(none).toMatchObject({
    status: 1,
    stderr: "kiseki: no fabric can be used: net: the storage node does not offer it; -o transport=tcp does without the fabric\n",
  });
  const wrong = await run(KISEKI, await mountArgs(own, "-o", "transport=carrier-pigeon"));
  expect(wrong.status).toBe(2);
  expect(wrong.stderr).toMatch(/^kiseki: -o transport: expected auto, tcp, cxi, verbs or libfabric:PROVIDER.*\n$/);
  const unreachable = await run(KISEKI, await mountArgs(node, "-o", `transport=${FABRIC},fabric_interface=203.0.113.7`));
  expect(unreachable.status).toBe(1);
  expect(unreachable.stderr).toMatch(/^kiseki: no fabric can be used: net \(203\.0\.113\.7\): .*\n$/);
  const serve = await run(KISEKI, ["serve", "--data-dir", tempFolder("serve-"), "--transports", "carrier-pigeon"]);
  expect(serve.status).toBe(2);
  expect(serve.stderr).toMatch(/^kiseki: --transports carrier-pigeon: expected .*\n$/);
  await own.kill();
});

test("without the library: auto goes on by TLS, a name says what is missing, a node serves", async () => {
  const hide = 'for f in $(ldconfig -p | grep -o "/.*libfabric.so.*"); do mount --bind /dev/null "$(readlink -f "$f")"; done; exec "$@"';
  const without = (args: string[]) => run("unshare", ["-m", "--propagation", "private", "bash", "-c", hide, "bash", ...args]);
  const named = await without([KISEKI, ...(await mountArgs(node, "-o", `transport=${FABRIC}`))]);
  expect(named.status).toBe(1);
  expect(named.stderr).toMatch(/^kiseki: no fabric can be used: net: .*libfabric.*\n$/);
  const listed = await without([KISEKI, "namespace", "list", "--data-addr", node.addr, "--credentials", await node.credentials("t")]);
  expect(listed).toMatchObject({ status: 0, stdout: "default\n" });
});
