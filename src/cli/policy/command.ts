/** kiseki policy: what the caches of clients may do. set, unset and get work on a node's data folder, whether or not the node runs. */
import { type Command, Option } from "commander";
import type { PolicyOptions, ShowEffectiveOptions } from "./options.ts";

function withLevel(command: Command): Command {
  return command
    .option("--tenant <name>", "the level of this tenant; without it: the cluster's")
    .option("--namespace <name>", "the level of this namespace of the tenant")
    .option("--workload <name>", "the level of the mounts of this namespace that give -o workload=NAME");
}

function withFolder(command: Command): Command {
  return withLevel(command.requiredOption("--data-dir <dir>", "the storage node's data folder"));
}

const KEYS_HELP = `
Keys:
  cache_enabled           true or false: whether memory or disk keeps anything
  allowed_modes           some of pinned,organic,bypass: what cache_mode may be
  mode                    cache_mode of mounts that ask for none
  max_cache_bytes         a size such as 10G: disk cache of one mount
  max_node_cache_bytes    a size: all disk caches in one cache_dir together
  metadata_ttl_ms         milliseconds, or a time such as 5s: age of names and attributes
  max_disconnect_seconds  seconds, or a time such as 5m: without a node, caches are wiped after it
  key_health_interval_ms  milliseconds, or a time such as 30s: how often keys are checked
  staging_enabled         true or false: whether kiseki stage may stage`;

const JSON_OPTION = ["--json", "print JSON"] as const;

export function registerPolicy(program: Command): void {
  const policy = program
    .command("policy")
    .description("what clients may cache: set by cluster, tenant, namespace, workload, each only narrowing those above it");
  withFolder(policy.command("set").description("set keys of one level; it applies to mounts that start from now on"))
    .argument("<key=value...>", "such as max_cache_bytes=10G metadata_ttl_ms=1s allowed_modes=organic,bypass")
    .addHelpText("after", KEYS_HELP)
    .action(async (words: string[], options: PolicyOptions) => {
      const { setPolicyCommand } = await import("./run.ts");
      await setPolicyCommand(words, options);
    });
  withFolder(policy.command("unset").description("take keys of one level back: those above it count again"))
    .argument("<key...>")
    .action(async (keys: string[], options: PolicyOptions) => {
      const { unsetPolicyCommand } = await import("./run.ts");
      await unsetPolicyCommand(keys, options);
    });
  withFolder(policy.command("get").description("print what one level says, or, where none is named, what all of them say"))
    .option(...JSON_OPTION)
    .action(async (options: PolicyOptions) => {
      const { getPolicyCommand } = await import("./run.ts");
      getPolicyCommand(options);
    });
  withLevel(policy.command("show-effective").description("print what all levels together come to"))
    .option("--data-dir <dir>", "on the storage node's host: its data folder")
    .addOption(new Option("--data-addr <host:port>", "as a client: storage nodes, comma-separated (KISEKI_DATA_ADDR)").conflicts("dataDir"))
    .addOption(new Option("--credentials <file>", "as a client: the tenant's credentials (KISEKI_CREDENTIALS)").conflicts("dataDir"))
    .option("--passphrase-file <file>", "passphrase of the credentials file, in its first line")
    .option(...JSON_OPTION)
    .action(async (options: ShowEffectiveOptions) => {
      const { showEffectiveCommand } = await import("./run.ts");
      await showEffectiveCommand(options);
    });
}
