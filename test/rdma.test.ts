/**
 * RDMA for real, on a machine without the hardware: a small virtual machine with RoCE in software (rdma_rxe), in which a storage node and a mount
 * move content by ibverbs and by libfabric's verbs. It shows that it works, not how fast: every instruction is emulated.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, tempFolder } from "./support/harness.ts";

setDefaultTimeout(450_000);
afterAll(cleanUp);

const FOLDER = join(import.meta.dir, "rdma-vm");
const BUILD_PATIENCE_MS = 100_000;
/** The longer one takes some 150 s where nothing else runs. */
const RUN_PATIENCE_S = 400;
const PROGRAMS = ["queue-pairs.ts", "without-ipc-lock.ts"];

const machine = tempFolder("machine-");
beforeAll(async () => {
  await runOk(join(FOLDER, "build.sh"), [machine], { timeoutMs: BUILD_PATIENCE_MS });
}, BUILD_PATIENCE_MS);

/** What machines find as /host, with `guest` as what they run. */
async function hostFolder(guest: string): Promise<string> {
  const host = tempFolder("host-");
  copyFileSync(KISEKI, join(host, "kiseki"));
  copyFileSync(join(FOLDER, guest), join(host, "run.sh"));
  const bundle = await Bun.build({ entrypoints: PROGRAMS.map((name) => join(FOLDER, name)), target: "bun", outdir: host });
  expect(bundle.success).toBeTrue();
  return host;
}

/** The exit status, and what was seen. */
async function seen(script: string, ...folders: string[]): Promise<(number | string)[]> {
  const { status, stdout } = await run(join(FOLDER, script), [machine, ...folders, String(RUN_PATIENCE_S)], {
    timeoutMs: (RUN_PATIENCE_S + 10) * 1_000,
  });
  if (status !== 0) console.log(stdout);
  return [status, ...stdout.split(/\r?\n/).filter((line) => line.startsWith("PASS "))];
}

test("two machines and a network that loses packets: content goes by RDMA, and is the same", async () => {
  const exchange = tempFolder("exchange-");
  expect(await seen("two.sh", await hostFolder("guest-loss.sh"), exchange)).toEqual([
    0,
    "PASS packets were lost on the way",
    "PASS content goes by RDMA, and is the same, though packets are lost",
  ]);
});

test("a mount's content goes by RDMA through verbs, and by TLS when the fabric's network is down", async () => {
  expect(await seen("run.sh", await hostFolder("guest.sh"))).toEqual([
    0,
    "PASS writes from 1 byte to 4 MiB, aligned or not",
    "PASS reads from 1 byte to 4 MiB",
    "PASS many at a time to two peers, as many as there is room for",
    "PASS wrong keys and places are refused, nothing is written, and other peers go on",
    "PASS a peer that is gone and forgotten: what is under way ends, and others go on",
    "PASS names that are none are refused",
    "PASS 1,000 peers that come and go leave no descriptor and no pinned memory",
    "PASS memory that may not be pinned: an error that says how much, and by what limit",
    "PASS the node finds the device by itself",
    "PASS verbs is tried and chosen, before libfabric",
    "PASS a mount's content goes by RDMA, and is the same",
    "PASS what several wrote at a time by RDMA is read by TLS, and by libfabric",
    "PASS with little memory to pin there are fewer slots",
    "PASS a node with two adapters offers both, and the one that is reached is used",
    "PASS the fabric's network is down: TLS takes over",
    "PASS node and mount end in order",
  ]);
});
