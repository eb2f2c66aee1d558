/** The command table. What a command does is in the file of its name in src/cli. */
import { registerCache } from "./cli/cache.ts";
import { registerMount } from "./cli/mount.ts";
import { registerNamespace } from "./cli/namespace.ts";
import { registerPolicy } from "./cli/policy.ts";
import { createProgram, run } from "./cli/run.ts";
import { registerScrub } from "./cli/scrub.ts";
import { registerServe } from "./cli/serve.ts";
import { registerStage } from "./cli/stage.ts";
import { registerTenant } from "./cli/tenant.ts";
import { registerUmount } from "./cli/umount.ts";

const program = createProgram();
registerMount(program);
registerUmount(program);
registerServe(program);
registerTenant(program);
registerNamespace(program);
registerCache(program);
registerScrub(program);
registerStage(program);
registerPolicy(program);
await run(program);
