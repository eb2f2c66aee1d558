/** kiseki umount: writes everything out, unmounts, and waits for the end of the mount's process. */
import type { Command } from "commander";
import type { UmountOptions } from "./options.ts";

export function registerUmount(program: Command): void {
  program
    .command("umount")
    .description("write everything out, then unmount")
    .argument("<mountpoint>")
    .option("-l, --lazy", "unmount now from the tree, and for good when nothing is open any more")
    .option("-f, --force", "do not write out first, and end the mount's process: what was not yet written is lost")
    .action(async (mountpoint: string, options: UmountOptions) => {
      const { unmount } = await import("./run.ts");
      await unmount(mountpoint, options);
    });
}
