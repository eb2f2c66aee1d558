/**
 * Bodies of chunks over a fabric: the node's side. Only the node starts transfers: it fetches what is put out of the client's memory into a buffer of its
 * own, and places what is asked for in it. What is here runs on the main thread and touches no body; the Worker moves them.
 */
import { MappedMemory } from "../../../ffi/libc/memory.ts";
import { bodyMac } from "../../protocol/body-mac.ts";
import { NodeError } from "../../protocol/errors.ts";
import { fabricProvider } from "../../protocol/fabric-providers.ts";
import { CHUNK_MAX_BYTES, KIB } from "../../protocol/limits.ts";
import type { FabricOffer, RdmaBody, RequestOf } from "../../protocol/messages.ts";
import { workerUrl } from "../../worker-url.ts";
import { DiskSlots, type TenantSlots } from "../disk-slots.ts";
import type { FromRdmaWorker, ProviderStart, ToRdmaWorker } from "./messages.ts";

/** A sealed chunk, a store's trailer, and a page at either end for reads with O_DIRECT. */
const BUFFER_BYTES = CHUNK_MAX_BYTES + 16 * KIB;
/** 96 MiB. A tenant has a third of them at most, so that none takes all. */
const BUFFERS = 24;
const BUFFERS_PER_TENANT = 8;
/** A transfer takes a millisecond. After this the client does it by TLS; the buffer waits until the fabric has let go of it. */
const TRANSFER_MS = 5_000;
/** The Worker has this long to open its endpoints. */
const START_MS = 20_000;
const STOP_MS = 2_000;

export interface RdmaLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

interface Job {
  readonly resolve: () => void;
  readonly reject: (error: NodeError) => void;
  readonly timer: ReturnType<typeof setTimeout>;
}

/** A buffer, for as long as somebody uses it. */
interface TransferBuffer {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export class RdmaService {
  readonly #worker: Worker;
  readonly #memory: MappedMemory;
  readonly #logger: RdmaLogger;
  readonly #free: number[] = Array.from({ length: BUFFERS }, (_, i) => i);
  readonly #slots = new DiskSlots(BUFFERS, BUFFERS_PER_TENANT);
  readonly #tenants = new Map<string, TenantSlots>();
  readonly #jobs = new Map<number, Job>();
  /** Peers that the Worker is asked to make usable. */
  readonly #admissions = new Map<number, PromiseWithResolvers<Uint8Array>>();
  /** Called when the fabric has let go of a buffer whose transfer was given up. */
  readonly #late = new Map<number, () => void>();
  #lastJob = 0;
  #lastPeer = 0;
  #offers: FabricOffer[] = [];
  readonly #started = Promise.withResolvers<void>();
  readonly #stopped = Promise.withResolvers<void>();

  private constructor(logger: RdmaLogger) {
    this.#logger = logger;
    this.#memory = new MappedMemory(BUFFERS * BUFFER_BYTES);
    this.#worker = new Worker(workerUrl("node/fabric/rdma-worker.ts"));
    this.#worker.addEventListener("message", ({ data }: MessageEvent<FromRdmaWorker>) => this.#heard(data));
    this.#worker.addEventListener("error", (event) => this.#lost(event.message));
  }

