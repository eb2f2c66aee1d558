/** kiseki stage: brings datasets into a pool ahead of their use, and lets go of them. */
import { type Command, Option } from "commander";
import { MOUNT_OPTIONS, type MountOptionName } from "../../config/mount-options.ts";
import { givenLongOptions, type LongOptions, toLongOption } from "../shared/long-options.ts";
import type { StageOrder } from "./options.ts";

/** Of a mount's options, those that a staging daemon has too. */
const OPTIONS: readonly MountOptionName[] = [
  "data_addr",
  "tenant",
  "namespace",
  "credentials",
  "passphrase_file",
  "cache_dir",
  "cache_l1_max",
  "cache_l2_max",
  "workload",
  "log_level",
  "log_file",
];

interface StageOptions extends LongOptions {
  dataset?: string;
  timeout?: string;
  daemon?: boolean;
  status?: boolean;
  release?: string;
  releaseAll?: boolean;
  pool?: string;
  json?: boolean;
}

export function registerStage(program: Command): void {
  const command = program
    .command("stage")
    .description("bring datasets into a cache pool before they are used, and keep them there until they are released")
    .addOption(
      new Option("--dataset <path>", "stage this folder or file of the mount's tree").conflicts(["status", "release", "releaseAll"]),
    )
    .option("--timeout <seconds>", "give up after this long; what was fetched stays for the next try")
    .option("--daemon", "stage into a pool that waits for a mount with its pool_id, and print the id when all is there")
    .addOption(new Option("--status", "list the datasets in the pools").conflicts(["release", "releaseAll"]))
    .addOption(new Option("--release <path>", "let go of a dataset: it is overwritten and deleted").conflicts("releaseAll"))
    .option("--release-all", "let go of all; a staging daemon then ends, and its pool is deleted")
    .option("--pool <id>", "this pool only (default: the only living one of the tenant)")
    .option("--json", "with --status: one object a line");
  for (const option of MOUNT_OPTIONS) if (OPTIONS.includes(option.name)) command.addOption(toLongOption(option));
  command.action(async (options: StageOptions) => {
    const { runStage } = await import("./run.ts");
    const order: StageOrder = {
      given: givenLongOptions(options),
      dataset: options.dataset,
      timeout: options.timeout,
      daemon: options.daemon === true,
      status: options.status === true,
      release: options.release,
      releaseAll: options.releaseAll === true,
      pool: options.pool,
      json: options.json === true,
    };
    await runStage(order);
  });

  // The daemon. As with a mount, its settings come through standard input.
  program
    .command("stage-process", { hidden: true })
    .argument("[what]", "only for who looks at the list of processes")
    .action(async () => {
      const { runStageProcess } = await import("./background.ts");
      await runStageProcess();
    });
}
