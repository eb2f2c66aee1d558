/** kiseki cache: what is in the caches of running mounts, and how to empty them. */
import type { Command } from "commander";
import type { CacheStatsOptions, CacheWipeOptions } from "./options.ts";

export function registerCache(program: Command): void {
  const cache = program.command("cache").description("look at the caches of running mounts, or wipe them");
  cache
    .command("stats")
    .description("what is kept, and how well it serves: of one mount, or of all mounts of this user (root: of everybody)")
    .argument("[mountpoint]")
    .option("--json", "as JSON: one object a line")
    .option("--watch [seconds]", "again and again (default: every 2 seconds), until Ctrl-C")
    .action(async (mountpoint: string | undefined, options: CacheStatsOptions) => {
      const { cacheStats } = await import("./run.ts");
      await cacheStats(mountpoint, options);
    });
  cache
    .command("wipe")
    .description("overwrite and delete all that is kept in memory and on disk, staged datasets too")
    .argument("[mountpoint]")
    .option("--json", "as JSON: one object a line")
    .action(async (mountpoint: string | undefined, options: CacheWipeOptions) => {
      const { cacheWipe } = await import("./run.ts");
      await cacheWipe(mountpoint, options);
    });
}
