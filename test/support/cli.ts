/** kiseki as a user runs it: in the background, without a terminal. */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { KISEKI, onCleanUp, tempFolder } from "./resources.ts";
import { type RunOptions, type RunResult, run } from "./run.ts";
import { isMounted } from "./test-mount.ts";
import type { TestNode } from "./test-node.ts";

const EXIT_POLL_MS = 20;

/** Runs kiseki without a terminal: else /dev/tty would be that of whoever runs the tests. */
export async function kiseki(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return await run("setsid", ["--wait", KISEKI, ...args], options);
}

/** The long options that a mount of this node's tenant needs. */
export async function mountArguments(node: TestNode, tenant = "t"): Promise<string[]> {
  return ["--data-addr", node.addr, "--tenant", tenant, "--credentials", await node.credentials(tenant)];
}

/** Pids of living processes that serve a mount of exactly this folder. */
export function mountProcesses(path: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const [, command, folder] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        // A zombie has no command line.
        return command?.startsWith("mount") === true && folder === path;
      } catch {
        return false; // ended meanwhile
      }
    });
}

/** Waits until no process serves this folder any more. Returns whether that was within `patienceMs`. */
export async function mountProcessEnded(path: string, patienceMs: number): Promise<boolean> {
  const deadline = performance.now() + patienceMs;
  while (mountProcesses(path).length > 0) {
    if (performance.now() > deadline) return false;
    await Bun.sleep(EXIT_POLL_MS);
  }
  return true;
}

/** A new empty folder to mount on. What is mounted there at the end of the test file is ended, with its process. */
export function mountpoint(): string {
  const path = join(tempFolder("point-"), "mnt");
  mkdirSync(path);
  const endNow = () => {
    for (const pid of mountProcesses(path)) process.kill(pid, "SIGKILL");
    for (let i = 0; i < 4 && isMounted(path); i++) Bun.spawnSync(["umount", "-l", path], { stdio: ["ignore", "ignore", "ignore"] });
  };
  onCleanUp({ end: endNow, endNow });
  return path;
}
