/** kiseki transports: by what content can be moved, on this machine and to a storage node. */
import type { Command } from "commander";
import { withNodeOptions } from "../shared/node-options.ts";
import type { TransportsOptions } from "./options.ts";

export function registerTransports(program: Command): void {
  const transports = program
    .command("transports")
    .description("show by what content can be moved, and try each: to a storage node where one is given");
  withNodeOptions(transports, { optional: true })
    .option(
      "--fabric-interface <address>",
      "our IP address on the fabric, or the device (mlx5_0) (default: that of the connection to the node)",
    )
    .option("--json", "as JSON: one object for each")
    .action(async (options: TransportsOptions) => {
      const { transportsCommand } = await import("./run.ts");
      await transportsCommand(options);
    });
}
