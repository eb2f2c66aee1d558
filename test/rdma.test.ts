/**
 * RDMA for real, on a machine without the hardware: a small virtual machine with RoCE in software (rdma_rxe), in which a storage node and a mount
 * move content by ibverbs and by libfabric's verbs. It shows that it works, not how fast: every instruction is emulated.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cleanUp } from "./support/harness.ts";
import { MACHINE_PATIENCE_MS, seenInMachine } from "./support/rdma-machine.ts";

setDefaultTimeout(MACHINE_PATIENCE_MS);
afterAll(cleanUp);

test("a mount's content goes by RDMA through verbs, and by TLS when the fabric's network is down", async () => {
  expect(await seenInMachine("run.sh", "guest.sh")).toEqual([
    0,
    "PASS writes from 1 byte to 4 MiB, aligned or not",
    "PASS reads from 1 byte to 4 MiB",
    "PASS many at a time to two peers, as many as there is room for",
    "PASS wrong keys and places are refused, nothing is written, and other peers go on",
    "PASS a peer that is gone and forgotten: what is under way ends, and others go on",
    "PASS names that are none are refused",
    "PASS 1,000 peers that come and go leave no descriptor and no pinned memory",
    "PASS a closed endpoint refuses what comes late",
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
