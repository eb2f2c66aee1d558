import { afterAll, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "../../log.ts";
import { ControlClient, ControlUnreachable } from "./client.ts";
import { ControlError, type ControlTarget, type StageControlOptions, type StageEvent, type StagingControl } from "./control.ts";
import { LatencyHistogram } from "./latency-histogram.ts";
import { type ControlServer, serveControl, serveMetrics } from "./server.ts";
import { type CacheStats, collectStats, type StagedDataset } from "./stats.ts";

const log = createLogger("fatal");
const describe = (error: unknown) => ({ message: (error as Error).message, exitStatus: 1 });
const folder = mkdtempSync(join(tmpdir(), "kiseki-control-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const latency = { l1: new LatencyHistogram(), l2: new LatencyHistogram(), canonical: new LatencyHistogram() };
latency.l2.observe(3);

class Staging implements StagingControl {
  readonly staged: StagedDataset[] = [];
  cancelled = 0;
  /** "/slow" is never done, "/bad" fails. */
  async stage(path: string, { signal, timeoutMs, onProgress }: StageControlOptions): Promise<void> {
    onProgress({ files: 2, bytes: 20, filesDone: 1, bytesDone: 10, walked: true });
    if (path === "/bad") throw new Error("/bad: no such file");
    if (timeoutMs !== undefined) throw new Error(`${path}: not staged within ${timeoutMs} ms`);
    if (path === "/slow") {
      await new Promise<void>((_, reject) => {
        signal.addEventListener("abort", () => {
          this.cancelled++;
          reject(signal.reason);
        });
      });
    }
    this.staged.push({ path, state: "complete", files: 2, bytes: 20, stagedAt: new Date(0).toISOString() });
  }
  datasets(): readonly StagedDataset[] {
    return this.staged;
  }
  async release(path: string): Promise<number> {
    const index = this.staged.findIndex((dataset) => dataset.path === path);
    if (index < 0) throw new ControlError("not_found", `${path} is not staged`);
    this.staged.splice(index, 1);
    return 20;
  }
}

function stats(staging: Staging): CacheStats {
  return collectStats(
    {
      version: "1",
      pid: process.pid,
      kind: "stage",
      mountpoint: null,
      tenant: "t",
      startedAt: new Date(0).toISOString(),
      pool: { id: "0".repeat(32), path: folder },
      mode: "pinned",
    },
    {
      reads: { l1Hits: 1, l2Hits: 2, misses: 3, bypasses: 4 },
      latency,
      l1: () => ({ maxBytes: 100, bytes: 50, entries: 5, evictions: 6 }),
      l2: () => ({
        maxBytes: 1_000,
        bytes: 500,
        pinnedBytes: 20,
        entries: 7,
        insertions: 8,
        dropped: 9,
        refused: 3,
        evictions: 10,
        faults: { crc: 11 },
        outOfUse: null,
      }),
      policy: () => ({ mode: "pinned" }),
      datasets: () => staging.staged,
      node: () => ({
        lies: 3,
        connected: false,
        lostSince: "2026-01-01T00:00:00.000Z",
        refusal: null,
        credentialsExpire: "2036-01-01T00:00:00.000Z",
      }),
      transport: () => ({
        fabric: "net",
        openPaths: 1,
        fabricTransfers: 5,
        fabricBytes: 5_000,
        tlsTransfers: 2,
        tlsBytes: 200,
        fallbacks: 1,
      }),
      wipes: { request: 1 },
    },
  );
}

let count = 0;
let staging: Staging;
let ended = 0;
let handedTo = "";

/** A long path: longer than a socket's address may be. */
function serve(more: Partial<ControlTarget> = {}): { path: string; server: ControlServer; client: ControlClient } {
  const pool = join(folder, "p".repeat(120), String(count++));
  mkdirSync(pool, { recursive: true });
  const path = join(pool, "control.sock");
  const target: ControlTarget = {
    kind: "stage",
    stats: () => stats(staging),
    wipe: async () => ({ l1Bytes: 1, l2Bytes: 2, datasets: 0 }),
    staging: () => staging,
    handOver: async (socket) => {
      handedTo = socket;
    },
    end: () => {
      ended++;
    },
    ...more,
  };
  return { path, server: serveControl(path, target, { log, describe }), client: new ControlClient(path) };
}

beforeEach(() => {
  staging = new Staging();
  ended = 0;
});

async function eventsOf(events: AsyncIterable<StageEvent>): Promise<StageEvent[]> {
  const all: StageEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

test("answers on a socket that only its owner may use, which goes with it", async () => {
  const { path, server, client } = serve();
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(await client.stats()).toEqual(stats(staging));
  expect(await client.status()).toMatchObject({ kind: "stage", tenant: "t", datasets: [] });
  await server.close();
  expect(readdirSync(join(path, ".."))).toEqual([]);
  expect(client.stats()).rejects.toBeInstanceOf(ControlUnreachable);
});

test("takes the place of what a dead process left", async () => {
  const { path, server } = serve();
  await server.close();
  writeFileSync(path, "");
  const again = serveControl(path, { kind: "mount", stats: () => stats(staging), wipe: fails, staging: fails }, { log, describe });
  expect((await new ControlClient(path).stats()).pid).toBe(process.pid);
  await again.close();
});

function fails(): never {
  throw new ControlError("conflict", "not in this state");
}

test("the socket and the TCP port give the same numbers to Prometheus", async () => {
  const { server, client } = serve();
  const port = 20_000 + (process.pid % 10_000);
  const tcp = serveMetrics({ host: "127.0.0.1", port }, { stats: () => stats(staging) }, log);
  expect(() => serveMetrics({ host: "127.0.0.1", port }, { stats: () => stats(staging) }, log)).toThrow(`port ${port}`);
  const text = await client.metrics();
  expect(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).toBe(text);
  expect((await fetch(`http://127.0.0.1:${port}/stats`)).status).toBe(404);
  expect((await fetch(`http://127.0.0.1:${port}/wipe`, { method: "POST", body: "{}" })).status).not.toBe(200);
  await tcp.close();
  await server.close();
  const lines = text.split("\n");
  for (const line of [
    'kiseki_cache_hits_total{tier="l1"} 1',
    'kiseki_cache_hits_total{tier="l2"} 2',
    "kiseki_cache_misses_total 3",
    "kiseki_cache_bypasses_total 4",
    'kiseki_cache_size_bytes{tier="l2"} 500',
    'kiseki_cache_faults_total{kind="crc"} 11',
    'kiseki_cache_evictions_total{tier="l1"} 6',
    'kiseki_cache_read_duration_seconds_bucket{tier="l2",le="0.002048"} 0',
    'kiseki_cache_read_duration_seconds_bucket{tier="l2",le="0.004096"} 1',
    'kiseki_cache_read_duration_seconds_bucket{tier="l2",le="+Inf"} 1',
    'kiseki_cache_read_duration_seconds_sum{tier="l2"} 0.003',
    'kiseki_cache_wipes_total{reason="request"} 1',
  ]) {
    expect(lines).toContain(line);
  }
});

test("staging reports how far it is, then that it is done", async () => {
  const { server, client } = serve();
  const events = await eventsOf(client.stage({ path: "/a" }, new AbortController().signal));
  expect(events.map(({ type }) => type)).toEqual(["progress", "done"]);
  expect((await client.status()).datasets.map(({ path }) => path)).toEqual(["/a"]);
  await server.close();
});

test("a failure of staging is its last event", async () => {
  const { server, client } = serve();
  const events = await eventsOf(client.stage({ path: "/bad" }, new AbortController().signal));
  expect(events.at(-1)).toMatchObject({ type: "failed", error: { message: "/bad: no such file", exitStatus: 1 } });
  await server.close();
});

test("who goes away cancels staging, and a timeout is passed on", async () => {
  const { server, client } = serve();
  const leave = new AbortController();
  const leaving = (async () => {
    for await (const { type } of client.stage({ path: "/slow" }, leave.signal)) if (type === "progress") leave.abort();
  })();
  expect(leaving).rejects.toThrow();
  await leaving.catch(() => undefined);
  while (staging.cancelled === 0) await Bun.sleep(1);
  const events = await eventsOf(client.stage({ path: "/slow", timeoutSeconds: 0.01 }, new AbortController().signal));
  expect(events.at(-1)).toMatchObject({ type: "failed", error: { message: "/slow: not staged within 10 ms" } });
  await server.close();
});

test("releases one dataset, or all of them, and then the daemon ends", async () => {
  const { server, client } = serve();
  for (const path of ["/a", "/b", "/c"]) await eventsOf(client.stage({ path }, new AbortController().signal));
  expect(await client.release({ path: "/b" })).toEqual({ released: ["/b"], bytes: 20, ends: false });
  expect(client.release({ path: "/b" })).rejects.toThrow("/b is not staged");
  expect(await client.release({ all: true })).toEqual({ released: ["/a", "/c"], bytes: 40, ends: true });
  while (ended === 0) await Bun.sleep(1);
  await server.close();
});

test("the lock is handed over by a daemon, and by nothing that has no way to", async () => {
  const { server, client } = serve();
  await client.handOver("adopt-17.sock");
  expect(handedTo).toBe("adopt-17.sock");
  expect(client.handOver("../../elsewhere")).rejects.toBeInstanceOf(ControlError);
  await server.close();
});

test("what is not understood is refused, and harms nothing", async () => {
  const { path, server, client } = serve();
  const short = join("/tmp", `kiseki-control-${process.pid}`);
  rmSync(short, { force: true });
  await Bun.$`ln -s ${join(path, "..")} ${short}`;
  const unix = join(short, "control.sock");
  const ask = async (to: string, init: BunFetchRequestInit = {}) => (await fetch(`http://kiseki${to}`, { ...init, unix })).status;
  expect(await ask("/stage", { method: "POST", body: "{" })).toBe(400);
  expect(await ask("/stage", { method: "POST", body: JSON.stringify({ path: "relative" }) })).toBe(400);
  expect(await ask("/stage", { method: "POST", body: "x".repeat(100_000) })).toBe(413);
  expect(await ask("/release", { method: "POST", body: "{}" })).toBe(400);
  expect(await ask("/elsewhere")).toBe(404);
  expect(await ask("/wipe")).toBe(404);
  expect((await client.stats()).pid).toBe(process.pid);
  rmSync(short);
  await server.close();
});
