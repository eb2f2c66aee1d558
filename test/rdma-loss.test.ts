/** RDMA between two virtual machines, a storage node and a mount, over a network that loses packets. See rdma.test.ts. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cleanUp } from "./support/harness.ts";
import { MACHINE_PATIENCE_MS, seenInMachine } from "./support/rdma-machine.ts";

setDefaultTimeout(MACHINE_PATIENCE_MS);
afterAll(cleanUp);

test("two machines and a network that loses packets: content goes by RDMA, and is the same", async () => {
  expect(await seenInMachine("two.sh", "guest-loss.sh")).toEqual([
    0,
    "PASS packets were lost on the way",
    "PASS content goes by RDMA, and is the same, though packets are lost",
  ]);
});
