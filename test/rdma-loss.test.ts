/** RDMA between two virtual machines, a storage node and a mount, over a network that loses packets. See rdma.test.ts. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cleanUp } from "./support/harness.ts";
import { BUILD_PATIENCE_MS, buildMachine, MACHINE_PATIENCE_MS, seenInMachine } from "./support/rdma-machine.ts";

setDefaultTimeout(MACHINE_PATIENCE_MS);
afterAll(cleanUp);

let machine: string;
beforeAll(async () => {
  machine = await buildMachine();
}, BUILD_PATIENCE_MS);

test("two machines and a network that loses packets: content goes by RDMA, and is the same", async () => {
  expect(await seenInMachine(machine, "two.sh", "guest-loss.sh")).toEqual([
    0,
    "PASS packets were lost on the way",
    "PASS content goes by RDMA, and is the same, though packets are lost",
  ]);
});
