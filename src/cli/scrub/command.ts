/** kiseki scrub: destroys what processes that died have left in the disk cache. */
import type { Command } from "commander";
import type { ScrubCommandOptions } from "./options.ts";

export function registerScrub(program: Command): void {
  program
    .command("scrub")
    .description("overwrite and delete the cached data of processes that have died; never that of a living one")
    .option("--cache-dir <dir>", "folder of the disk cache (default: KISEKI_CACHE_DIR, else the usual one; root: that of every user)")
    .option("--watch <seconds>", "again and again, so long after the last time, until Ctrl-C")
    .option("--dry-run", "only tell what would be wiped")
    .option("--json", "as JSON: one object for each folder and time")
    .action(async (options: ScrubCommandOptions) => {
      const { scrubCommand } = await import("./run.ts");
      await scrubCommand(options);
    });
}
