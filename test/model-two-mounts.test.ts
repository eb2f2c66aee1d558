/**
 * Random operations through two mounts of one namespace, each through either, and on a local folder: with the kernel's caches off, leases
 * make every answer current, so that two mounts do the same as one local filesystem. KISEKI_TEST_OPS sets how many (a quarter of
 * it), KISEKI_TEST_SEED which.
 */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { Driver } from "./random/driver.ts";
import { anyOperationOfTwo, type Operation, showOperations } from "./random/operations.ts";
import { howToRepeat, OPERATIONS, SEED } from "./random/settings.ts";
import { cleanUp, TestMount, TestNode, tempFolder } from "./support/harness.ts";

const SEQUENCE_MAX = 100;
const SEQUENCE_MEAN = SEQUENCE_MAX / 2;
const RUNS = Math.max(1, Math.round(OPERATIONS / 4 / SEQUENCE_MEAN));
const TIMEOUT_MS = 120_000 + OPERATIONS * 20;

interface Difference {
  op: Operation;
  results: unknown[];
}

afterAll(cleanUp);

test(
  `${Math.round(OPERATIONS / 4)} random operations through two mounts do the same as on a local filesystem`,
  async () => {
    console.log(howToRepeat("model-two-mounts"));
    const node = await TestNode.start();
    const options = { args: ["-o", "attr_timeout=0,entry_timeout=0"] };
    const mounts = [await TestMount.mount(node, options), await TestMount.mount(node, options)];
    const local = join(tempFolder("local-"), "tree");
    const driver = new Driver();
    let runs = 0;

    const check = async (operations: readonly Operation[]): Promise<void> => {
      const folder = `run-${++runs}`;
      const there = join(local, folder);
      const here = mounts.map(({ path }) => join(path, folder));
      await driver.call("mkdir", [[here[0], there]]);
      const failure = await driver.call<Difference | null>("model", [[here, there], operations]);
      if (failure !== null) {
        throw new Error(
          `${JSON.stringify(failure.op)}\n  mounts: ${JSON.stringify(failure.results[0])}\n  local: ${JSON.stringify(failure.results[1])}`,
        );
      }
      for (const path of here) expect(await driver.call<unknown[]>("compare", [path, there])).toEqual([]);
    };

    await fc.assert(fc.asyncProperty(fc.array(anyOperationOfTwo, { minLength: 1, maxLength: SEQUENCE_MAX, size: "max" }), check), {
      seed: SEED,
      numRuns: RUNS,
      reporter: (details) => {
        if (!details.failed) return;
        const [operations] = details.counterexample ?? [[]];
        const cause = details.errorInstance instanceof Error ? details.errorInstance.message : String(details.errorInstance);
        throw new Error(
          `${howToRepeat("model-two-mounts")}\nsequence ${details.numRuns}, shrunk ${details.numShrinks} times:\n${showOperations(operations)}\n${cause}`,
        );
      },
    });
    await driver.end();
  },
  TIMEOUT_MS,
);
