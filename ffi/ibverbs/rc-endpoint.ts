/**
 * Reliable connected queue pairs (RC) of ibverbs as an endpoint: a target has one, an initiator one for each target. One thread owns it.
 *
 * A target's device answers RDMA reads and writes by itself. The initiator follows each write by a read of its last bytes: the answer of a write says only
 * that the target's device has it, and a read can't overtake it on the way to memory (InfiniBand Architecture 1.4, o9-20; PCI Express ordering).
 *
 * ibv_reg_mr(3), ibv_post_send(3), ibv_poll_cq(3), ibv_req_notify_cq(3).
 */
import { type Pointer, read } from "bun:ffi";
import {
  checkRange,
  type FabricDevice,
  type FabricEndpoint,
  type FixedMemory,
  type InsertedPeer,
  type MemoryRegion,
  type OnCompletion,
  PinningError,
} from "../fabric-endpoint.ts";
import { setNonBlocking } from "../libc/libc.ts";
import { MappedMemory } from "../libc/memory.ts";
import { type DataPath, type Ibverbs, osError, VerbsError } from "./ibverbs.ts";
import * as layout from "./layout.ts";
import { portName, type RdmaPort } from "./ports.ts";
import { QueuePair, type QueuePairPort } from "./queue-pair.ts";
import { decodeName, encodeName } from "./queue-pair-name.ts";

/** Operations with one peer at a time; with two requests each its queue takes some KiB. */
const OPERATIONS_PER_PEER = 16;
const COMPLETIONS_PER_POLL = 16;
/** RDMA reads at a time on one queue pair; more makes no disk faster. */
const READS_MAX = 16;
/** Each operation has a first request, and a second one where it is a write. */
const REQUESTS = 2;
/** Read behind a write. */
const FLUSH_BYTES = 8;
const ENOMEM = 12;
const PEERS_MAX = 4_096;

const REQUESTS_BYTES = REQUESTS * layout.ibv_send_wr.SIZE;
/** Two chained requests with what they point to, and where the library says which it did not take. */
const POST = {
  second: layout.ibv_send_wr.SIZE,
  sge: REQUESTS_BYTES,
  secondSge: REQUESTS_BYTES + layout.ibv_sge.SIZE,
  bad: REQUESTS_BYTES + REQUESTS * layout.ibv_sge.SIZE,
  SIZE: REQUESTS_BYTES + REQUESTS * layout.ibv_sge.SIZE + 8,
};

interface Peer {
  readonly queuePair: QueuePair;
  /** Operations under way. */
  running: number;
  isLeaving: boolean;
}

interface Operation {
  readonly peer: Peer;
  error: VerbsError | null;
}

export interface RcOptions {
  readonly port: RdmaPort;
  readonly role: "initiator" | "target";
  /** At a time. */
  readonly operations: number;
}

export class RcEndpoint implements FabricEndpoint {
  readonly device: FabricDevice;
  readonly name: Uint8Array = new Uint8Array();
  readonly waitFd: number | null = null;
  readonly isPassive: boolean;
  readonly #lib: Ibverbs;
  readonly #context: Pointer;
  readonly #port: QueuePairPort;
  /** How to undo what was opened, in the order of opening. */
  readonly #undo: (() => void)[] = [];
  readonly #pd: Pointer;
  readonly #channel: Pointer;
  readonly #cq: Pointer;
  readonly #path: DataPath;
  readonly #post = new MappedMemory(POST.SIZE);
  readonly #completions = new MappedMemory(COMPLETIONS_PER_POLL * layout.ibv_wc.SIZE);
  readonly #regions = new Set<() => void>();
  readonly #flushedInto = new MappedMemory(FLUSH_BYTES);
  readonly #flushed: MemoryRegion;
  readonly #peers = new Map<bigint, Peer>();
  readonly #leaving = new Set<Peer>();
  readonly #running = new Map<number, Operation>();
  /** A target's. */
  readonly #own: QueuePair | null = null;
  #lastPeer = 0n;
  /** Completions that mayWait() found. */
  #found = 0;
  #closed = false;

