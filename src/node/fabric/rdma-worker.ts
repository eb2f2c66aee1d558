/**
 * A Worker that owns the node's endpoints, and does nothing but transfers between its buffers and clients' memory.
 */

import type { FabricEndpoint, MemoryRegion } from "../../../ffi/fabric-endpoint.ts";
import { asPointer } from "../../../ffi/libc/libc.ts";
import { findEventLoopFd } from "../../process/event-loop-fd.ts";
import { type FabricProvider, fabricProvider } from "../../protocol/fabric-providers.ts";
import { FabricLibraries, fabricPlaces } from "../../transport/fabric-libraries.ts";
import { FabricPump, type Pumped } from "../../transport/fabric-pump.ts";
import type { BufferMemory, FromRdmaWorker, ToRdmaWorker } from "./messages.ts";

declare const self: Worker;

/** Transfers of one endpoint at a time. */
const OPERATIONS = 64;

class OpenEndpoint implements Pumped {
  readonly endpoint: FabricEndpoint;
  readonly buffers: MemoryRegion;
  /** Jobs by the number of their operation. */
  readonly running = new Map<number, number>();
  readonly free = Array.from({ length: OPERATIONS }, (_, i) => i);

  constructor(endpoint: FabricEndpoint, buffers: MemoryRegion) {
    this.endpoint = endpoint;
    this.buffers = buffers;
  }

  readonly onCompletion = (operation: number, error: Error | null): void => {
    const job = this.running.get(operation);
    if (job === undefined) return;
    this.running.delete(operation);
    this.free.push(operation);
    say({ kind: "done", job, error: error?.message ?? null });
  };
}

interface Peer {
  readonly at: OpenEndpoint;
  readonly address: bigint;
}

type Transfer = Extract<ToRdmaWorker, { kind: "transfer" }>;

/** By provider, then by domain: a machine may have several adapters that are equally good. */
const endpoints = new Map<string, Map<string, OpenEndpoint>>();
const peers = new Map<number, Peer>();
/** Those that no operation was free for. */
const waiting: Transfer[] = [];

function say(message: FromRdmaWorker): void {
  self.postMessage(message);
}

/** @returns its domain @throws Error */
function openAt(libraries: FabricLibraries, provider: FabricProvider, source: string | null, memory: BufferMemory): string {
  const endpoint = libraries.openEndpoint(provider, { source, role: "initiator", operations: OPERATIONS });
  try {
    const buffers = endpoint.register({ address: asPointer(memory.address), length: memory.bytes }, "local");
    const domains = endpoints.get(provider.name) ?? new Map<string, OpenEndpoint>();
    endpoints.set(provider.name, domains.set(endpoint.device.domain, new OpenEndpoint(endpoint, buffers)));
    return endpoint.device.domain;
  } catch (error) {
    endpoint.close();
    throw error;
  }
}

function* allEndpoints(): Generator<OpenEndpoint> {
  for (const domains of endpoints.values()) yield* domains.values();
}

function start({ providers, memory }: Extract<ToRdmaWorker, { kind: "start" }>): void {
  const opened: { provider: string; domain: string }[] = [];
  const failed: { provider: string; reason: string }[] = [];
  const libraries = new FabricLibraries(providers.flatMap(({ name }) => fabricProvider(name) ?? []));
  for (const { name, source } of providers) {
    try {
      const provider = fabricProvider(name);
      if (provider === null) throw new Error("there is no such provider");
      const places = fabricPlaces(provider, source).filter(({ order }) => order === 0);
      if (places.length === 0) throw new Error("no port is up");
      for (const place of places) opened.push({ provider: name, domain: openAt(libraries, provider, place.source, memory) });
    } catch (error) {
      failed.push({ provider: name, reason: textOf(error) });
    }
  }
  say({ kind: "started", opened, failed });
}

function admit({ id, provider, domain, name }: Extract<ToRdmaWorker, { kind: "peer" }>): void {
  const at = endpoints.get(provider)?.get(domain);
  try {
    if (at === undefined) throw new Error("its endpoint is closed");
    const inserted = at.endpoint.insert(name);
    peers.set(id, { at, address: inserted.peer });
    say({ kind: "peer", id, name: inserted.name, error: null });
  } catch (error) {
    say({ kind: "peer", id, name: null, error: textOf(error) });
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function begin(transfer: Transfer): void {
  const { job, direction, offset, bytes, address, key } = transfer;
  const peer = peers.get(transfer.peer);
  if (peer === undefined) {
    say({ kind: "done", job, error: "the peer is gone" });
    return;
  }
  const { endpoint, buffers, running, free } = peer.at;
  const operation = free.pop();
  if (operation === undefined) {
    waiting.push(transfer);
    return;
  }
  let isStarted = false;
  try {
    isStarted =
      direction === "place"
        ? endpoint.write(operation, buffers, offset, bytes, peer.address, address, key)
        : endpoint.read(operation, buffers, offset, bytes, peer.address, address, key);
  } catch (error) {
    free.push(operation);
    say({ kind: "done", job, error: textOf(error) });
    return;
  }
  if (isStarted) running.set(operation, job);
  else {
    free.push(operation);
    waiting.push(transfer);
  }
}

/** Those that something is under way at; also a connection that is being made comes on only when the endpoint is asked. */
function busy(): Set<OpenEndpoint> {
  const found = new Set([...allEndpoints()].filter(({ running }) => running.size > 0));
  for (const { peer } of waiting) {
    const at = peers.get(peer)?.at;
    if (at !== undefined) found.add(at);
  }
  return found;
}

const pump = new FabricPump(findEventLoopFd(), busy, () => {
  for (const transfer of waiting.splice(0)) begin(transfer);
});

function stop(): void {
  for (const [name, domains] of endpoints) {
    // What can't be closed safely at once ends with the process.
    if ((fabricProvider(name)?.settleMs ?? 0) > 0) continue;
    for (const { endpoint } of domains.values()) {
      try {
        endpoint.close();
      } catch {
        // The process ends.
      }
    }
  }
  endpoints.clear();
  peers.clear();
  say({ kind: "stopped" });
}

self.onmessage = ({ data }: MessageEvent<ToRdmaWorker>): void => {
  switch (data.kind) {
    case "start":
      start(data);
      break;
    case "peer":
      admit(data);
      break;
    case "forget": {
      const peer = peers.get(data.id);
      peers.delete(data.id);
      try {
        peer?.at.endpoint.remove(peer.address);
      } catch {
        // It stays in the address vector, and nobody asks for it.
      }
      break;
    }
    case "transfer":
      begin(data);
      pump.kick();
      break;
    case "stop":
      stop();
      break;
  }
};