  /** Opens an endpoint for each provider that can be had; null: none can. */
  static async start(providers: readonly ProviderStart[], logger: RdmaLogger): Promise<RdmaService | null> {
    const service = new RdmaService(logger);
    const { address, length } = service.#memory;
    service.#say({ kind: "start", providers, memory: { address, bytes: length } });
    const timer = setTimeout(() => service.#started.resolve(), START_MS);
    await service.#started.promise;
    clearTimeout(timer);
    if (service.#offers.length > 0) return service;
    await service.stop();
    return null;
  }

  /** Best first. */
  get offers(): readonly FabricOffer[] {
    return this.#offers;
  }

  /** The client's memory, as one connection's, and what the client has to accept. @throws NodeError "fabric" */
  async open(request: RequestOf<"rdmaOpen">, tenant: string): Promise<{ peer: RdmaPeer; name: Uint8Array }> {
    const { provider } = request;
    const offer = this.#offers.find((each) => each.provider === provider && (request.domain === "" || each.domain === request.domain));
    if (offer === undefined)
      throw new NodeError("fabric", `this node has no fabric ${fabricProvider(request.provider)?.name ?? "of that name"}`);
    const id = ++this.#lastPeer;
    const name = await this.#admit({ kind: "peer", id, provider, domain: offer.domain, name: request.name });
    let slots = this.#tenants.get(tenant);
    if (slots === undefined) {
      slots = this.#slots.tenant();
      this.#tenants.set(tenant, slots);
    }
    return { peer: new RdmaPeer(this, id, request, slots), name };
  }

  async #admit(message: Extract<ToRdmaWorker, { kind: "peer" }>): Promise<Uint8Array> {
    const { id } = message;
    const admission = Promise.withResolvers<Uint8Array>();
    this.#admissions.set(id, admission);
    const timer = setTimeout(() => {
      admission.reject(new NodeError("fabric", "the fabric does not answer"));
      this.forget(id);
    }, TRANSFER_MS);
    try {
      this.#say(message);
      return await admission.promise;
    } finally {
      clearTimeout(timer);
      this.#admissions.delete(id);
    }
  }

  /** For RdmaPeer. */
  forget(id: number): void {
    this.#say({ kind: "forget", id });
  }

  /** For RdmaPeer: `use` has a buffer, within its tenant's share. */
  async withBuffer<T>(slots: TenantSlots, use: (buffer: TransferBuffer, pending: (job: number) => void) => Promise<T>): Promise<T> {
    return await slots.use(async () => {
      const index = this.#free.pop();
      // Those of transfers that were given up are away for longer than their places.
      if (index === undefined) throw new NodeError("fabric", "all buffers are held by transfers that do not end");
      let pendingJob: number | null = null;
      try {
        const offset = index * BUFFER_BYTES;
        const bytes = this.#memory.bytes.subarray(offset, offset + BUFFER_BYTES);
        return await use({ offset, bytes }, (job) => {
          pendingJob = job;
        });
      } finally {
        const giveBack = () => void this.#free.push(index);
        if (pendingJob !== null && !this.#isOver(pendingJob)) this.#late.set(pendingJob, giveBack);
        else giveBack();
      }
    });
  }

  #isOver(job: number): boolean {
    return !this.#running.has(job);
  }

  /** Jobs that the Worker has not told the end of. */
  readonly #running = new Set<number>();

  /** For RdmaPeer. Resolves when it is done. @throws NodeError "fabric" */
  transfer(what: Omit<Extract<ToRdmaWorker, { kind: "transfer" }>, "kind" | "job">, started: (job: number) => void): Promise<void> {
    const job = ++this.#lastJob;
    this.#running.add(job);
    started(job);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#jobs.delete(job);
        reject(new NodeError("fabric", `a transfer did not end within ${TRANSFER_MS / 1000} s`));
      }, TRANSFER_MS);
      this.#jobs.set(job, { resolve, reject, timer });
      this.#say({ kind: "transfer", job, ...what });
    });
  }

  #say(message: ToRdmaWorker): void {
    this.#worker.postMessage(message);
  }

  #heard(message: FromRdmaWorker): void {
    if (message.kind === "started") {
      this.#offers = [...message.opened];
      for (const failed of message.failed) this.#logger.warn(failed, "a fabric can't be used");
      for (const opened of message.opened) this.#logger.info(opened, "bodies can be moved over a fabric");
      this.#started.resolve();
    } else if (message.kind === "peer") {
      const admission = this.#admissions.get(message.id);
      if (message.name !== null) admission?.resolve(message.name);
      else admission?.reject(new NodeError("fabric", `the client can't be reached: ${message.error}`));
    } else if (message.kind === "stopped") {
      this.#stopped.resolve();
    } else {
      this.#done(message.job, message.error);
    }
  }

  #done(id: number, error: string | null): void {
    this.#running.delete(id);
    this.#late.get(id)?.();
    this.#late.delete(id);
    const job = this.#jobs.get(id);
    if (job === undefined) return;
    this.#jobs.delete(id);
    clearTimeout(job.timer);
    if (error === null) job.resolve();
    else job.reject(new NodeError("fabric", error));
  }

  /** Everything goes by TLS from here on. */
  #lost(reason: string): void {
    this.#offers = [];
    this.#logger.warn({ reason }, "the thread that serves fabrics has ended: all bodies go by TLS until the node is started again");
    this.#endAll("the node's fabric has ended");
    this.#started.resolve();
    this.#stopped.resolve();
  }

  /** Transfers under way are given up. */
  async stop(): Promise<void> {
    this.#offers = [];
    this.#say({ kind: "stop" });
    const timer = setTimeout(() => this.#stopped.resolve(), STOP_MS);
    await this.#stopped.promise;
    clearTimeout(timer);
    this.#worker.terminate();
    this.#endAll("the node stops");
  }

  #endAll(reason: string): void {
    for (const id of [...this.#jobs.keys()]) this.#done(id, reason);
    for (const { reject } of this.#admissions.values()) reject(new NodeError("fabric", reason));
  }
}

/** The memory of one client's connection. */
export class RdmaPeer {
  readonly #service: RdmaService;
  readonly #id: number;
  readonly #base: bigint;
  readonly #key: bigint;
  readonly #bytes: number;
  readonly #macKey: Uint8Array;
  readonly #slots: TenantSlots;

  constructor(service: RdmaService, id: number, { base, key, bytes, macKey }: RequestOf<"rdmaOpen">, slots: TenantSlots) {
    this.#service = service;
    this.#id = id;
    this.#base = word(base);
    this.#key = word(key);
    this.#bytes = bytes;
    this.#macKey = macKey.slice();
    this.#slots = slots;
  }

  /** Fetches a body, checks it, and hands it to `use`: its memory is used again afterwards. @throws NodeError "fabric" */
  async fetch<T>(body: RdmaBody, use: (bytes: Uint8Array, offset: number) => Promise<T>): Promise<T> {
    this.#check(body.at, body.bytes);
    return await this.#service.withBuffer(this.#slots, async (buffer, started) => {
      await this.#transfer("fetch", buffer.offset, body.bytes, body.at, started);
      const bytes = buffer.bytes.subarray(0, body.bytes);
      if (!this.#isGenuine(bytes, body)) throw new NodeError("fabric", "a body was changed on its way");
      return await use(bytes, buffer.offset);
    });
  }

  /** `read` fills the buffer that it is given, and says which part of it is to be placed at `at` in the client's memory. @throws NodeError "fabric" */
  async place<T>(at: number, read: (buffer: Uint8Array) => Promise<{ bytes: Uint8Array; result: T }>): Promise<T> {
    return await this.#service.withBuffer(this.#slots, async (buffer, started) => {
      const { bytes, result } = await read(buffer.bytes);
      if (bytes.length === 0) return result;
      this.#check(at, bytes.length);
      const offset = buffer.offset + (bytes.byteOffset - buffer.bytes.byteOffset);
      await this.#transfer("place", offset, bytes.length, at, started);
      return result;
    });
  }

  /** What has come is placed behind itself. */
  async probe(body: RdmaBody): Promise<void> {
    this.#check(body.at, 2 * body.bytes);
    await this.#service.withBuffer(this.#slots, async (buffer, started) => {
      await this.#transfer("fetch", buffer.offset, body.bytes, body.at, started);
      if (!this.#isGenuine(buffer.bytes.subarray(0, body.bytes), body)) throw new NodeError("fabric", "a body was changed on its way");
      await this.#transfer("place", buffer.offset, body.bytes, body.at + body.bytes, started);
    });
  }

  #transfer(direction: "place" | "fetch", offset: number, bytes: number, at: number, started: (job: number) => void): Promise<void> {
    const address = this.#base + BigInt(at);
    return this.#service.transfer({ peer: this.#id, direction, offset, bytes, address, key: this.#key }, started);
  }

  #check(at: number, bytes: number): void {
    if (at + bytes > this.#bytes) throw new NodeError("bad_request", `${bytes} bytes at ${at} of a memory of ${this.#bytes}`);
  }

  #isGenuine(bytes: Uint8Array, { counter, mac }: RdmaBody): boolean {
    return Buffer.compare(bodyMac(this.#macKey, counter, bytes), mac) === 0;
  }

  close(): void {
    this.#service.forget(this.#id);
    this.#macKey.fill(0);
  }
}

function word(bytes: Uint8Array): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0);
}
