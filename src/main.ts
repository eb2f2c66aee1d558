/** The command table. What a command does is in the file of its name in src/cli. */
import { registerMount } from "./cli/mount.ts";
import { createProgram, run } from "./cli/run.ts";
import { registerUmount } from "./cli/umount.ts";

const program = createProgram();
registerMount(program);
registerUmount(program);
await run(program);
