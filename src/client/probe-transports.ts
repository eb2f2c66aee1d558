/** Every way by which content could be moved between this machine and a storage node, tried: what `kiseki transports` shows. */
import { randomBytes } from "node:crypto";
import type { FabricDevice } from "../../ffi/fabric-endpoint.ts";
import { findEventLoopFd } from "../process/event-loop-fd.ts";
import { hasDevices } from "../process/kernel-devices.ts";
import { FABRIC_PROVIDERS, type FabricProvider, providersOf, sourceOf } from "../protocol/fabric-providers.ts";
import { CHUNK_ID_BYTES, CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import type { FabricOffer } from "../protocol/messages.ts";
import type { CheckedSink } from "../transfer/chunk-node.ts";
import { RdmaPath } from "../transfer/rdma-path.ts";
import { FabricLibraries } from "../transport/fabric-libraries.ts";
import type { NodeClient } from "../transport/node-client.ts";

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
    let isTaken = false;
    for (const provider of FABRIC_PROVIDERS) {
      const row = await probeFabricRow(client, chunk, libraries, provider, source, offers);
      const isChosen: boolean = !isTaken && row.reason === "" && client !== null && automatic.includes(provider.name);
      isTaken ||= isChosen;
      rows.push({
        ...row,
        isChosen,
        reason: row.reason === "" && !isChosen && client !== null ? notChosen(provider, isTaken) : row.reason,
      });
    }
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

async function probeFabricRow(
  client: NodeClient | null,
  chunk: Uint8Array | null,
  libraries: FabricLibraries,
  provider: FabricProvider,
  source: string | null,
  offers: readonly FabricOffer[],
): Promise<ProbedTransport> {
  const { name, option, devices } = provider;
  const nodeDevice = offers.find((offer) => offer.provider === name)?.domain ?? null;
  const nothing = { nodeDevice, roundTripMs: null, bytesPerSecond: null, isChosen: false, transport: option ?? `libfabric:${name}` };
  if (devices !== null && !hasDevices(devices)) return { ...nothing, device: null, reason: "no such device" };
  let device: FabricDevice | undefined;
  try {
    device = libraries.devices(provider, sourceOf(provider, source, client?.localAddress ?? null))[0];
  } catch (error) {
    return { ...nothing, device: null, reason: error instanceof Error ? error.message : String(error) };
  }
  if (device === undefined)
    return { ...nothing, device: null, reason: provider.library === "libfabric" ? "libfabric has no such provider here" : "no port is up" };
  const found = { ...nothing, device: device.domain };
  if (client === null || chunk === null) return { ...found, reason: "" };
  if (nodeDevice === null) return { ...found, reason: "the storage node does not offer it" };
  const path = new RdmaPath(
    client,
    { candidates: [{ provider: name, source, domain: "", rank: 0 }], slots: 1 },
    findEventLoopFd(),
    () => undefined,
  );
  try {
    const problem = await path.tryOnce();
    if (problem !== null) return { ...found, reason: problem };
    const roundTripMs = await shortest(() => path.probe());
    const bytesPerSecond = await bandwidth(async () => {
      if ((await path.get(chunk, 0, new Counting(), TIMEOUT_MS)) === null) throw new Error("a transfer failed");
    });
    return { ...found, roundTripMs, bytesPerSecond, reason: "" };
  } catch (error) {
    return { ...found, reason: error instanceof Error ? error.message : String(error) };
  } finally {
    await path.close();
  }
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
