/**
 * What one tenant notices of another one that does its worst: tenant B creates, reads and fsyncs in a mount of its own, while tenant A (or somebody
 * without a certificate) attacks the storage node that both use. Everything is on this machine: who attacks has low
 * priority (nice 19), for it would have a machine of its own.
 *
 *     bun scripts/bench-isolation.ts [seconds of each attack, default 10] [words of attacks' names ...]
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readCredentialsFile } from "../src/crypto/credentials.ts";
import { makeDelta } from "../src/node/engines/test-delta.ts";
import { MIB, SESSION_ID_BYTES } from "../src/protocol/limits.ts";
import { inodeKey, inodePrefix, regionKey } from "../src/protocol/record-keys.ts";
import { NodeClient } from "../src/transport/node-client.ts";

const KISEKI = join(import.meta.dir, "../dist/kiseki");
const NS = "default";
const SETTLE_MS = 2_000;
const OPERATIONS = ["create", "fsync", "read"];

/** B's work: each line of its output is an operation and the milliseconds that it took. */
const PROBE = `
import mmap, os, sys, time
folder, seconds = sys.argv[1], float(sys.argv[2])
page = mmap.mmap(-1, 65536); page.write(os.urandom(65536))
def timed(name, call):
    begin = time.perf_counter(); result = call()
    print(name, (time.perf_counter() - begin) * 1000); return result
big = os.open(folder + "/big", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
os.pwritev(big, [page], 0); os.fsync(big)
end = time.monotonic() + seconds; i = 0
while time.monotonic() < end:
    i += 1
    fd = timed("create", lambda: os.open(f"{folder}/{os.getpid()}-{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.write(fd, b"x" * 4096); timed("fsync", lambda: os.fsync(fd)); os.close(fd)
    timed("read", lambda: os.preadv(big, [page], 0))
    os.unlink(f"{folder}/{os.getpid()}-{i}")
`;

/** `ready`: called when B's time begins; otherwise that is at once. */
type Attack = (signal: AbortSignal, connectAs: () => Promise<NodeClient>, addr: string, ready: () => void) => Promise<void>;

const value = (bytes: number) => new Uint8Array(bytes).fill(7);
const chunkId = (a: number, b: number) => {
  const id = new Uint8Array(32).fill(a & 0xff);
  new DataView(id.buffer).setUint32(4, a);
  new DataView(id.buffer).setUint32(8, b);
  return id;
};

/** `width` calls at a time on each of `clients` connections, until the end. */
async function flood(
  signal: AbortSignal,
  clients: NodeClient[],
  width: number,
  call: (client: NodeClient) => Promise<unknown>,
): Promise<void> {
  const one = async (client: NodeClient) => {
    while (!signal.aborted) {
      await call(client).then(
        () => done++,
        () => Bun.sleep(1),
      );
    }
  };
  await Promise.all(clients.flatMap((client) => Array.from({ length: width }, () => one(client))));
}

let lastDelta = 0;
/** What the attacker has had answered, or, without a certificate, tried. */
let done = 0;
const commit = (client: NodeClient, parts: Parameters<typeof makeDelta>[1]) =>
  client.call("commit", { ns: NS, delta: makeDelta(++lastDelta, parts) });

