/**
 * Runs a command without CAP_IPC_LOCK: what root pins counts against RLIMIT_MEMLOCK then, as it does for users.
 *   without-ipc-lock PROGRAM [ARGUMENT...]      capabilities(7), prctl(2)
 */
import { dlopen } from "bun:ffi";

const PR_CAPBSET_DROP = 24;
const CAP_IPC_LOCK = 14;

const { prctl } = dlopen("libc.so.6", { prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" } }).symbols;
if (prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) !== 0) throw new Error("prctl failed");
// The compiled kiseki is Bun itself where this variable is set.
const { BUN_BE_BUN: _, ...env } = process.env;
const { exitCode } = Bun.spawnSync(process.argv.slice(2), { env, stdio: ["ignore", "inherit", "inherit"] });
process.exit(exitCode);
