/** Virtual machines with RDMA in software: see rdma-vm/build.sh. Each run builds its own (6 s). */
import { expect } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { KISEKI, run, runOk, tempFolder } from "./harness.ts";

const FOLDER = join(import.meta.dir, "../rdma-vm");
const BUILD_PATIENCE_MS = 100_000;
/** The longer one takes some 170 s where nothing else runs. */
const RUN_PATIENCE_S = 330;
/** For a test that builds and runs one. */
export const MACHINE_PATIENCE_MS = BUILD_PATIENCE_MS + (RUN_PATIENCE_S + 20) * 1_000;
const PROGRAMS = ["queue-pairs.ts", "without-ipc-lock.ts"];

/** @returns the folder with its kernel and initrd */
async function buildMachine(): Promise<string> {
  const machine = tempFolder("machine-");
  await runOk(join(FOLDER, "build.sh"), [machine], { timeoutMs: BUILD_PATIENCE_MS });
  return machine;
}

/** What machines find as /host, with `guest` as what they run. */
async function hostFolder(guest: string): Promise<string> {
  const host = tempFolder("host-");
  copyFileSync(KISEKI, join(host, "kiseki"));
  copyFileSync(join(FOLDER, guest), join(host, "run.sh"));
  const bundle = await Bun.build({ entrypoints: PROGRAMS.map((name) => join(FOLDER, name)), target: "bun", outdir: host });
  expect(bundle.success).toBeTrue();
  return host;
}

/**
 * Runs a guest's script in machines.
 * @param script run.sh: one, two.sh: two that are joined @param guest below rdma-vm
 * @returns the exit status, and the lines that say what was seen
 */
export async function seenInMachine(script: "run.sh" | "two.sh", guest: string): Promise<(number | string)[]> {
  const exchange = script === "two.sh" ? [tempFolder("exchange-")] : [];
  const { status, stdout } = await run(
    join(FOLDER, script),
    [await buildMachine(), await hostFolder(guest), ...exchange, String(RUN_PATIENCE_S)],
    {
      timeoutMs: (RUN_PATIENCE_S + 10) * 1_000,
    },
  );
  if (status !== 0) console.log(stdout);
  return [status, ...stdout.split(/\r?\n/).filter((line) => line.startsWith("PASS "))];
}
