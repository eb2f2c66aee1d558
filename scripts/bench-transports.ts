/**
 * What each way of moving content costs: one file written and read cold through a mount in bypass mode, by TLS and by the fabrics that need no hardware,
 * in turns, so that all see the same machine. Node, mount and program share it. MiB/s, and CPU seconds of client and node for each GiB.
 *
 *     bun scripts/bench-transports.ts [MiB of the file, default 1024] [rounds, default 5] [transport ...]
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const KISEKI = join(import.meta.dir, "../dist/kiseki");
const DEFAULT_TRANSPORTS = ["tcp", "libfabric:tcp;ofi_rxm", "libfabric:net"];
/** USER_HZ of every Linux. */
const TICKS_PER_SECOND = 100;

interface Cost {
  readonly mibPerSecond: number;
  readonly client: number;
  readonly node: number;
}

const [mibText = "1024", roundsText = "5", ...named] = process.argv.slice(2);
const MIBS = Number(mibText);
const transports = named.length > 0 ? named : DEFAULT_TRANSPORTS;
const work = mkdtempSync(join(tmpdir(), "kiseki-transports-"));
const mountpoint = join(work, "mnt");
const source = join(work, "source");
mkdirSync(mountpoint);
const fabrics = transports.filter((transport) => transport !== "tcp").join(",");
const node = Bun.spawn(
  [KISEKI, "serve", "--data-dir", join(work, "node"), "--listen", "127.0.0.1:0", "--log-level", "error", "--transports", fabrics || "tcp"],
  { stdout: "ignore", stderr: "inherit" },
);

function run(command: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
  return stdout.toString();
}

/** CPU seconds that a process has used so far, all its threads together. */
function cpuSeconds(pid: number): number {
  const [user, system] = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ")
    .slice(11, 13);
  return (Number(user) + Number(system)) / TICKS_PER_SECOND;
}

async function measure(transport: string, command: string[]): Promise<Cost> {
  const addr = readFileSync(join(work, "node/listen"), "utf8").trim();
  const options = ["--credentials", join(work, "t.json"), "--cache-mode", "bypass", "-o", `transport=${transport}`];
  const client = Bun.spawn(
    [KISEKI, "mount", mountpoint, "--foreground", "--data-addr", addr, ...options, "--log-file", join(work, "mount.log")],
    { stdout: "ignore", stderr: "inherit" },
  );
  while (!readFileSync("/proc/self/mounts", "utf8").includes(` ${mountpoint} `)) await Bun.sleep(50);
  // The Workers' paths are opened, and the compiler has had its first look.
  await Bun.sleep(1_000);
  writeFileSync("/proc/sys/vm/drop_caches", "3");
  if (command.includes(`if=${source}`)) run(["dd", `if=${source}`, "of=/dev/null", "bs=4M", "status=none"]);
  const before = [cpuSeconds(client.pid), cpuSeconds(node.pid)] as const;
  const begin = performance.now();
  run(command);
  const seconds = (performance.now() - begin) / 1_000;
  const gib = MIBS / 1_024;
  const cost = {
    mibPerSecond: MIBS / seconds,
    client: (cpuSeconds(client.pid) - before[0]) / gib,
    node: (cpuSeconds(node.pid) - before[1]) / gib,
  };
  run([KISEKI, "umount", mountpoint]);
  await client.exited;
  return cost;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

try {
  while (!existsSync(join(work, "node/listen"))) await Bun.sleep(50);
  run([KISEKI, "tenant", "create", "t", "--ca", join(work, "node/pki"), "--out", join(work, "t.json")]);
  run(["dd", "if=/dev/urandom", `of=${source}`, "bs=1M", `count=${MIBS}`, "status=none"]);
  const costs = new Map<string, Cost[]>();
  for (let round = 0; round < Number(roundsText); round++) {
    for (const transport of transports) {
      const file = join(mountpoint, "file");
      const commands = {
        write: ["dd", `if=${source}`, `of=${file}`, "bs=4M", "conv=fsync", "status=none"],
        read: ["dd", `if=${file}`, "of=/dev/null", "bs=4M", "status=none"],
      };
      for (const [what, command] of Object.entries(commands)) {
        const key = `${what} ${transport}`;
        const cost = await measure(transport, command);
        costs.set(key, [...(costs.get(key) ?? []), cost]);
        process.stderr.write(
          `${key}: ${cost.mibPerSecond.toFixed(0)} MiB/s, client ${cost.client.toFixed(2)}, node ${cost.node.toFixed(2)} s/GiB\n`,
        );
      }
      // The next one must not find its chunks there.
      run(["dd", "if=/dev/urandom", `of=${source}`, "bs=1M", `count=${MIBS}`, "status=none"]);
    }
  }
  console.log(`| what | MiB/s | client, CPU s/GiB | node, CPU s/GiB | together | of TLS's |\n|---|--:|--:|--:|--:|--:|`);
  for (const what of ["write", "read"]) {
    const of = (transport: string) => {
      const list = costs.get(`${what} ${transport}`) ?? [];
      const [client, server] = [median(list.map((cost) => cost.client)), median(list.map((cost) => cost.node))];
      return { speed: median(list.map((cost) => cost.mibPerSecond)), client, server, both: client + server };
    };
    const tls = of("tcp");
    for (const transport of transports) {
      const { speed, client, server, both } = of(transport);
      const share = `${((100 * both) / tls.both).toFixed(0)} %`;
      console.log(
        `| ${what}, ${transport} | ${speed.toFixed(0)} | ${client.toFixed(2)} | ${server.toFixed(2)} | ${both.toFixed(2)} | ${share} |`,
      );
    }
  }
} finally {
  Bun.spawnSync([KISEKI, "umount", mountpoint]);
  node.kill();
  await node.exited;
  rmSync(work, { recursive: true, force: true });
}
