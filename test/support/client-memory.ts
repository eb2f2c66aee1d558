/**
 * Clients in little memory: with KISEKI_TEST_CLIENT_MEMORY=512M every `kiseki mount` that a test starts gets a memory cgroup of its own
 * with that limit, swap included. A client that needs more is killed by the kernel, and the test fails.
 */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const LIMIT = process.env.KISEKI_TEST_CLIENT_MEMORY ?? "";
/** Where the hierarchies are: that of memory alone (version 1), or the only one (version 2). See cgroups(7). */
const V1 = "/sys/fs/cgroup/memory";
const V2 = "/sys/fs/cgroup";
const GONE_TRIES = 100;
const GONE_POLL_MS = 20;

interface Files {
  readonly root: string;
  /** Take the limit, in this order. */
  readonly limits: readonly (readonly [file: string, value: string])[];
  /** The most that was used, in bytes. */
  readonly peak: string;
  /** Has a line `oom_kill N`. */
  readonly events: string;
}

function files(): Files {
  if (existsSync(join(V1, "memory.limit_in_bytes"))) {
    const withSwap = existsSync(join(V1, "memory.memsw.limit_in_bytes")) ? ([["memory.memsw.limit_in_bytes", LIMIT]] as const) : [];
    return {
      root: V1,
      limits: [["memory.limit_in_bytes", LIMIT], ...withSwap],
      peak: "memory.max_usage_in_bytes",
      events: "memory.oom_control",
    };
  }
  const controllers = join(V2, "cgroup.controllers");
  if (!existsSync(controllers) || !readFileSync(controllers, "utf8").includes("memory")) {
    throw new Error("KISEKI_TEST_CLIENT_MEMORY: there is no memory cgroup controller here");
  }
  writeFileSync(join(V2, "cgroup.subtree_control"), "+memory");
  return {
    root: V2,
    limits: [
      ["memory.max", LIMIT],
      ["memory.swap.max", "0"],
    ],
    peak: "memory.peak",
    events: "memory.events",
  };
}

export interface Limited {
  /** Stands in for the binary. */
  readonly path: string;
  /** When the clients have ended. @throws Error when the kernel killed one of them for want of memory */
  end(): void;
}

/**
 * A stand-in for the binary: as `mount`, or as mount(8)'s helper, it moves itself into a new cgroup first; then it becomes `binary`, under
 * the name by which it was called. It must get by as another user and in another pid namespace. Null: clients are not limited.
 */
export function limitClientMemory(binary: string): Limited | null {
  if (LIMIT === "") return null;
  const { root, limits, peak, events } = files();
  const parent = mkdtempSync(join(root, "kiseki-test-"));
  chmodSync(parent, 0o777);
  if (root === V2) writeFileSync(join(parent, "cgroup.subtree_control"), "+memory");
  const folder = mkdtempSync(join(tmpdir(), "kiseki-test-limited-"));
  chmodSync(folder, 0o755);
  const path = join(folder, "kiseki");
  const limit = limits.map(([file, value]) => `echo ${value} > "$group/${file}"`).join(" && ");
  writeFileSync(
    path,
    `#!/bin/bash
if [ "\${1-}" = mount ] || [ "\${0##*/}" = mount.kiseki ]; then
  group=$(${Bun.which("mktemp")} -d ${parent}/client-XXXXXXXX) && ${limit} && echo 0 > "$group/cgroup.procs" || exit 99
fi
exec -a "$0" ${binary} "$@"
`,
    { mode: 0o755 },
  );
  const end = () => {
    rmSync(folder, { recursive: true, force: true });
    const groups = readdirSync(parent).filter((name) => name.startsWith("client-"));
    const peaks: number[] = [];
    let killed = 0;
    for (const group of groups.map((name) => join(parent, name))) {
      peaks.push(Number(readFileSync(join(group, peak), "utf8")));
      killed += Number(/^oom_kill (\d+)$/m.exec(readFileSync(join(group, events), "utf8"))?.[1] ?? 0);
      removeGroup(group);
    }
    removeGroup(parent);
    const used = groups.length === 0 ? "" : `, they took at most ${Math.ceil(Math.max(...peaks) / 2 ** 20)} MiB`;
    console.log(`${groups.length} clients were limited to ${LIMIT}${used}`);
    if (killed > 0) throw new Error(`${killed} clients needed more than ${LIMIT}`);
  };
  return { path, end };
}

/** A process that has just ended may still count. */
function removeGroup(path: string): void {
  for (let tries = 0; ; tries++) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      if (tries === GONE_TRIES) throw error;
      Bun.sleepSync(GONE_POLL_MS);
    }
  }
}
