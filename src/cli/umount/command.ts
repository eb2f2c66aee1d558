/** kiseki umount: writes everything out, unmounts, and waits for the end of the mount's process. */
import type { Command } from "commander";

/** As umount(8) has them. */
export interface UmountOptions {
  /** Take the folder out of the tree now, and end the mount when its last file is closed. */
  readonly lazy?: boolean;
  /** Do not wait for what can't be written out: it is lost. */
  readonly force?: boolean;
}

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
