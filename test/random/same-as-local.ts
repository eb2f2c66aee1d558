/** Random sequences of operations on a mount and on a local folder at once: what the model and the data suite have in common. */
import { expect } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { TestMount, TestNode, tempFolder } from "../support/harness.ts";
import { Driver } from "./driver.ts";
import { type Operation, showOperations } from "./operations.ts";
import { howToRepeat, SEED } from "./settings.ts";

/** A remount takes as long as a hundred operations. */
const RUNS_PER_REMOUNT = 12;

export interface SameAsLocal {
  /** The suite's name, in what is printed to repeat a run. */
  suite: string;
  /** Operations in all, and of one sequence at most: long enough to get into trouble, short enough to shrink. */
  operations: number;
  sequenceMax: number;
  /** What most sequences begin with. */
  setup: readonly Operation[];
  anyOperation: fc.Arbitrary<Operation>;
  mountArgs: string[];
}

interface Difference {
  index: number;
  op: Operation;
  results: unknown[];
}

/** How long a test of so many operations may take. */
export function timeoutMs(operations: number): number {
  return 120_000 + operations * 20;
}

/**
 * Runs the sequences and compares results, errnos, content and attributes, through the mount that did them, through a second mount, and
 * after remounts. Throws the shrunk sequence that differs.
 */
export async function expectSameAsLocal({ suite, operations, sequenceMax, setup, anyOperation, mountArgs }: SameAsLocal): Promise<void> {
  console.log(howToRepeat(suite));
  const node = await TestNode.start();
  const options = { args: mountArgs };
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
    const sequence = withSetup ? [...setup, ...random] : random;
    const folder = `run-${++runs}`;
    const [here, there] = [join(mount.path, folder), join(local, folder)];
    await driver.call("mkdir", [[here, there]]);
    const cut = sequence.length >> 1;
    const remounts = runs % RUNS_PER_REMOUNT === 0;
    let failure = await driver.call<Difference | null>("model", [[here, there], sequence.slice(0, cut), !remounts]);
    if (failure === null && remounts) await remount();
    failure ??= await driver.call<Difference | null>("model", [[here, there], sequence.slice(cut)]);
    if (failure !== null) {
      const [onMount, onLocal] = failure.results;
      throw new Error(`${JSON.stringify(failure.op)}\n  mount: ${JSON.stringify(onMount)}\n  local: ${JSON.stringify(onLocal)}`);
    }
    for (const [through, path] of [
      ["the same mount", here],
      ["another mount", join(other.path, folder)],
    ]) {
      expect({ through, differs: await driver.call("compare", [path, there]) }).toEqual({ through, differs: [] });
    }
  };

  // fast-check makes sequences of half the greatest length on average.
  const numRuns = Math.max(1, Math.round(operations / (sequenceMax / 2)));
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 9 }).map((n) => n > 0),
      fc.array(anyOperation, { minLength: 1, maxLength: sequenceMax, size: "max" }),
      check,
    ),
    {
      seed: SEED,
      numRuns,
      reporter: (details) => {
        if (!details.failed) return;
        const [withSetup, random] = details.counterexample ?? [false, []];
        const shown = showOperations(withSetup ? [...setup, ...random] : random);
        const cause = details.errorInstance instanceof Error ? details.errorInstance.message : String(details.errorInstance);
        throw new Error(`${howToRepeat(suite)}\nsequence ${details.numRuns}, shrunk ${details.numShrinks} times:\n${shown}\n${cause}`);
      },
    },
  );
  // What stands on the node, without anything that a client remembers.
  await remount();
  expect(await driver.call("compare", [mount.path, local])).toEqual([]);
  await driver.end();
}
