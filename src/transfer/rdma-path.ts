/**
 * Bodies of chunks over a fabric: the client's side, one for each chunk Worker's connection. The node moves sealed bytes into and out of slots of
 * this memory; requests, answers and the MACs of what is put stay in TLS. Nobody has to trust the slots: what is got must open under its seal,
 * after a copy, and what is put is checked by its MAC. Whatever goes wrong here, the caller sends the same request with its body in TLS.
 */
import { bodyMac } from "../protocol/body-mac.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { fabricProvider, sourceOf } from "../protocol/fabric-providers.ts";
import { BLOCK_BYTES, TAG_BYTES } from "../protocol/limits.ts";
import { FabricLibraries } from "../transport/fabric-libraries.ts";
import { FabricPump } from "../transport/fabric-pump.ts";
import type { NodeClient } from "../transport/node-client.ts";
import type { CheckedSink } from "./chunk-node.ts";
import type { FabricCandidate } from "./fabric-candidates.ts";
import { closePath, type OpenPath, openPath, SLOT_BYTES } from "./open-path.ts";
import { TransferCounts } from "./transfer-counts.ts";

/** Below this a body in TLS is as fast. */
const BODY_MIN_BYTES = 2 * BLOCK_BYTES;
/** A sealed block: what is got begins with one, and each is opened in one call then. */
const PART_BYTES = BLOCK_BYTES + TAG_BYTES;
/** What opening a path, and the transfer that tries it, may take. */
const PROBE_MS = 3_000;
const PROBE_BYTES = 64 * 1024;
/** A path that failed is left alone for this long, twice as long each time, up to a minute. */
const REST_FIRST_MS = 1_000;
const REST_MAX_MS = 60_000;
/** Slots whose transfers ended without a word may still be written to. With more of them than this the path is made anew. */
const QUARANTINED_MAX = 4;
/** So long after a better path failed it is tried again, though the one that took over is well. */
const BETTER_AFTER_MS = 60_000;

export interface RdmaSettings {
  /** Best first. */
  readonly candidates: readonly FabricCandidate[];
  /** As many as memory can be pinned for, up to this. */
  readonly slots: number;
  /** For tests: instead of BETTER_AFTER_MS. */
  readonly betterAfterMs?: number;
}

export class RdmaPath {
  readonly #counts: TransferCounts;
  readonly #client: NodeClient;
  readonly #settings: RdmaSettings;
  readonly #log: (message: string) => void;
  #libraries: FabricLibraries | null = null;
  #path: OpenPath | null = null;
  #opening = false;
  #restMs = REST_FIRST_MS;
  #restsUntilMs = 0;
  /** When to try the better ones again. */
  #betterAtMs = 0;
  #closed = false;
  /** Those that somebody waits for. */
  readonly #waitedFor = new Set<OpenPath>();
  #lastSaid = "";
  /** Why it could not be opened last. */
  #problem = "it was closed";
  readonly #retiring = new Set<Promise<void>>();
  readonly #pump: FabricPump;
  readonly #scratch = new Uint8Array(PART_BYTES);

  /** @param loopFd see FabricPump */
  constructor(
    client: NodeClient,
    settings: RdmaSettings,
    loopFd: number | null,
    log: (message: string) => void,
    counts = new TransferCounts(),
  ) {
    this.#counts = counts;
    this.#pump = new FabricPump(loopFd, () => this.#waitedFor);
    this.#client = client;
    this.#settings = settings;
    this.#log = log;
  }

  get isOpen(): boolean {
    return this.#path !== null;
  }

  /** The connection is there (anew): the node knows nothing of the path of the one before. */
  connected(): void {
    this.#drop();
    void this.#open();
  }

  disconnected(): void {
    this.#drop();
  }

  /** Reads into the sink. null: it did not go this way, and nothing was read. @throws NodeError, TransportError */
  async get(id: Uint8Array, offset: number, into: CheckedSink, timeoutMs: number): Promise<number | null> {
    const slot = this.#take(into.length);
    if (slot === null) return null;
    const { path, at } = slot;
    try {
      const call = this.#client.call("rdmaGet", { id, offset, length: into.length, at }, { timeoutMs, signal: path.gone.signal });
      const { totalBytes, placed } = (await call).answer;
      into.begin();
      // The node, and whoever is on the fabric, may write to the slot at any time: what is opened is a copy.
      const source = path.memory.bytes;
      for (let done = 0; done < placed; done += PART_BYTES) {
        const part = this.#scratch.subarray(0, Math.min(PART_BYTES, placed - done));
        part.set(source.subarray(at + done, at + done + part.length));
        into.write(part);
      }
      into.finish();
      this.#carried(path, at, placed);
      return totalBytes;
    } catch (error) {
      return this.#failed(path, at, error);
    }
  }

