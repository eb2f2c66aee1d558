/** kiseki gc: deletes stored chunks that nothing refers to, at once, and tells what it found. */
import type { Command } from "commander";
import { withNodeOptions } from "../shared/node-options.ts";
import type { GcOptions } from "./options.ts";

export function registerGc(program: Command): void {
  const gc = program
    .command("gc")
    .description("delete stored chunks that nothing refers to; a running node does so by itself, within a minute")
    .option("--data-dir <dir>", "data folder of a node that does not run: of all tenants");
  withNodeOptions(gc, { optional: true })
    .option("--dry-run", "only tell what would be deleted")
    .option("--json", "as JSON: one object for each tenant")
    .action(async (options: GcOptions) => {
      const { gcCommand } = await import("./run.ts");
      await gcCommand(options);
    });
}
