import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { type ChunkRef, sealedBlockRange, sealedChunkBytes } from "../crypto/chunk-seal.ts";
import { IntegrityError } from "../crypto/integrity-error.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import { startTestChunkNode, type TestChunkNode, type TestIdentities, testIdentities } from "./test-chunk-node.ts";
import { TransferPool } from "./transfer-pool.ts";
import { spawnChunkWorker, type WorkerLike } from "./worker-thread.ts";

const TIMEOUT_MS = 10_000;
const CELLS = 512;
const keys = { keys: [{ epoch: 1, key: Uint8Array.from({ length: 32 }, (_, i) => i) }] };

let identities: TestIdentities;
let node: TestChunkNode;
let arena: SharedArrayBuffer;
let pool: TransferPool;
let warnings: string[];
let spawned: WorkerLike[];

beforeAll(async () => {
  identities = await testIdentities();
});
beforeEach(async () => {
  node = await startTestChunkNode(identities.node);
  arena = new SharedArrayBuffer(CELLS * BLOCK_BYTES);
  warnings = [];
  spawned = [];
});
afterEach(async () => {
  await pool.close();
  node.stop();
});

async function start(workers: number, inline: boolean, spawn: () => WorkerLike = spawnChunkWorker): Promise<void> {
  pool = new TransferPool({
    arena,
    workers,
    inline,
    keys,
    node: {
      addrs: [`127.0.0.1:${node.port}`],
      tls: identities.client,
      sessionId: crypto.getRandomValues(new Uint8Array(16)),
      clientVersion: "test",
      requestTimeoutMs: TIMEOUT_MS,
      connectTimeoutMs: TIMEOUT_MS,
      rdma: null,
    },
    onWarning: (message) => warnings.push(message),
    spawn: () => {
      const worker = spawn();
      spawned.push(worker);
      return worker;
    },
  });
  await pool.start();
}

function cell(index: number, bytes = BLOCK_BYTES): Uint8Array {
  return new Uint8Array(arena, index * BLOCK_BYTES, bytes);
}

/** Cells first, first + 1, ... filled with bytes that depend on the seed. */
function fill(first: number, bytes: number, seed: number): number[] {
  const cells = Array.from({ length: Math.ceil(bytes / BLOCK_BYTES) }, (_, i) => first + i);
  for (const [i, index] of cells.entries()) {
    const view = new Uint32Array(arena, index * BLOCK_BYTES, BLOCK_BYTES / 4);
    for (let j = 0; j < view.length; j++) view[j] = Math.imul(j + 1, 2654435761) ^ (seed * 7919 + i * 104729);
  }
  return cells;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => new Error("did not reject"),
    (error: unknown) => error,
  );
}

