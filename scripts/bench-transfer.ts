/**
 * How fast chunks move between the block arena and a node over TLS on loopback: seal, hash and send; fetch, verify and open. The
 * node is a second process that keeps nothing, so neither disk nor FUSE is in the figures, and its CPU time isn't.
 *
 *     bun scripts/bench-transfer.ts [MiB to move, default 1024]
 */
import type { ChunkRef } from "../src/crypto/chunk-seal.ts";
import { BLOCK_BYTES, CHUNK_MAX_BYTES, MIB } from "../src/protocol/limits.ts";
import { startTestChunkNode, testIdentities } from "../src/transfer/test-chunk-node.ts";
import { TransferPool } from "../src/transfer/transfer-pool.ts";
import type { TlsIdentity } from "../src/transport/transport.ts";

const TIMEOUT_MS = 30_000;
const BLOCKS = CHUNK_MAX_BYTES / BLOCK_BYTES;
/** Chunks asked for at a time: what a mount does when it writes out or reads ahead. */
const IN_FLIGHT = 8;
const SMALL_READS = 4_000;

if (process.argv[2] === "node") {
  const node = await startTestChunkNode(JSON.parse(await Bun.stdin.text()), false);
  console.log(node.port);
} else {
  await main(Number(process.argv[2] ?? 1024));
}

async function main(totalMib: number): Promise<void> {
  const { node: nodeTls, client } = await testIdentities();
  const node = Bun.spawn([process.execPath, import.meta.path, "node"], {
    stdin: new Blob([JSON.stringify(nodeTls)]),
    stdout: "pipe",
    stderr: "inherit",
  });
  try {
    const { value } = await node.stdout.getReader().read();
    const port = Number(new TextDecoder().decode(value));
    for (const workers of [1, 2]) await run(workers, true, port, client, totalMib);
    await run(1, false, port, client, totalMib);
  } finally {
    node.kill();
  }
}

/** The same in every run, because the node keeps one chunk for all of them. */
function makeArena(): SharedArrayBuffer {
  const arena = new SharedArrayBuffer(IN_FLIGHT * CHUNK_MAX_BYTES);
  const words = new Uint32Array(arena);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 2654435761);
  return arena;
}

async function run(workers: number, inline: boolean, port: number, tls: TlsIdentity, totalMib: number): Promise<void> {
  const arena = makeArena();
  const pool = new TransferPool({
    arena,
    workers,
    keys: { keys: [{ epoch: 1, key: new Uint8Array(32).fill(1) }] },
    inline,
    node: {
      addrs: [`127.0.0.1:${port}`],
      tls,
      sessionId: crypto.getRandomValues(new Uint8Array(16)),
      clientVersion: "bench",
      requestTimeoutMs: TIMEOUT_MS,
      connectTimeoutMs: TIMEOUT_MS,
      rdma: null,
    },
    onWarning: (message) => console.error(message),
  });
  await pool.start();
  const slots = Array.from({ length: IN_FLIGHT }, (_, slot) => Array.from({ length: BLOCKS }, (_, i) => slot * BLOCKS + i));
  const chunks = Math.ceil((totalMib * MIB) / CHUNK_MAX_BYTES);
  // The node keeps the first chunk it gets, and answers every get with it.
  let ref: ChunkRef | undefined;
  const name = `${workers} worker${workers > 1 ? "s" : ""}${inline ? "" : ", nothing inline"}`;
  const inFlight = async (label: string, move: (cells: number[]) => Promise<unknown>) => {
    for (const cells of slots) await move(cells);
    const startedAt = performance.now();
    const cpuFrom = process.cpuUsage();
    let left = chunks;
    await Promise.all(
      slots.map(async (cells) => {
        while (left-- > 0) await move(cells);
      }),
    );
    const seconds = (performance.now() - startedAt) / 1000;
    const mib = (chunks * CHUNK_MAX_BYTES) / MIB;
    const cpu = process.cpuUsage(cpuFrom);
    const cpuPerGib = ((cpu.user + cpu.system) / 1e6 / mib) * 1024;
    console.log(`${name}: ${label}  ${(mib / seconds).toFixed(0)} MiB/s, ${cpuPerGib.toFixed(2)} s of CPU a GiB`);
  };
  await inFlight("up", async (cells) => {
    const put = await pool.put(cells, CHUNK_MAX_BYTES, TIMEOUT_MS);
    ref ??= put;
  });
  const first = ref as ChunkRef;
  await inFlight("down", (cells) => pool.get(first, 0, cells, TIMEOUT_MS));
  for (let i = 0; i < 200; i++) await pool.get(first, i % BLOCKS, [0], TIMEOUT_MS);
  const startedAt = performance.now();
  for (let i = 0; i < SMALL_READS; i++) await pool.get(first, i % BLOCKS, [0], TIMEOUT_MS);
  console.log(`${name}: one block, one at a time  ${(((performance.now() - startedAt) / SMALL_READS) * 1000).toFixed(0)} us`);
  await inFlight16();
  await pool.close();

  async function inFlight16(): Promise<void> {
    const from = performance.now();
    let left = SMALL_READS;
    const readers = Array.from({ length: 16 }, async (_, cell) => {
      while (left-- > 0) await pool.get(first, left % BLOCKS, [cell], TIMEOUT_MS);
    });
    await Promise.all(readers);
    console.log(`${name}: one block, 16 at a time  ${((SMALL_READS / (performance.now() - from)) * 1000).toFixed(0)} /s`);
  }
}