  /** Stores a sealed chunk; false: it did not go this way. @throws NodeError, TransportError */
  async put(id: Uint8Array, sealed: Uint8Array, timeoutMs: number): Promise<boolean> {
    const slot = this.#take(sealed.length);
    if (slot === null) return false;
    const { path, at } = slot;
    try {
      const counter = ++path.counter;
      // Of the bytes that nobody else can reach, not of those in the slot.
      const mac = bodyMac(path.macKey, counter, sealed);
      path.memory.bytes.set(sealed, at);
      await this.#client.call("rdmaPut", { id, body: { at, bytes: sealed.length, counter, mac } }, { timeoutMs, signal: path.gone.signal });
      this.#carried(path, at, sealed.length);
      return true;
    } catch (error) {
      return this.#failed(path, at, error) !== null;
    }
  }

  #take(bytes: number): { path: OpenPath; at: number } | null {
    if (bytes < BODY_MIN_BYTES || bytes > SLOT_BYTES) return null;
    this.#leaveForBetter();
    const path = this.#path;
    if (path === null) {
      if (!this.#opening && performance.now() >= this.#restsUntilMs) void this.#open();
      return null;
    }
    const at = path.free.pop();
    if (at === undefined) return null;
    this.#use(path);
    return { path, at };
  }

  /** Where another one had to take over, the best is tried again after a while. */
  #leaveForBetter(): void {
    const path = this.#path;
    if (path === null || path.candidate === this.#settings.candidates[0]) return;
    if (path.inUse === 0 && performance.now() >= this.#betterAtMs) this.#drop();
  }

  /** From here on the node's transfers go on. */
  #use(path: OpenPath): void {
    path.inUse++;
    if (path.endpoint.isPassive) return;
    this.#waitedFor.add(path);
    this.#pump.kick();
  }

