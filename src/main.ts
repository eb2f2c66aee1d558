/** The command table. What a command does is in the file of its name in src/cli. */
import { forbidDumps } from "../ffi/libc/protect.ts";
import { registerCache } from "./cli/cache/command.ts";
import { registerGc } from "./cli/gc/command.ts";
import { registerMount } from "./cli/mount/command.ts";
import { registerNamespace } from "./cli/namespace/command.ts";
import { registerPolicy } from "./cli/policy/command.ts";
import { registerScrub } from "./cli/scrub/command.ts";
import { registerServe } from "./cli/serve/command.ts";
import { createProgram, run } from "./cli/shared/program.ts";
import { registerStage } from "./cli/stage/command.ts";
import { registerTenant } from "./cli/tenant/command.ts";
import { registerTransports } from "./cli/transports/command.ts";
import { registerUmount } from "./cli/umount/command.ts";

// Most commands hold keys. Where it is not allowed, they work all the same.
forbidDumps();
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
registerGc(program);
registerTransports(program);
await run(program);