const ATTACKS: Record<string, Attack> = {
  "gets of one record, 4 MiB an answer": async (signal, connectAs) => {
    const clients = await Promise.all(Array.from({ length: 8 }, connectAs));
    await commit(clients[0] as NodeClient, { puts: [{ key: inodeKey(99), link: 0, chunks: [], value: value(MIB) }] });
    await flood(signal, clients, 64, (client) => client.call("get", { ns: NS, keys: [1, 2, 3].map(() => inodeKey(99)) }));
  },
  "lookups, 1,024 records each": async (signal, connectAs) => {
    const clients = await Promise.all(Array.from({ length: 8 }, connectAs));
    const keys = Array.from({ length: 1_024 }, (_, i) => inodeKey(1_000 + i));
    await flood(signal, clients, 64, (client) => client.call("get", { ns: NS, keys }));
  },
  "deltas of 1,000 records": async (signal, connectAs) => {
    const clients = await Promise.all(Array.from({ length: 8 }, connectAs));
    await flood(signal, clients, 8, (client) =>
      commit(client, {
        puts: Array.from({ length: 1_000 }, (_, i) => ({ key: inodeKey(1_000 + i), link: 0, chunks: [], value: value(200) })),
      }),
    );
  },
  "durable deltas of 3 MiB": async (signal, connectAs) => {
    const clients = await Promise.all(Array.from({ length: 8 }, connectAs));
    await flood(signal, clients, 4, (client) =>
      commit(client, {
        durable: true,
        puts: Array.from({ length: 3 }, (_, i) => ({ key: inodeKey(1_000 + i), link: 0, chunks: [], value: value(MIB) })),
      }),
    );
  },
  "a delete of 256 x 8,192 references": async (signal, connectAs, _addr, ready) => {
    const client = await connectAs();
    const chunks = Array.from({ length: 8_192 }, (_, i) => chunkId(1, i));
    for (let i = 0; i < chunks.length; i += 256) {
      await Promise.all(chunks.slice(i, i + 256).map((id) => client.call("chunkPut", { id }, { body: [value(100)] })));
    }
    // Numbers are not used again: an inode that is deleted can't be written.
    let first = 100;
    const refer = async () => {
      for (let region = 0; region < 256; region++) {
        await commit(client, { puts: [{ key: regionKey(first + (region % 8), region), link: 0, chunks, value: value(10) }] });
      }
    };
    await refer();
    ready();
    while (!signal.aborted) {
      await commit(client, { deletePrefixes: Array.from({ length: 8 }, (_, ino) => inodePrefix(first + ino)) });
      done++;
      first += 8;
      await refer();
    }
  },
  "chunks of 4 MiB": async (signal, connectAs) => {
    const clients = await Promise.all(Array.from({ length: 8 }, connectAs));
    let n = 0;
    await flood(signal, clients, 8, (client) => {
      const id = chunkId(5, n++);
      return client.call("chunkPut", { id }, { body: [value(4 * MIB)] }).then(() => client.call("chunkRelease", { ids: [id] }));
    });
  },
  "namespaces, made and used": async (signal, connectAs) => {
    const clients = await Promise.all(Array.from({ length: 4 }, connectAs));
    let n = 0;
    await flood(signal, clients, 8, async (client) => {
      const ns = `n${n++ % 2_000}`;
      await client.call("namespaceCreate", { name: ns }).catch(() => undefined);
      await client.call("statfs", { ns });
    });
  },
  "connections that say nothing": async (signal, _connectAs, addr) => {
    const [host, port] = addr.split(":") as [string, string];
    const sockets = new Set<ReturnType<typeof connect>>();
    let n = 0;
    while (!signal.aborted) {
      if (sockets.size >= 5_000) {
        await Bun.sleep(10);
        continue;
      }
      const socket = connect({ host, port: Number(port), localAddress: `127.0.0.${2 + (n++ % 8)}` });
      sockets.add(socket);
      done++;
      socket.on("error", () => undefined);
      socket.on("close", () => sockets.delete(socket));
      if (n % 50 === 0) await Bun.sleep(1);
    }
    for (const socket of sockets) socket.destroy();
  },
  "headers of 8 MiB before hello": async (signal, _connectAs, addr) => {
    const [host, port] = addr.split(":") as [string, string];
    const body = Buffer.alloc(8 * MIB);
    const one = () =>
      new Promise<void>((resolve) => {
        done++;
        const socket = connect({ host, port: Number(port) }, () => socket.write(body));
        socket.on("error", () => undefined).on("close", () => resolve());
        setTimeout(() => socket.destroy(), 500);
      });
    while (!signal.aborted) await Promise.all(Array.from({ length: 16 }, one));
  },
};

if (process.argv[2] === "attack") await attack(process.argv.slice(3));
else await main(Number(process.argv[2] ?? 10), process.argv.slice(3));
process.exit();

async function attack([name = "", addr = "", credentialsFile = ""]: string[]): Promise<void> {
  const { ca, cert, key } = await readCredentialsFile(credentialsFile, async () => "");
  const stop = new AbortController();
  process.stdin.on("end", () => stop.abort()).resume();
  const connectAs = async () => {
    const sessionId = crypto.getRandomValues(new Uint8Array(SESSION_ID_BYTES));
    const options = { role: "meta", clientVersion: "bench", requestTimeoutMs: 120_000, connectTimeoutMs: 30_000 } as const;
    const client = new NodeClient({ addrs: [addr], tls: { ca, cert, key }, sessionId, ...options });
    await client.connect();
    return client;
  };
  process.on("exit", () => console.log(`done ${done}`));
  await Promise.race([
    ATTACKS[name]?.(stop.signal, connectAs, addr, () => console.log("ready")),
    new Promise((resolve) => stop.signal.addEventListener("abort", resolve)),
  ]);
}

