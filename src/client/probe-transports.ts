/** Every way by which content could be moved between this machine and a storage node, tried: what `kiseki transports` shows. */
import { randomBytes } from "node:crypto";
import { findEventLoopFd } from "../process/event-loop-fd.ts";
import { hasDevices } from "../process/kernel-devices.ts";
import { FABRIC_PROVIDERS, type FabricProvider, providersOf, sourceOf } from "../protocol/fabric-providers.ts";
import { CHUNK_ID_BYTES, CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import type { FabricOffer } from "../protocol/messages.ts";
import type { CheckedSink } from "../transfer/chunk-node.ts";
import { RdmaPath } from "../transfer/rdma-path.ts";
import { FabricLibraries } from "../transport/fabric-libraries.ts";
import type { NodeClient } from "../transport/node-client.ts";
import { type FabricPair, fabricPairs } from "./fabric-pairs.ts";

const ROUND_TRIPS = 20;
const GETS = 8;
const TIMEOUT_MS = 10_000;

export interface ProbedTransport {
  /** As after -o transport=. */
  readonly transport: string;
  /** Of this machine; null: none. */
  readonly device: string | null;
  /** Of the node; null: it does not offer it, or was not asked. */
  readonly nodeDevice: string | null;
  /** A question and its answer, shortest of some. */
  readonly roundTripMs: number | null;
  /** Whole chunks, one after the other. */
  readonly bytesPerSecond: number | null;
  /** `transport=auto` takes it. */
  readonly isChosen: boolean;
  /** Why it can't be used, or is not chosen; empty: it is. */
  readonly reason: string;
}

/** Without a client: what this machine has. */
export async function probeTransports(client: NodeClient | null, source: string | null): Promise<ProbedTransport[]> {
  const libraries = new FabricLibraries(FABRIC_PROVIDERS.filter(({ devices }) => devices === null || hasDevices(devices)));
  const offers = client === null ? [] : (await client.call("discover", {})).answer.fabrics;
  const automatic = providersOf("auto", hasDevices).map(({ name }) => name);
  const rows: ProbedTransport[] = [];
  const chunk = client === null ? null : await storeChunk(client);
  try {
    let chosenRank: number | null = null;
    for (const [order, provider] of FABRIC_PROVIDERS.entries()) {
      for (const { rank, ...row } of await probeProvider(client, chunk, libraries, provider, order, source, offers)) {
        const isUsable = row.reason === "" && client !== null;
        if (isUsable && automatic.includes(provider.name)) chosenRank ??= rank;
        const isChosen = isUsable && rank === chosenRank;
        rows.push({ ...row, isChosen, reason: isUsable && !isChosen ? notChosen(provider, chosenRank !== null) : row.reason });
      }
    }
    const isTaken = chosenRank !== null;
    rows.push(await probeTls(client, chunk, isTaken));
  } finally {
    if (client !== null && chunk !== null) await client.call("chunkRelease", { ids: [chunk] });
  }
  return rows;
}

function notChosen({ isAutomatic }: FabricProvider, isTaken: boolean): string {
  return isAutomatic && isTaken ? "another one is before it" : "only when it is named";
}

/** For the time of the measurement: nothing refers to it, so that it goes by itself. */
async function storeChunk(client: NodeClient): Promise<Uint8Array> {
  const id = new Uint8Array(randomBytes(CHUNK_ID_BYTES));
  await client.call("chunkPut", { id }, { body: [randomBytes(CHUNK_MAX_BYTES)], timeoutMs: TIMEOUT_MS });
  return id;
}

/** Counts what comes. */
class Counting implements CheckedSink {
  readonly length = CHUNK_MAX_BYTES;
  #bytes = 0;
  begin(): void {
    this.#bytes = 0;
  }
  write(bytes: Uint8Array): void {
    this.#bytes += bytes.length;
  }
  finish(): void {
    if (this.#bytes !== this.length) throw new Error(`${this.#bytes} bytes came instead of ${this.length}`);
  }
}

type FabricRow = Omit<ProbedTransport, "isChosen"> & { readonly rank: number };

/** A row for each port that it could go by; one where there is none, with the reason. */
async function probeProvider(
  client: NodeClient | null,
  chunk: Uint8Array | null,
  libraries: FabricLibraries,
  provider: FabricProvider,
  order: number,
  source: string | null,
  offers: readonly FabricOffer[],
): Promise<FabricRow[]> {
  const { name, option, devices } = provider;
  const nothing = {
    device: null,
    nodeDevice: null,
    roundTripMs: null,
    bytesPerSecond: null,
    transport: option ?? `libfabric:${name}`,
    rank: 0,
  };
  if (devices !== null && !hasDevices(devices)) return [{ ...nothing, reason: "no such device" }];
  const rows: FabricRow[] = [];
  const pairs = fabricPairs(provider, order, sourceOf(provider, source, client?.localAddress ?? null), offers);
  for (const pair of pairs) {
    const row = { ...nothing, rank: pair.rank };
    try {
      const device = libraries.devices(provider, pair.source)[0]?.domain;
      if (device === undefined) rows.push({ ...row, reason: "libfabric has no such provider here" });
      else if (client === null || chunk === null) rows.push({ ...row, device, reason: "" });
      else if (pair.domains.length === 0) rows.push({ ...row, device, reason: "the storage node does not offer it" });
      else rows.push({ ...row, device, ...(await probePair(client, chunk, name, pair)) });
    } catch (error) {
      rows.push({ ...row, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return rows.length > 0 ? rows : [{ ...nothing, reason: "no port is up" }];
}

type Measured = Pick<ProbedTransport, "nodeDevice" | "roundTripMs" | "bytesPerSecond" | "reason">;

/** To the first of the node's domains that is reached. */
async function probePair(
  client: NodeClient,
  chunk: Uint8Array,
  provider: string,
  { source, rank, domains }: FabricPair,
): Promise<Measured> {
  let reason = "";
  for (const domain of domains) {
    const candidate = { provider, source, domain, rank };
    const path = new RdmaPath(client, { candidates: [candidate], slots: 1 }, findEventLoopFd(), () => undefined);
    try {
      const problem = await path.tryOnce();
      if (problem !== null) throw new Error(problem);
      const roundTripMs = await shortest(() => path.probe());
      const bytesPerSecond = await bandwidth(async () => {
        if ((await path.get(chunk, 0, new Counting(), TIMEOUT_MS)) === null) throw new Error("a transfer failed");
      });
      return { nodeDevice: domain, roundTripMs, bytesPerSecond, reason: "" };
    } catch (error) {
      reason = error instanceof Error ? error.message : String(error);
    } finally {
      await path.close();
    }
  }
  return { nodeDevice: domains[0] ?? null, roundTripMs: null, bytesPerSecond: null, reason };
}

async function probeTls(client: NodeClient | null, chunk: Uint8Array | null, isTaken: boolean): Promise<ProbedTransport> {
  const row = { transport: "tcp", device: null, nodeDevice: null, roundTripMs: null, bytesPerSecond: null };
  if (client === null || chunk === null) return { ...row, isChosen: false, reason: "" };
  const roundTripMs = await shortest(async () => {
    await client.call("discover", {});
  });
  const bytesPerSecond = await bandwidth(async () => {
    await client.call("chunkGet", { id: chunk, offset: 0, length: CHUNK_MAX_BYTES }, { bodyInto: new Counting(), timeoutMs: TIMEOUT_MS });
  });
  return { ...row, roundTripMs, bytesPerSecond, isChosen: !isTaken, reason: isTaken ? "a fabric is before it" : "" };
}

async function shortest(once: () => Promise<void>): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const begin = performance.now();
    await once();
    best = Math.min(best, performance.now() - begin);
  }
  return best;
}

async function bandwidth(getChunk: () => Promise<void>): Promise<number> {
  await getChunk();
  const begin = performance.now();
  for (let i = 0; i < GETS; i++) await getChunk();
  return (GETS * CHUNK_MAX_BYTES) / ((performance.now() - begin) / 1_000);
}
