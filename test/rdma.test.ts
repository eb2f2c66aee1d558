/**
 * RDMA for real, on a machine without the hardware: a small virtual machine with RoCE in software (rdma_rxe), in which a storage node and a mount
 * move content by ibverbs and by libfabric's verbs. It shows that it works, not how fast: every instruction is emulated.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, KISEKI, run, runOk, tempFolder } from "./support/harness.ts";

setDefaultTimeout(350_000);
afterAll(cleanUp);

const FOLDER = join(import.meta.dir, "rdma-vm");
const BUILD_PATIENCE_MS = 100_000;
/** Some 70 s where nothing else runs. */
const RUN_PATIENCE_S = 240;

test("a mount's content goes by RDMA through verbs, and by TLS when the fabric's network is down", async () => {
  const machine = tempFolder("machine-");
  await runOk(join(FOLDER, "build.sh"), [machine], { timeoutMs: BUILD_PATIENCE_MS });
  const host = tempFolder("host-");
  copyFileSync(KISEKI, join(host, "kiseki"));
  const bundle = await Bun.build({ entrypoints: [join(FOLDER, "queue-pairs.ts")], target: "bun", outdir: host });
  expect(bundle.success).toBeTrue();
  copyFileSync(join(FOLDER, "guest.sh"), join(host, "run.sh"));
  const { status, stdout } = await run(join(FOLDER, "run.sh"), [machine, host, String(RUN_PATIENCE_S)], {
    timeoutMs: (RUN_PATIENCE_S + 10) * 1_000,
  });
  const passed = stdout.split(/\r?\n/).filter((line) => line.startsWith("PASS "));
  if (status !== 0) console.log(stdout);
  expect([status, ...passed]).toEqual([
    0,
    "PASS writes from 1 byte to 4 MiB, aligned or not",
    "PASS reads from 1 byte to 4 MiB",
    "PASS many at a time to two peers, as many as there is room for",
    "PASS wrong keys and places are refused, nothing is written, and other peers go on",
    "PASS a peer that is gone and forgotten: what is under way ends, and others go on",
    "PASS names that are none are refused",
    "PASS 200 peers that come and go leave no descriptor and no pinned memory",
    "PASS memory that may not be pinned: an error that says how much, and by what limit",
    "PASS the node finds the device by itself",
    "PASS verbs is tried and chosen, before libfabric",
    "PASS a mount's content goes by RDMA, and is the same",
    "PASS what several wrote at a time by RDMA is read by TLS, and by libfabric",
    "PASS the fabric's network is down: TLS takes over",
    "PASS node and mount end in order",
  ]);
});