  /** @throws VerbsError; Error when there is no such device */
  constructor(lib: Ibverbs, { port, role, operations }: RcOptions) {
    this.#lib = lib;
    this.isPassive = role === "target";
    this.device = { provider: "verbs", fabric: port.linkLayer, domain: portName(port) };
    try {
      this.#context = this.#keep(lib.openDevice(port.device), "ibv_close_device");
      this.#port = this.#queryPort(port);
      this.#pd = this.#keep(lib.create("ibv_alloc_pd", this.#context), "ibv_dealloc_pd");
      this.#channel = this.#keep(lib.create("ibv_create_comp_channel", this.#context), "ibv_destroy_comp_channel");
      const fd = read.i32(this.#channel, layout.ibv_comp_channel.fd);
      setNonBlocking(fd);
      const room = REQUESTS * operations + COMPLETIONS_PER_POLL;
      this.#cq = this.#keep(lib.create("ibv_create_cq", this.#context, room, null, this.#channel, 0), "ibv_destroy_cq");
      this.#path = lib.dataPath(this.#context);
      this.#flushed = this.register(this.#flushedInto, "local");
      if (role === "target") {
        // The device needs them at the queue pair and at the memory.
        const access = layout.IBV_ACCESS_REMOTE_READ | layout.IBV_ACCESS_REMOTE_WRITE;
        this.#own = new QueuePair(lib, this.#port, { pd: this.#pd, cq: this.#cq, requests: 1, access });
        this.name = encodeName(this.#own.name);
      } else this.waitFd = fd;
    } catch (error) {
      try {
        this.#end();
      } catch {
        // It would hide the reason.
      }
      throw error;
    }
  }

  #keep(handle: Pointer, close: "ibv_close_device" | "ibv_dealloc_pd" | "ibv_destroy_comp_channel" | "ibv_destroy_cq"): Pointer {
    this.#undo.push(() => this.#lib.check(close, handle));
    return handle;
  }

  #queryPort({ port, gidIndex }: RdmaPort): QueuePairPort {
    const device = this.#lib.device(this.#context);
    const attr = this.#lib.port(this.#context, port);
    if (attr.getInt32(layout.ibv_port_attr.state, true) !== layout.IBV_PORT_ACTIVE) throw new Error(`port ${port} is not active`);
    return {
      port,
      gidIndex,
      attributes: {
        lid: attr.getUint16(layout.ibv_port_attr.lid, true),
        mtu: attr.getInt32(layout.ibv_port_attr.active_mtu, true),
        isEthernet: attr.getUint8(layout.ibv_port_attr.link_layer) === layout.IBV_LINK_LAYER_ETHERNET,
        reads: Math.min(READS_MAX, device.getInt32(layout.ibv_device_attr.max_qp_rd_atom, true)),
        gid: this.#lib.gid(this.#context, port, gidIndex),
      },
      initiatedReads: Math.min(READS_MAX, device.getInt32(layout.ibv_device_attr.max_qp_init_rd_atom, true)),
    };
  }

