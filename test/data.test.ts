/**
 * Random overlapping writes, truncations, holes, appends and copies through several handles, on a mount and on a local file at once: what
 * read and mmap show must be the same, at once, through a second mount, and after a remount. The client has little memory, so that
 * much of it is written out and read again. KISEKI_TEST_OPS sets how many (a quarter of it), KISEKI_TEST_SEED which.
 */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { anyDataOperation, DATA_SETUP } from "./random/data-operations.ts";
import { Driver } from "./random/driver.ts";
import { type Operation, showOperations } from "./random/operations.ts";
import { howToRepeat, OPERATIONS, SEED } from "./random/settings.ts";
import { cleanUp, TestMount, TestNode, tempFolder } from "./support/harness.ts";

/** Operations of one sequence at most: long enough to get into trouble, short enough to shrink. */
const SEQUENCE_MAX = 60;
/** What fast-check makes of that on average. */
const SEQUENCE_MEAN = SEQUENCE_MAX / 2;
const RUNS = Math.max(1, Math.round(OPERATIONS / 4 / SEQUENCE_MEAN));
/** A remount takes as long as a hundred operations. */
const RUNS_PER_REMOUNT = 12;
const TIMEOUT_MS = 120_000 + OPERATIONS * 20;

interface Difference {
  index: number;
  op: Operation;
  results: unknown[];
}

afterAll(cleanUp);

test(
  `${Math.round(OPERATIONS / 4)} random reads and writes do the same as on a local filesystem`,
  async () => {
    console.log(howToRepeat("data"));
    const node = await TestNode.start();
    const options = { args: ["--cache-l1-max", "32M"] };
    let mount = await TestMount.mount(node, options);
    const other = await TestMount.mount(node, options);
    const local = join(tempFolder("local-"), "tree");
    const driver = new Driver();
    await driver.call("mkdir", [[local]]);
    let runs = 0;

    const remount = async (): Promise<void> => {
      await mount.unmount();
      mount = await TestMount.mount(node, { ...options, path: mount.path });
    };
    const check = async (withSetup: boolean, random: readonly Operation[]): Promise<void> => {
      const operations = withSetup ? [...DATA_SETUP, ...random] : random;
      const folder = `run-${++runs}`;
      const [here, there] = [join(mount.path, folder), join(local, folder)];
      await driver.call("mkdir", [[here, there]]);
      const cut = operations.length >> 1;
      const remounts = runs % RUNS_PER_REMOUNT === 0;
      let failure = await driver.call<Difference | null>("model", [[here, there], operations.slice(0, cut), !remounts]);
      if (failure === null && remounts) await remount();
      failure ??= await driver.call<Difference | null>("model", [[here, there], operations.slice(cut)]);
      if (failure !== null) {
        throw new Error(
          `${JSON.stringify(failure.op)}\n  mount: ${JSON.stringify(failure.results[0])}\n  local: ${JSON.stringify(failure.results[1])}`,
        );
      }
      expect({ through: "the same mount", differs: await driver.call("compare", [here, there]) }).toEqual({
        through: "the same mount",
        differs: [],
      });
      const across = join(other.path, folder);
      expect({ through: "another mount", differs: await driver.call("compare", [across, there]) }).toEqual({
        through: "another mount",
        differs: [],
      });
    };

    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 9 }).map((n) => n > 0),
        fc.array(anyDataOperation, { minLength: 1, maxLength: SEQUENCE_MAX, size: "max" }),
        check,
      ),
      {
        seed: SEED,
        numRuns: RUNS,
        reporter: (details) => {
          if (!details.failed) return;
          const [withSetup, random] = details.counterexample ?? [false, []];
          const operations = withSetup ? [...DATA_SETUP, ...random] : random;
          const cause = details.errorInstance instanceof Error ? details.errorInstance.message : String(details.errorInstance);
          throw new Error(
            `${howToRepeat("data")}\nsequence ${details.numRuns}, shrunk ${details.numShrinks} times:\n${showOperations(operations)}\n${cause}`,
          );
        },
      },
    );
    // What stands on the node, without anything that a client remembers.
    await remount();
    expect(await driver.call("compare", [mount.path, local])).toEqual([]);
    await driver.end();
  },
  TIMEOUT_MS,
);