describe.each([
  ["in Workers", false],
  ["small ones on the calling thread", true],
])("%s", (_where, inline) => {
  beforeEach(() => start(2, inline));

  test.each([1, 100, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES - 3, CHUNK_MAX_BYTES])(
    "%p bytes go out and come back",
    async (bytes) => {
      const cells = fill(0, bytes, bytes);
      const ref = await pool.put(cells, bytes, TIMEOUT_MS);
      expect(ref.bytes).toBe(bytes);
      expect(ref.id.length).toBe(32);
      const stored = node.chunks.get(ref.id.toHex());
      expect(stored?.length).toBe(sealedChunkBytes(bytes));
      const back = cells.map((c) => 100 + c);
      await pool.get(ref, 0, back, TIMEOUT_MS);
      for (const [i, c] of back.entries()) {
        const length = Math.min(BLOCK_BYTES, bytes - i * BLOCK_BYTES);
        expect(same(cell(c, length), cell(cells[i] as number, length))).toBe(true);
      }
    },
  );

  test("one block of a large chunk costs one request for exactly that block", async () => {
    const cells = fill(0, 10 * BLOCK_BYTES, 1);
    const ref = await pool.put(cells, 10 * BLOCK_BYTES, TIMEOUT_MS);
    await pool.get(ref, 7, [200], TIMEOUT_MS);
    expect(same(cell(200), cell(7))).toBe(true);
    const { offset, length } = sealedBlockRange(ref.bytes, 7, 1);
    expect(node.gets).toEqual([`${offset}+${length}`]);
  });

  test("many at once, more than there are buffers", async () => {
    const jobs = Array.from({ length: 60 }, (_, i) => ({ cells: fill(i * 4, 4 * BLOCK_BYTES, i), small: fill(300 + i, 500, i) }));
    const refs = await Promise.all(
      jobs.flatMap(({ cells, small }) => [pool.put(cells, 4 * BLOCK_BYTES, TIMEOUT_MS), pool.put(small, 500, TIMEOUT_MS)]),
    );
    expect(new Set(refs.map((ref) => ref.id.toHex())).size).toBe(120);
    await Promise.all(jobs.map((_, i) => pool.get(refs[2 * i] as ChunkRef, 2, [400 + i], TIMEOUT_MS)));
    for (let i = 0; i < 60; i++) expect(same(cell(400 + i), cell(i * 4 + 2))).toBe(true);
  });

  test("a refusal of the node keeps its class and code", async () => {
    node.beforePut = () => {
      throw new NodeError("no_space", "disk full");
    };
    const error = await rejection(pool.put(fill(0, 1000, 1), 1000, TIMEOUT_MS));
    expect(error).toBeInstanceOf(NodeError);
    expect((error as NodeError).code).toBe("no_space");
    const missing: ChunkRef = { id: new Uint8Array(32), epoch: 1, bytes: 1000 };
    expect(((await rejection(pool.get(missing, 0, [0], TIMEOUT_MS))) as NodeError).code).toBe("not_found");
  });

  test("a changed, shortened or exchanged chunk is an IntegrityError, and its cell is left alone", async () => {
    const ref = await pool.put(fill(0, 1000, 1), 1000, TIMEOUT_MS);
    const stored = node.chunks.get(ref.id.toHex()) as Uint8Array;
    cell(9).fill(0xee);
    stored[40] = (stored[40] as number) ^ 1;
    expect(await rejection(pool.get(ref, 0, [9], TIMEOUT_MS))).toBeInstanceOf(IntegrityError);
    node.chunks.set(ref.id.toHex(), stored.subarray(0, 500));
    expect(await rejection(pool.get(ref, 0, [9], TIMEOUT_MS))).toBeInstanceOf(IntegrityError);
    const other = await pool.put(fill(1, 1000, 2), 1000, TIMEOUT_MS);
    node.chunks.set(ref.id.toHex(), node.chunks.get(other.id.toHex()) as Uint8Array);
    expect(await rejection(pool.get(ref, 0, [9], TIMEOUT_MS))).toBeInstanceOf(IntegrityError);
    expect(cell(9).every((byte) => byte === 0xee)).toBe(true);
  });

  test("what takes too long ends as a timeout, and the next transfer works", async () => {
    const cells = fill(0, 3 * BLOCK_BYTES, 1);
    node.beforePut = () => Bun.sleep(400);
    const error = await rejection(pool.put(cells, 3 * BLOCK_BYTES, 50));
    expect(error).toBeInstanceOf(TransportError);
    expect((error as TransportError).kind).toBe("timeout");
    node.beforePut = () => {};
    expect((await pool.put(cells, 3 * BLOCK_BYTES, TIMEOUT_MS)).bytes).toBe(3 * BLOCK_BYTES);
  });

  test("wrong arguments are refused", async () => {
    const ref = await pool.put([0], 1000, TIMEOUT_MS);
    expect(await rejection(pool.put([0, 1, 2], BLOCK_BYTES, TIMEOUT_MS))).toBeInstanceOf(RangeError);
    expect(await rejection(pool.put([CELLS], 10, TIMEOUT_MS))).toBeInstanceOf(RangeError);
    expect(await rejection(pool.put([], 0, TIMEOUT_MS))).toBeInstanceOf(RangeError);
    expect(await rejection(pool.get(ref, 0, [-1], TIMEOUT_MS))).toBeInstanceOf(RangeError);
    expect(await rejection(pool.get(ref, 1, [0], TIMEOUT_MS))).toBeInstanceOf(RangeError);
  });

  test("close() ends what is under way as closed, and nothing can be asked after", async () => {
    node.beforePut = () => Bun.sleep(5_000);
    const pending = rejection(pool.put([0, 1, 2], 3 * BLOCK_BYTES, TIMEOUT_MS));
    const small = rejection(pool.put([5], 10, TIMEOUT_MS));
    await Bun.sleep(20);
    await pool.close();
    expect(((await pending) as TransportError).kind).toBe("closed");
    expect(((await small) as TransportError).kind).toBe("closed");
    expect(await rejection(pool.put([0], 10, TIMEOUT_MS))).toBeInstanceOf(TransportError);
  });
});

