/** kiseki serve: runs a storage node in the foreground, or verifies its data. */
import { type Command, Option } from "commander";
import { enterServingEnvironment } from "../../process/own-command.ts";
import type { ServeOptions } from "./options.ts";

export function registerServe(program: Command): void {
  program
    .command("serve")
    .description("run a storage node; the first start makes its data folder, with a new cluster's keys")
    .requiredOption("--data-dir <dir>", "folder of all the node's data")
    .option("--listen <host:port>", "address to listen on; port 0 takes a free one (see DIR/listen)", "0.0.0.0:9100")
    .option("--gc-grace <time>", "chunks that nothing refers to are kept this long; on a disk that is 90 % full, 1 s", "30s")
    .option("--transports <list>", "fabrics for content, besides TLS: auto, tcp, cxi, verbs or libfabric:PROVIDER, with commas", "auto")
    .option("--fabric-interface <address>", "our IP address on the fabric, or the device (mlx5_0) (default: the one of --listen)")
    .addOption(
      new Option("--log-level <level>", "least severe messages to log")
        .choices(["trace", "debug", "info", "warn", "error"])
        .default("info"),
    )
    .option("--log-file <file>", "where the log is appended (default: standard error); SIGHUP and SIGUSR1 open it anew")
    .option("--restored", "the data folder is a backup that was restored: mounts from before must be mounted anew (for one start only)")
    .option("--verify", "read every record and chunk, report damage, and exit: 0 if there is none")
    .action(async (options: ServeOptions) => {
      enterServingEnvironment();
      const { serve } = await import("./run.ts");
      await serve(options);
    });
}