  insert(name: Uint8Array): InsertedPeer {
    this.#requireOpen();
    if (this.isPassive) throw new Error("a target reaches nobody");
    if (this.#peers.size + this.#leaving.size >= PEERS_MAX) throw new Error(`more than ${PEERS_MAX} peers`);
    const target = decodeName(name);
    const requests = REQUESTS * OPERATIONS_PER_PEER;
    const queuePair = new QueuePair(this.#lib, this.#port, { pd: this.#pd, cq: this.#cq, requests, access: 0 });
    try {
      queuePair.readyToReceive(target);
      queuePair.readyToSend(target);
    } catch (error) {
      queuePair.close();
      throw error;
    }
    const id = ++this.#lastPeer;
    this.#peers.set(id, { queuePair, running: 0, isLeaving: false });
    return { peer: id, name: encodeName(queuePair.name) };
  }

  /** What is under way ends with an error, and the queue pair after it. */
  remove(id: bigint): void {
    this.#requireOpen();
    const peer = this.#peers.get(id);
    if (peer === undefined) return;
    this.#peers.delete(id);
    if (peer.running === 0) {
      peer.queuePair.close();
      return;
    }
    peer.isLeaving = true;
    this.#leaving.add(peer);
    peer.queuePair.breakOff();
  }

  accept(name: Uint8Array): void {
    this.#requireOpen();
    if (this.#own === null) throw new Error("an initiator offers no memory");
    this.#own.readyToReceive(decodeName(name));
  }

  register(memory: FixedMemory, use: "local" | "remote"): MemoryRegion {
    this.#requireOpen();
    // Remote writes need local write access besides.
    const remote = use === "remote" ? layout.IBV_ACCESS_REMOTE_READ | layout.IBV_ACCESS_REMOTE_WRITE : 0;
    let mr: Pointer;
    try {
      mr = this.#lib.create("ibv_reg_mr", this.#pd, memory.address, memory.length, layout.IBV_ACCESS_LOCAL_WRITE | remote);
    } catch (error) {
      if (!(error instanceof VerbsError) || error.code !== ENOMEM) throw error;
      throw new PinningError("ibv_reg_mr", memory.length);
    }
    const close = (): void => {
      if (this.#regions.delete(close)) this.#lib.check("ibv_dereg_mr", mr);
    };
    this.#regions.add(close);
    return {
      key: BigInt(read.u32(mr, layout.ibv_mr.rkey)),
      base: BigInt(memory.address),
      memory,
      descriptor: read.u32(mr, layout.ibv_mr.lkey),
      close,
    };
  }

  write(operation: number, from: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean {
    this.#requireOpen();
    checkRange(from, offset, length);
    const tail = Math.min(FLUSH_BYTES, length);
    this.#request(0, operation, layout.IBV_WR_RDMA_WRITE, from, offset, length, address, key);
    this.#request(1, operation, layout.IBV_WR_RDMA_READ, this.#flushed, 0, tail, address + BigInt(length - tail), key);
    return this.#send(operation, peer, true);
  }

  read(operation: number, into: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean {
    this.#requireOpen();
    checkRange(into, offset, length);
    this.#request(1, operation, layout.IBV_WR_RDMA_READ, into, offset, length, address, key);
    return this.#send(operation, peer, false);
  }

  /** `place` 1 is the last of an operation, and says that it has ended. */
  #request(
    place: 0 | 1,
    operation: number,
    opcode: number,
    { memory, descriptor }: MemoryRegion,
    offset: number,
    length: number,
    address: bigint,
    key: bigint,
  ): void {
    const { ibv_send_wr: wr, ibv_sge } = layout;
    const { view, address: base } = this.#post;
    const at = place * POST.second;
    const sge = place === 0 ? POST.sge : POST.secondSge;
    view.setBigUint64(at + wr.wr_id, BigInt(REQUESTS * operation + place), true);
    view.setBigUint64(at + wr.next, place === 0 ? BigInt(base + POST.second) : 0n, true);
    view.setBigUint64(at + wr.sg_list, BigInt(base + sge), true);
    view.setInt32(at + wr.num_sge, 1, true);
    view.setInt32(at + wr.opcode, opcode, true);
    view.setUint32(at + wr.send_flags, place === 1 ? layout.IBV_SEND_SIGNALED : 0, true);
    view.setBigUint64(at + wr["wr.rdma.remote_addr"], address, true);
    view.setUint32(at + wr["wr.rdma.rkey"], Number(key & 0xff_ff_ff_ffn), true);
    view.setBigUint64(sge + ibv_sge.addr, BigInt(memory.address + offset), true);
    view.setUint32(sge + ibv_sge.length, length, true);
    view.setUint32(sge + ibv_sge.lkey, Number(descriptor ?? 0), true);
  }

  /** @param isChained the second request stands behind the first; else there is only the second */
  #send(operation: number, id: bigint, isChained: boolean): boolean {
    const peer = this.#peers.get(id);
    if (peer === undefined) throw new Error("the peer is gone");
    if (peer.running >= OPERATIONS_PER_PEER) return false;
    const { queuePair } = peer;
    const first = this.#post.at(isChained ? 0 : POST.second);
    const status = this.#path.postSend(queuePair.handle, first, this.#post.at(POST.bad));
    if (status !== 0) {
      // Should the write have been taken without the read behind it: the device is done with it when the queue pair is in error.
      if (isChained) queuePair.breakOff();
      throw osError("ibv_post_send", Math.abs(status));
    }
    peer.running++;
    this.#running.set(operation, { peer, error: null });
    return true;
  }

  poll(onCompletion: OnCompletion): number {
    this.#requireOpen();
    const count = this.#found > 0 ? this.#found : this.#pollCq();
    this.#found = 0;
    let ended = 0;
    for (let i = 0; i < count; i++) ended += this.#take(i * layout.ibv_wc.SIZE, onCompletion);
    return ended;
  }

  #pollCq(): number {
    const count = this.#path.pollCq(this.#cq, COMPLETIONS_PER_POLL, this.#completions.address);
    if (count < 0) throw new VerbsError("ibv_poll_cq", -count, "the completion queue is broken");
    return count;
  }

  #take(at: number, onCompletion: OnCompletion): number {
    const { view } = this.#completions;
    const id = Number(view.getBigUint64(at + layout.ibv_wc.wr_id, true));
    const status = view.getInt32(at + layout.ibv_wc.status, true);
    const number = Math.floor(id / REQUESTS);
    const operation = this.#running.get(number);
    if (operation === undefined) return 0;
    if (status !== layout.IBV_WC_SUCCESS) operation.error ??= new VerbsError("RDMA", status, this.#lib.statusText(status));
    // A write that fails says so, and the read behind it is flushed then.
    if (id % REQUESTS === 0) return 0;
    this.#running.delete(number);
    const { peer } = operation;
    peer.running--;
    onCompletion(number, operation.error);
    if (peer.isLeaving && peer.running === 0) {
      this.#leaving.delete(peer);
      peer.queuePair.close();
    }
    return 1;
  }

  mayWait(): boolean {
    this.#requireOpen();
    while (this.#lib.takeCqEvent(this.#channel)) {
      // One of an earlier wait.
    }
    const status = this.#path.reqNotifyCq(this.#cq, 0);
    if (status !== 0) throw osError("ibv_req_notify_cq", Math.abs(status));
    // What came before it was asked for is not told.
    this.#found = this.#pollCq();
    return this.#found === 0;
  }

  #requireOpen(): void {
    if (this.#closed) throw new Error("the endpoint is closed");
  }

  close(): void {
    if (this.#closed) return;
    this.#end();
  }

  /** In the reverse order of opening; the first failure is thrown when all has been tried. */
  #end(): void {
    this.#closed = true;
    const queuePairs = [...this.#peers.values(), ...this.#leaving].map(({ queuePair }) => queuePair);
    if (this.#own !== null) queuePairs.push(this.#own);
    const steps = [...queuePairs.map((queuePair) => (): void => queuePair.close()), ...this.#regions, ...this.#undo.splice(0).reverse()];
    let failure: unknown = null;
    for (const step of steps) {
      try {
        step();
      } catch (error) {
        failure ??= error;
      }
    }
    this.#peers.clear();
    this.#leaving.clear();
    this.#running.clear();
    this.#post.close();
    this.#completions.close();
    this.#flushedInto.close();
    if (failure !== null) throw failure;
  }
}
