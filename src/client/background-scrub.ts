/** At the start of a mount: what dead processes have left in its cache_dir is destroyed, in a process of its own. */
import type { CacheFolder } from "../cache/pool/cache-folder.ts";
import { scrub } from "../cache/pool/scrub.ts";
import type { Logger } from "../log.ts";
import { ownCommand } from "../process/own-command.ts";

/**
 * Looks for dead pools (some system calls for each), and starts `kiseki scrub` where there are any: overwriting gigabytes would take turns
 * from the requests. Resolves when all is done, which may be after hours; never rejects. What it did, or could not do, is logged.
 */
export async function scrubInBackground(folder: CacheFolder, log: Logger): Promise<void> {
  try {
    const dead = (await scrub(folder, { dryRun: true })).filter(({ state }) => state !== "live").length;
    if (dead === 0 && folder.unfinished().length === 0) return;
    if (dead > 0) log.info({ pools: dead }, "processes that died have left cached data: it is overwritten and deleted in the background");
    const child = Bun.spawn([...ownCommand(), "scrub", "--cache-dir", folder.path], {
      cwd: "/",
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    child.unref();
    const [said, complaint] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    if ((await child.exited) === 0) log.info(said.trim());
    else log.warn(`${folder.path} could not be scrubbed: ${complaint.trim()}`);
  } catch (error) {
    log.warn({ err: error }, `${folder.path} could not be scrubbed`);
  }
}