  #unuse(path: OpenPath): void {
    path.inUse--;
    if (path.inUse === 0 && !path.isRetired) this.#waitedFor.delete(path);
  }

  #carried(path: OpenPath, at: number, bytes: number): void {
    this.#unuse(path);
    path.free.push(at);
    this.#counts.byFabric(bytes);
    this.#restMs = REST_FIRST_MS;
  }

  /** What is wrong with the chunk is the caller's; what is wrong with the fabric is ours, and the request goes by TLS. */
  #failed(path: OpenPath, at: number, error: unknown): null {
    this.#unuse(path);
    if (error instanceof NodeError && error.code !== "fabric") {
      path.free.push(at);
      throw error;
    }
    this.#counts.fellBack();
    // An answer never came: a transfer may still be under way.
    path.quarantined++;
    if (path.gone.signal.aborted) return null;
    if (error instanceof TransportError && error.kind !== "timeout") throw error;
    if (error instanceof NodeError || path.quarantined > QUARANTINED_MAX || !(error instanceof TransportError)) this.#rest(path, error);
    return null;
  }

  /** Leaves the path for a while. Of all that were under way on it the first failure counts. */
  #rest(path: OpenPath, error: unknown): void {
    if (this.#path !== path) return;
    this.#drop();
    const failed = `the fabric ${nameOf(path.candidate)} failed: ${textOf(error)}`;
    const next = this.#settings.candidates.indexOf(path.candidate) + 1;
    if (next < this.#settings.candidates.length) {
      this.#say(`${failed}; the next one is tried`);
      void this.#open(next);
    } else {
      this.#say(`bodies go by TLS for ${this.#restMs / 1000} s, ${failed}`);
      this.#restABit();
    }
  }

  #restABit(): void {
    this.#restsUntilMs = performance.now() + this.#restMs;
    this.#restMs = Math.min(REST_MAX_MS, 2 * this.#restMs);
  }

  /** Each reason once in a row. */
  #say(message: string): void {
    if (message === this.#lastSaid) return;
    this.#lastSaid = message;
    this.#log(message);
  }

  /** Opens it now. null: it is open, else why it can't be. */
  async tryOnce(): Promise<string | null> {
    await this.#open();
    return this.isOpen ? null : this.#problem;
  }

  /** The transfer that a path is tried with. Nothing else may be under way. @throws NodeError, TransportError, Error */
  async probe(): Promise<void> {
    if (this.#path === null) throw new Error("the path is closed");
    await this.#tryBothWays(this.#path);
  }

  /** Opens the first that can be opened. @param from the number of the candidate to begin with */
  async #open(from = 0): Promise<void> {
    if (this.#opening || this.#closed) return;
    this.#opening = true;
    const problems: string[] = [];
    for (const candidate of this.#settings.candidates.slice(from)) {
      const problem = await this.#openOne(candidate);
      if (problem === null || this.#closed) break;
      problems.push(problem);
    }
    this.#opening = false;
    if (this.#path !== null || this.#closed) return;
    this.#problem = problems.join("; ");
    this.#say(`bodies go by TLS, no fabric can be used: ${this.#problem}`);
    this.#restABit();
  }

  /** null: it is open, else why not. */
  async #openOne(candidate: FabricCandidate): Promise<string | null> {
    let path: OpenPath | null = null;
    try {
      path = this.#openEndpoint(candidate);
      await this.#introduce(path);
      if (this.#closed) throw new Error("closed");
      this.#path = path;
      this.#counts.isOpen = true;
      this.#betterAtMs = performance.now() + (this.#settings.betterAfterMs ?? BETTER_AFTER_MS);
      this.#say(`bodies go over the fabric ${candidate.provider} (${path.endpoint.device.domain})`);
      return null;
    } catch (error) {
      if (path !== null) this.#retire(path);
      return `${nameOf(candidate)}: ${textOf(error)}`;
    }
  }

  #openEndpoint(candidate: FabricCandidate): OpenPath {
    const { provider } = candidate;
    const kind = fabricProvider(provider);
    if (kind === null) throw new Error(`no fabric is called ${provider}`);
    this.#libraries ??= new FabricLibraries(this.#settings.candidates.flatMap((each) => fabricProvider(each.provider) ?? []));
    const source = sourceOf(kind, candidate.source, this.#client.localAddress);
    const endpoint = this.#libraries.openEndpoint(kind, { source, role: "target", operations: 1 });
    return openPath(endpoint, candidate, this.#settings.slots, this.#log);
  }

  /** Tells the node of the memory, and tries it with a real transfer both ways. */
  async #introduce(path: OpenPath): Promise<void> {
    const { endpoint, memory, region, macKey } = path;
    const { provider, domain } = path.candidate;
    const word = (value: bigint) => {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, value);
      return bytes;
    };
    const memoryOf = { base: word(region.base), key: word(region.key), bytes: memory.length, macKey };
    this.#use(path);
    try {
      const call = this.#client.call("rdmaOpen", { provider, domain, name: endpoint.name, ...memoryOf }, { timeoutMs: PROBE_MS });
      endpoint.accept((await call).answer.name);
      await this.#tryBothWays(path);
    } finally {
      this.#unuse(path);
    }
  }

  /** 64 KiB there and back, through the first slot. @throws NodeError, TransportError; Error when something else came back */
  async #tryBothWays(path: OpenPath): Promise<void> {
    const { memory, macKey } = path;
    this.#use(path);
    try {
      const sent = crypto.getRandomValues(memory.bytes.subarray(0, PROBE_BYTES));
      const counter = ++path.counter;
      const body = { at: 0, bytes: PROBE_BYTES, counter, mac: bodyMac(macKey, counter, sent) };
      await this.#client.call("rdmaProbe", body, { timeoutMs: PROBE_MS });
      if (Buffer.compare(sent, memory.bytes.subarray(PROBE_BYTES, 2 * PROBE_BYTES)) !== 0)
        throw new Error("what came back was not what was sent");
    } finally {
      this.#unuse(path);
    }
  }

  #drop(): void {
    const path = this.#path;
    this.#path = null;
    if (path === null) return;
    this.#counts.isOpen = false;
    path.gone.abort();
    this.#retire(path);
  }

  /** Closes it when the provider can do so safely. */
  #retire(path: OpenPath): void {
    const end = (): void => {
      this.#waitedFor.delete(path);
      closePath(path);
    };
    const settleMs = fabricProvider(path.candidate.provider)?.settleMs ?? 0;
    if (settleMs === 0) {
      end();
      return;
    }
    path.isRetired = true;
    this.#waitedFor.add(path);
    this.#pump.kick();
    const retiring = Bun.sleep(settleMs).then(() => {
      end();
      this.#retiring.delete(retiring);
    });
    this.#retiring.add(retiring);
  }

  /** Nothing goes this way any more; resolves when all that it had is given back. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#drop();
    await Promise.all(this.#retiring);
  }
}

/** Whether the fabric carries bytes between this machine and the node; null: it does, else why not. */
export async function probeFabric(client: NodeClient, settings: RdmaSettings, loopFd: number | null): Promise<string | null> {
  const path = new RdmaPath(client, settings, loopFd, () => undefined);
  try {
    return await path.tryOnce();
  } finally {
    await path.close();
  }
}

function nameOf({ provider, source }: FabricCandidate): string {
  return source === null ? provider : `${provider} (${source})`;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
