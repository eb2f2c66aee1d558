/** What is left in the memory of a mount's process when it has been told to forget: looked for as root, in all of it. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { MIB } from "../src/protocol/limits.ts";
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

/** Writes and reads in every way that leaves content in the client: small and large files, buffered and direct, from memory, disk and node. */
const WORK = `
import os, sys, mmap
top, marker = sys.argv[1], bytes.fromhex(sys.argv[2])
def write(name, length):
    with open(top + "/" + name, "wb") as f: f.write((marker * (length // len(marker) + 1))[:length])
write("small", 100); write("middle", 50_000); write("large", 20 * 2**20 + 5)
os.setxattr(top + "/small", "user.a", marker * 4)
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

/** Crumbs in memory that the runtime has freed: from 0.2 to 0.6 MiB were seen. */
const CRUMBS_MAX_BYTES = 2 * MIB;

test("the KEK is nowhere in a mount's memory; after cache wipe and after a shred no content is but crumbs", async () => {
  const mount = await TestMount.mount(node, { args: ["-o", "cache_l1_max=32M"] });
  const marker = randomBytes(MARKER_BYTES);
  const work = (): Promise<string> => runOk("python3", ["-c", WORK, mount.path, marker.toString("hex")]);
  const { kek } = JSON.parse(readFileSync(await node.credentials("t"), "utf8")) as { kek: string };
  const needles = { content: marker, kek: Buffer.from(kek, "base64"), kekText: Buffer.from(kek) };
  await work();
  const before = image(mount, needles);
  expect(before.content).toBeGreaterThan((5 * MIB) / MARKER_BYTES);
  expect(before).toMatchObject({ kek: 0, kekText: 0 });

  const crumbs = CRUMBS_MAX_BYTES / MARKER_BYTES;
  expect(await kiseki(["cache", "wipe", mount.path])).toMatchObject({ status: 0 });
  expect(image(mount, needles).content).toBeLessThan(crumbs);

  await work();
  const args = ["tenant", "shred", "t", "--ca", join(node.dataDir, "pki"), "--data-addr", node.addr, "--yes"];
  expect(await kiseki(args)).toMatchObject({ status: 0 });
  const shreddedAt = performance.now();
  while ((mount.log().match(/the caches are wiped/g)?.length ?? 0) < 2) {
    if (performance.now() - shreddedAt > 20_000) throw new Error(`not wiped:\n${mount.log()}`);
    await Bun.sleep(50);
  }
  const after = image(mount, needles);
  expect(after.content).toBeLessThan(crumbs);
  expect(after).toMatchObject({ kek: 0, kekText: 0 });
});