async function main(seconds: number, words: string[]): Promise<void> {
  const rows: string[][] = [];
  for (const name of Object.keys(ATTACKS)) {
    if (words.length > 0 && !words.some((word) => name.includes(word))) continue;
    const [idle, under, count] = await measure(name, seconds);
    rows.push([name, ...cells(under, idle), String(count)]);
    process.stderr.write(`${rows.at(-1)?.join(" | ")}\n`);
  }
  console.log(`| A does | ${OPERATIONS.map((op) => `${op}: idle p50 | p99 | attacked p50 | p99 | ratio`).join(" | ")} | longest | A did |`);
  console.log(`|---|${OPERATIONS.map(() => "--:|--:|--:|--:|--:").join("|")}|--:|--:|`);
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
}

/** B's times without and with the attack, on a node and mount of their own: what one attack leaves behind is not counted as the next one's. */
async function measure(name: string, seconds: number): Promise<[Times, Times, number]> {
  const work = mkdtempSync(join(tmpdir(), "kiseki-isolation-"));
  const mountpoint = join(work, "mnt");
  mkdirSync(mountpoint);
  const serve = ["serve", "--data-dir", join(work, "node"), "--listen", "127.0.0.1:0", "--log-level", "error"];
  const node = Bun.spawn([KISEKI, ...serve], { stdout: "ignore", stderr: "inherit" });
  try {
    const listen = join(work, "node/listen");
    while (!existsSync(listen)) await Bun.sleep(50);
    const addr = readFileSync(listen, "utf8").trim();
    for (const tenant of ["a", "b"])
      run(["tenant", "create", tenant, "--ca", join(work, "node/pki"), "--out", join(work, `${tenant}.json`)]);
    const log = ["--log-file", join(work, "mount.log")];
    run(["mount", mountpoint, "--data-addr", addr, "--credentials", join(work, "b.json"), "--cache-mode", "bypass", ...log]);
    const idle = await probe(mountpoint, seconds);
    const command = ["nice", "-n", "19", process.execPath, import.meta.path, "attack", name, addr, join(work, "a.json")];
    const attacker = Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "inherit" });
    const said = attacker.stdout.pipeThrough(new TextDecoderStream()).getReader();
    if (name.includes("references")) await said.read();
    else await Bun.sleep(SETTLE_MS);
    const under = await probe(mountpoint, seconds);
    // An attack that died, or was refused all the time, shows nothing.
    if (attacker.exitCode !== null) throw new Error(`${name}: the attacker ended before its time`);
    attacker.stdin.end();
    let heard = "";
    for (let part = await said.read(); !part.done; part = await said.read()) heard += part.value;
    await attacker.exited;
    const count = Number(/done (\d+)/.exec(heard)?.[1] ?? 0);
    if (count === 0) throw new Error(`${name}: the attacker got nothing done`);
    return [idle, under, count];
  } finally {
    Bun.spawnSync([KISEKI, "umount", mountpoint]);
    node.kill();
    await node.exited;
    rmSync(work, { recursive: true, force: true });
  }
}

function run(args: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync([KISEKI, ...args]);
  if (exitCode !== 0) throw new Error(`kiseki ${args[0]}: ${stderr}`);
}

type Times = Map<string, number[]>;

async function probe(folder: string, seconds: number): Promise<Times> {
  const child = Bun.spawn(["python3", "-c", PROBE, folder, String(seconds)], { stdout: "pipe", stderr: "inherit" });
  const times: Times = new Map();
  for (const line of (await new Response(child.stdout).text()).trim().split("\n")) {
    const [op = "", ms = ""] = line.split(" ");
    times.set(op, [...(times.get(op) ?? []), Number(ms)]);
  }
  if ((await child.exited) !== 0) throw new Error("tenant B's work failed");
  for (const list of times.values()) list.sort((a, b) => a - b);
  return times;
}

/** p50 and p99 in milliseconds, idle and attacked, and how many times the idle p99 the other is; the longest of all. */
function cells(times: Times, idle: Times): string[] {
  const at = (list: number[] | undefined, part: number) => list?.[Math.floor(part * (list.length - 1))] ?? Number.NaN;
  const figures = OPERATIONS.flatMap((op) => {
    const [idle50, idle99, p50, p99] = [at(idle.get(op), 0.5), at(idle.get(op), 0.99), at(times.get(op), 0.5), at(times.get(op), 0.99)];
    return [idle50.toFixed(1), idle99.toFixed(1), p50.toFixed(1), p99.toFixed(1), (p99 / idle99).toFixed(1)];
  });
  return [...figures, Math.max(...OPERATIONS.map((op) => at(times.get(op), 1))).toFixed(0)];
}
