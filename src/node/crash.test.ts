/** kill -9 of a node process in the middle of work: what was acknowledged is there, what was not is whole or absent, nothing twice. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createTenant } from "../pki/cluster.ts";
import type { Bump } from "../protocol/messages.ts";
import { inodeKey, regionKey } from "../protocol/record-keys.ts";
import { NodeClient } from "../transport/node-client.ts";
import { makeDelta } from "./engines/test-delta.ts";
import { randomSessionId } from "./test-node.ts";

const NS = "default";
const MAIN = join(import.meta.dir, "../main.ts");
/** Deltas in flight at any time. */
const WIDTH = 32;
const START_WAIT_MS = 15_000;
/** KISEKI_CRASH_ROUNDS: for a longer run. */
const ROUNDS = Number(process.env.KISEKI_CRASH_ROUNDS ?? 5);
const KILL_AFTER_MAX_MS = 1_500;
const START_KILL_MAX_MS = 600;
const TEST_TIMEOUT_MS = 60_000 + ROUNDS * 10_000;

let folder: string;
let dataDir: string;
const spawned: Bun.Subprocess[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-crash-"));
  dataDir = join(folder, "data");
});
afterEach(async () => {
  // Only a test that failed has left one.
  for (const child of spawned.splice(0)) {
    child.kill("SIGKILL");
    await child.exited;
  }
  rmSync(folder, { recursive: true });
});

function spawnNode(listen: string) {
  const child = Bun.spawn([process.execPath, MAIN, "serve", "--data-dir", dataDir, "--listen", listen, "--log-level", "error"], {
    stdout: "pipe",
    stderr: "inherit",
  });
  spawned.push(child);
  return child;
}

async function serve(listen: string) {
  rmSync(join(dataDir, "listen"), { force: true });
  const child = spawnNode(listen);
  const deadline = performance.now() + START_WAIT_MS;
  while (!existsSync(join(dataDir, "listen"))) {
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`the node did not start (exit ${child.exitCode})`);
    await Bun.sleep(20);
  }
  return { child, address: readFileSync(join(dataDir, "listen"), "utf8").trim() };
}

async function verify(): Promise<{ exitCode: number; output: string }> {
  const child = Bun.spawn([process.execPath, MAIN, "serve", "--data-dir", dataDir, "--verify"], { stdout: "pipe", stderr: "pipe" });
  const output = await new Response(child.stdout).text();
  return { exitCode: await child.exited, output };
}

async function makeClient(address: string): Promise<NodeClient> {
  const pki = join(dataDir, "pki");
  const { ca, cert, key } = await createTenant(pki, `tenant-${crypto.randomUUID().slice(0, 8)}`, 1);
  const client = new NodeClient({
    addrs: [address],
    tls: { ca, cert, key },
    sessionId: randomSessionId(),
    role: "meta",
    clientVersion: "test",
    requestTimeoutMs: 60_000,
    connectTimeoutMs: 5_000,
  });
  await client.connect();
  return client;
}

function chunkBody(n: number): Uint8Array {
  return new Uint8Array(50_000 + n).fill(n & 0xff);
}
function chunkId(n: number): Uint8Array {
  const id = new Uint8Array(32).fill(0xc0);
  new DataView(id.buffer).setUint32(0, n * 2_654_435_761);
  return id;
}

