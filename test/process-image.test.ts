/** What is left in the memory of a mount's process when it has been told to forget: looked for as root, in all of it. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readCredentialsFile } from "../src/crypto/credentials.ts";
import { KeyRing } from "../src/crypto/key-ring.ts";
import { BLOCK_BYTES, MIB } from "../src/protocol/limits.ts";
import { NodeClient } from "../src/transport/node-client.ts";
import { kiseki } from "./support/cli.ts";
import { cleanUp, KISEKI, runOk, TestMount, TestNode } from "./support/harness.ts";
import { countInImage } from "./support/process-image.ts";

setDefaultTimeout(120_000);
afterAll(cleanUp);

const KEY_HEALTH_MS = 500;
const MARKER_BYTES = 16;
let node: TestNode;
beforeAll(async () => {
  node = await TestNode.start();
  await runOk(KISEKI, ["policy", "set", `key_health_interval_ms=${KEY_HEALTH_MS}`, "--data-dir", node.dataDir]);
});

/**
 * Writes and reads in every way that leaves content in the client: buffered and direct, from memory, disk and node. The first marker is in chunks, the
 * second one in records: a small file and an extended attribute.
 */
const WORK = `
import os, sys, mmap
top, marker, small = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
def write(name, length, marker):
    with open(top + "/" + name, "wb") as f: f.write((marker * (length // len(marker) + 1))[:length])
write("small", 100, small); write("middle", 50_000, marker); write("large", 20 * 2**20 + 5, marker)
os.setxattr(top + "/small", "user.a", small * 4)
os.sync()
fd = os.open(top + "/direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT); block = mmap.mmap(-1, 2**20); block[:] = marker * (2**20 // len(marker)); os.write(fd, block); os.pread(fd, 4096, 0); os.close(fd)
open("/proc/sys/vm/drop_caches", "w").write("3")
for name in ["small", "middle", "large", "direct"]:
    with open(top + "/" + name, "rb") as f:
        while f.read(1 << 20): pass
`;

function image(mount: TestMount, needles: Record<string, Uint8Array>): Record<string, number> {
  mount.freeze();
  try {
    const counts = countInImage(mount.pid, Object.values(needles));
    return Object.fromEntries(Object.keys(needles).map((name, i) => [name, counts[i] ?? 0]));
  } finally {
    mount.resume();
  }
}

/** None was seen in ten runs; a block would be no surprise, as one that a read in flight was just opening. */
const CONTENT_MAX = BLOCK_BYTES / MARKER_BYTES;
/** A small file and an attribute are some ten times in memory that the runtime has freed. */
const SMALL_MAX = 150;

/** The tenant's data key, as its clients open it. */
async function dataKey(credentialsFile: string): Promise<Uint8Array> {
  const credentials = await readCredentialsFile(credentialsFile, async () => "");
  const client = new NodeClient({
    addrs: [node.addr],
    tls: credentials,
    sessionId: randomBytes(16),
    role: "meta",
    clientVersion: "test",
    requestTimeoutMs: 10_000,
    connectTimeoutMs: 10_000,
  });
  await client.connect();
  const { keys } = (await client.call("keyList", {})).answer;
  await client.close();
  const [first] = KeyRing.open(credentials.kek, keys).export().keys;
  if (first === undefined) throw new Error("the tenant has no data key");
  return new Uint8Array(first.key);
}

test("the KEK is nowhere in a mount's memory; after cache wipe and after a shred no content of chunks is, and no data key after the shred", async () => {
  const mount = await TestMount.mount(node, { args: ["-o", "cache_l1_max=32M"] });
  const [content, small] = [randomBytes(MARKER_BYTES), randomBytes(MARKER_BYTES)];
  const work = (): Promise<string> => runOk("python3", ["-c", WORK, mount.path, content.toString("hex"), small.toString("hex")]);
  const file = await node.credentials("t");
  const { kek } = JSON.parse(readFileSync(file, "utf8")) as { kek: string };
  const needles = { content, small, kek: Buffer.from(kek, "base64"), kekText: Buffer.from(kek), dataKey: await dataKey(file) };
  await work();
  const before = image(mount, needles);
  expect(before.content).toBeGreaterThan((5 * MIB) / MARKER_BYTES);
  expect(before.dataKey).toBeGreaterThan(0);
  expect(before).toMatchObject({ kek: 0, kekText: 0 });

  expect(await kiseki(["cache", "wipe", mount.path])).toMatchObject({ status: 0 });
  const wiped = image(mount, needles);
  expect(wiped.content).toBeLessThanOrEqual(CONTENT_MAX);
  expect(wiped.small).toBeLessThan(SMALL_MAX);

  await work();
  const args = ["tenant", "shred", "t", "--ca", join(node.dataDir, "pki"), "--data-addr", node.addr, "--yes"];
  expect(await kiseki(args)).toMatchObject({ status: 0 });
  const shreddedAt = performance.now();
  while ((mount.log().match(/the caches are wiped/g)?.length ?? 0) < 2) {
    if (performance.now() - shreddedAt > 20_000) throw new Error(`not wiped:\n${mount.log()}`);
    await Bun.sleep(50);
  }
  const after = image(mount, needles);
  expect(after.content).toBeLessThanOrEqual(CONTENT_MAX);
  expect(after.small).toBeLessThan(SMALL_MAX);
  expect(after).toMatchObject({ kek: 0, kekText: 0, dataKey: 0 });
});