describe("when a Worker dies", () => {
  /** Ends a Worker from inside, as an uncaught error would: a message that it can't read. */
  const kill = (worker: WorkerLike | undefined) => worker?.postMessage(null);

  test("its jobs are done by another one", async () => {
    await start(2, false);
    const cells = fill(0, 3 * BLOCK_BYTES, 1);
    let waiting = 0;
    node.beforePut = async () => {
      if (++waiting <= 2) await Bun.sleep(150);
    };
    const puts = [0, 10].map((first) => pool.put(fill(first, 3 * BLOCK_BYTES, first), 3 * BLOCK_BYTES, TIMEOUT_MS));
    await Bun.sleep(50);
    kill(spawned[0]);
    for (const ref of await Promise.all(puts)) expect(ref.bytes).toBe(3 * BLOCK_BYTES);
    expect(spawned.length).toBe(3);
    expect(pool.workerCount).toBe(2);
    expect(warnings.length).toBe(1);
    expect((await pool.put(cells, 3 * BLOCK_BYTES, TIMEOUT_MS)).epoch).toBe(1);
  });

  test("again and again, it is given up, and waiting jobs fail instead of hanging", async () => {
    await start(1, false);
    node.beforePut = () => Bun.sleep(60_000);
    const pending = rejection(pool.put([0, 1, 2], 3 * BLOCK_BYTES, TIMEOUT_MS));
    for (let i = 0; i < 6; i++) {
      while (spawned.length === i) await Bun.sleep(5);
      kill(spawned[i]);
    }
    const error = await pending;
    expect(error).toBeInstanceOf(TransportError);
    while (pool.workerCount > 0) await Bun.sleep(5);
    expect(((await rejection(pool.put([0], 10, TIMEOUT_MS))) as TransportError).kind).toBe("closed");
    expect(spawned.length).toBe(6);
  });
});

test("with no node there, the pool starts, says so, and transfers end as timeouts", async () => {
  node.stop();
  await start(1, false);
  const error = await rejection(pool.put(fill(0, 1000, 1), 1000, 200));
  expect((error as TransportError).kind).toBe("timeout");
  expect(warnings.length).toBeGreaterThan(0);
});

test("a connection that is lost under a transfer is made again", async () => {
  await start(1, false);
  await pool.put(fill(0, 1000, 1), 1000, TIMEOUT_MS);
  expect(node.connections).toBe(1);
  let first = true;
  node.beforeGet = async () => {
    if (!first) return;
    first = false;
    node.dropConnections();
    await Bun.sleep(50);
  };
  const ref = await pool.put(fill(0, 1000, 1), 1000, TIMEOUT_MS);
  await pool.get(ref, 0, [5], TIMEOUT_MS);
  expect(same(cell(5, 1000), cell(0, 1000))).toBe(true);
  expect(node.connections).toBe(2);
});