test(
  "acknowledged work survives, and what the client sends again is applied once",
  async () => {
    let { child, address } = await serve("127.0.0.1:0");
    const client = await makeClient(address);
    const granted: number[] = [];
    const acknowledged = new Set<number>();
    let applied = 0;
    let lastId = 0;
    let stopped = false;
    let inFlightAtKill = 0;
    const inFlight = new Set<number>();
    const bump: Bump = { ino: 1, links: 0, entries: 1, mtimeSec: 0, mtimeNsec: 0 };

    const work = async (worker: number) => {
      while (!stopped) {
        const { first } = (await client.call("inoGrant", { ns: NS, count: 1 })).answer;
        granted.push(first);
        const id = ++lastId;
        inFlight.add(id);
        const chunks = worker % 8 === 0 ? [chunkId(first)] : [];
        if (chunks.length > 0) await client.call("chunkPut", { id: chunkId(first) }, { body: [chunkBody(first)] });
        const puts = [
          { key: inodeKey(first), link: 0, chunks: [], value: new Uint8Array(200).fill(first & 0xff) },
          { key: regionKey(first, 0), link: 0, chunks, value: new Uint8Array(50).fill(first & 0xff) },
        ];
        const delta = makeDelta(id, { puts, bumps: [bump], durable: worker % 4 === 1, answeredBelow: Math.min(...inFlight) });
        const { answer } = await client.call("commit", { ns: NS, delta });
        inFlight.delete(id);
        expect(answer.ok).toBeTrue();
        acknowledged.add(first);
        applied++;
      }
    };
    const workers = Array.from({ length: WIDTH }, (_, i) => work(i));
    for (let round = 0; round < ROUNDS; round++) {
      const before = applied;
      // Long enough for database commits and turns of the journal (50 ms to 1 s after a delta) to be hit at any point.
      await Bun.sleep(Math.random() * KILL_AFTER_MAX_MS);
      while (applied < before + 100) await Bun.sleep(5);
      inFlightAtKill += inFlight.size;
      child.kill("SIGKILL");
      await child.exited;
      // A start, which applies the journal again, is killed too.
      const starting = spawnNode(address);
      await Bun.sleep(Math.random() * START_KILL_MAX_MS);
      starting.kill("SIGKILL");
      await starting.exited;
      ({ child, address } = await serve(address));
    }
    const before = applied;
    while (applied < before + 100) await Bun.sleep(5);
    stopped = true;
    await Promise.all(workers);

    // The test is none if nothing was lost on its way.
    expect(inFlightAtKill).toBeGreaterThan(0);
    expect(new Set(granted).size).toBe(granted.length);
    const numbers = [...acknowledged];
    for (let i = 0; i < numbers.length; i += 1_000) {
      const part = numbers.slice(i, i + 1_000);
      const { records } = (await client.call("get", { ns: NS, keys: part.map(inodeKey) })).answer;
      expect(records.every((record, index) => record?.value[0] === ((part[index] ?? 0) & 0xff))).toBeTrue();
    }
    const { counters } = (
      await client.call("list", {
        ns: NS,
        dir: 1,
        after: new Uint8Array(0),
        limit: 1,
        inodes: false,
        want: { lease: false, region0MaxBytes: 0 },
        leaseDir: false,
      })
    ).answer;
    expect(counters).toMatchObject({ entries: applied, bumps: applied });
    client.abandon();

    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    const report = await verify();
    expect(report).toMatchObject({ exitCode: 0, output: expect.stringContaining(" 0 damages") });
  },
  TEST_TIMEOUT_MS,
);

test("SIGTERM answers what is in flight", async () => {
  const { child, address } = await serve("127.0.0.1:0");
  const client = await makeClient(address);
  const delta = (id: number) =>
    makeDelta(id, { puts: [{ key: inodeKey(id), link: 0, chunks: [], value: new Uint8Array(100) }], durable: true });
  let answered = 0;
  for (let id = 1; id <= 200; id++) {
    client.call("commit", { ns: NS, delta: delta(id) }).then(
      () => answered++,
      () => {},
    );
  }
  await client.call("ping", {});
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  await Bun.sleep(50);
  client.abandon();
  expect(answered).toBeGreaterThan(0);
  expect(existsSync(join(dataDir, "listen"))).toBeFalse();
  expect((await verify()).exitCode).toBe(0);
}, 30_000);

test("a folder has one node", async () => {
  const { child } = await serve("127.0.0.1:0");
  const second = Bun.spawn([process.execPath, MAIN, "serve", "--data-dir", dataDir, "--listen", "127.0.0.1:0"], { stderr: "pipe" });
  expect(await new Response(second.stderr).text()).toMatch(/^kiseki: .*in use by another kiseki serve\n$/);
  expect(await second.exited).toBe(1);
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
}, 30_000);
