/**
 * Reliable connected queue pairs (RC) of ibverbs as an endpoint: a target has one, an initiator one for each target. One thread owns it.
 *
 * A target's device answers RDMA reads and writes by itself. The initiator follows each write by a read of its last bytes: the answer of a write says only
 * that the target's device has it, and a read can't overtake it on the way to memory (InfiniBand Architecture 1.4, o9-20; PCI Express ordering).
 *
 * ibv_create_qp(3), ibv_modify_qp(3), ibv_post_send(3), ibv_poll_cq(3), ibv_req_notify_cq(3).
 */
import { type Pointer, ptr, read } from "bun:ffi";
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
import { decodeName, encodeName, PSN_MASK, type QueuePairName } from "./queue-pair-name.ts";

/** Operations of one queue pair at a time; with two requests each its queue takes some KiB. */
const OPERATIONS_PER_QP = 16;
const COMPLETIONS_PER_POLL = 16;
/** 4.096 us x 2^14 = 67 ms for an acknowledgement, up to 7 times again: a lost packet costs little, and a peer that is gone is known within 4 s. */
const ACK_TIMEOUT = 14;
const RETRIES = 7;
const RNR_TIMER = 12;
/** Routers on the way of RoCE v2. */
const HOP_LIMIT = 64;
/** RDMA reads at a time on one queue pair; more makes no disk faster. */
const READS_MAX = 16;
/** Each operation has a first request, and a second one where it is a write. */
const REQUESTS = 2;
/** Read behind a write. */
const FLUSH_BYTES = 8;
const ENOMEM = 12;
const PEERS_MAX = 4_096;

/** Two chained requests with what they point to, and where the library says which it did not take. */
const POST = { second: layout.ibv_send_wr.SIZE, sge: 2 * layout.ibv_send_wr.SIZE, secondSge: 272, bad: 288, SIZE: 296 };

interface QueuePair {
  readonly handle: Pointer;
  readonly name: QueuePairName;
  /** Operations under way. */
  running: number;
  isLeaving: boolean;
}

interface Operation {
  readonly queuePair: QueuePair;
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
  readonly #port: RdmaPort;
  readonly #context: Pointer;
  readonly #attributes: Omit<QueuePairName, "number" | "psn">;
  readonly #initiatedReads: number;
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
  readonly #peers = new Map<bigint, QueuePair>();
  readonly #leaving = new Set<QueuePair>();
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
    this.#port = port;
    this.isPassive = role === "target";
    this.device = { provider: "verbs", fabric: port.linkLayer, domain: portName(port) };
    try {
      this.#context = this.#keep(lib.openDevice(port.device), "ibv_close_device");
      const { view: device } = this.#deviceAttributes();
      const attr = lib.port(this.#context, port.port);
      if (attr.getInt32(layout.ibv_port_attr.state, true) !== layout.IBV_PORT_ACTIVE) throw new Error(`port ${port.port} is not active`);
      this.#attributes = {
        lid: attr.getUint16(layout.ibv_port_attr.lid, true),
        mtu: attr.getInt32(layout.ibv_port_attr.active_mtu, true),
        isEthernet: attr.getUint8(layout.ibv_port_attr.link_layer) === layout.IBV_LINK_LAYER_ETHERNET,
        reads: Math.min(READS_MAX, device.getInt32(layout.ibv_device_attr.max_qp_rd_atom, true)),
        gid: lib.gid(this.#context, port.port, port.gidIndex),
      };
      this.#initiatedReads = Math.min(READS_MAX, device.getInt32(layout.ibv_device_attr.max_qp_init_rd_atom, true));
      this.#pd = this.#keep(lib.create("ibv_alloc_pd", this.#context), "ibv_dealloc_pd");
      this.#channel = this.#keep(lib.create("ibv_create_comp_channel", this.#context), "ibv_destroy_comp_channel");
      const fd = read.i32(this.#channel, layout.ibv_comp_channel.fd);
      setNonBlocking(fd);
      const room = REQUESTS * operations + COMPLETIONS_PER_POLL;
      this.#cq = this.#keep(lib.create("ibv_create_cq", this.#context, room, null, this.#channel, 0), "ibv_destroy_cq");
      this.#path = lib.dataPath(this.#context);
      this.#flushed = this.register(this.#flushedInto, "local");
      if (role === "target") {
        this.#own = this.#createQueuePair();
        this.name = encodeName(this.#own.name);
      } else this.waitFd = fd;
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  #keep(
    handle: Pointer,
    close: "ibv_close_device" | "ibv_dealloc_pd" | "ibv_destroy_comp_channel" | "ibv_destroy_cq" | "ibv_destroy_qp",
  ): Pointer {
    this.#undo.push(() => this.#lib.check(close, handle));
    return handle;
  }

  #deviceAttributes(): { view: DataView } {
    const attr = new Uint8Array(layout.ibv_device_attr.SIZE);
    this.#lib.check("ibv_query_device", this.#context, ptr(attr));
    return { view: new DataView(attr.buffer) };
  }

  #createQueuePair(): QueuePair {
    const attr = new Uint8Array(layout.ibv_qp_init_attr.SIZE);
    const view = new DataView(attr.buffer);
    view.setBigUint64(layout.ibv_qp_init_attr.send_cq, BigInt(this.#cq), true);
    view.setBigUint64(layout.ibv_qp_init_attr.recv_cq, BigInt(this.#cq), true);
    view.setInt32(layout.ibv_qp_init_attr.qp_type, layout.IBV_QPT_RC, true);
    const { cap } = layout.ibv_qp_init_attr;
    view.setUint32(cap + layout.ibv_qp_cap.max_send_wr, this.isPassive ? 1 : REQUESTS * OPERATIONS_PER_QP, true);
    view.setUint32(cap + layout.ibv_qp_cap.max_recv_wr, 1, true);
    view.setUint32(cap + layout.ibv_qp_cap.max_send_sge, 1, true);
    view.setUint32(cap + layout.ibv_qp_cap.max_recv_sge, 1, true);
    const handle = this.#lib.create("ibv_create_qp", this.#pd, ptr(attr));
    const psn = (crypto.getRandomValues(new Uint32Array(1))[0] as number) & PSN_MASK;
    const name = { ...this.#attributes, number: read.u32(handle, layout.ibv_qp.qp_num), psn };
    const queuePair: QueuePair = { handle, name, running: 0, isLeaving: false };
    try {
      this.#initialize(queuePair);
    } catch (error) {
      this.#lib.check("ibv_destroy_qp", handle);
      throw error;
    }
    return queuePair;
  }

  #initialize({ handle }: QueuePair): void {
    const { IBV_QP_STATE, IBV_QP_PKEY_INDEX, IBV_QP_PORT, IBV_QP_ACCESS_FLAGS } = layout;
    // Nobody reaches an initiator's memory: the queue pair refuses it, whatever keys are known.
    const access = this.isPassive ? layout.IBV_ACCESS_REMOTE_READ | layout.IBV_ACCESS_REMOTE_WRITE : 0;
    this.#modify(handle, layout.IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS | IBV_QP_STATE, (view) => {
      view.setUint8(layout.ibv_qp_attr.port_num, this.#port.port);
      view.setUint32(layout.ibv_qp_attr.qp_access_flags, access, true);
    });
  }

  /** Ready to receive from the peer: all that a target needs. */
  #connect(queuePair: QueuePair, peer: QueuePairName): void {
    if (peer.isEthernet !== this.#attributes.isEthernet) throw new Error("the peer is on another kind of network (InfiniBand, RoCE)");
    const mask =
      layout.IBV_QP_STATE |
      layout.IBV_QP_AV |
      layout.IBV_QP_PATH_MTU |
      layout.IBV_QP_DEST_QPN |
      layout.IBV_QP_RQ_PSN |
      layout.IBV_QP_MAX_DEST_RD_ATOMIC |
      layout.IBV_QP_MIN_RNR_TIMER;
    this.#modify(queuePair.handle, layout.IBV_QPS_RTR, mask, (view, bytes) => {
      const { ibv_qp_attr: attr, ibv_ah_attr: ah, ibv_global_route: route } = layout;
      view.setInt32(attr.path_mtu, Math.min(peer.mtu, this.#attributes.mtu), true);
      view.setUint32(attr.dest_qp_num, peer.number, true);
      view.setUint32(attr.rq_psn, peer.psn, true);
      view.setUint8(attr.max_dest_rd_atomic, this.#attributes.reads);
      view.setUint8(attr.min_rnr_timer, RNR_TIMER);
      view.setUint8(attr.ah_attr + ah.port_num, this.#port.port);
      view.setUint16(attr.ah_attr + ah.dlid, peer.lid, true);
      // InfiniBand within a subnet goes by LID; RoCE has addresses alone.
      if (!peer.isEthernet) return;
      view.setUint8(attr.ah_attr + ah.is_global, 1);
      bytes.set(peer.gid, attr.ah_attr + ah.grh + route.dgid);
      view.setUint8(attr.ah_attr + ah.grh + route.sgid_index, this.#port.gidIndex);
      view.setUint8(attr.ah_attr + ah.grh + route.hop_limit, HOP_LIMIT);
    });
  }

  #readyToSend(queuePair: QueuePair, peer: QueuePairName): void {
    const mask =
      layout.IBV_QP_STATE |
      layout.IBV_QP_TIMEOUT |
      layout.IBV_QP_RETRY_CNT |
      layout.IBV_QP_RNR_RETRY |
      layout.IBV_QP_SQ_PSN |
      layout.IBV_QP_MAX_QP_RD_ATOMIC;
    this.#modify(queuePair.handle, layout.IBV_QPS_RTS, mask, (view) => {
      view.setUint8(layout.ibv_qp_attr.timeout, ACK_TIMEOUT);
      view.setUint8(layout.ibv_qp_attr.retry_cnt, RETRIES);
      view.setUint8(layout.ibv_qp_attr.rnr_retry, RETRIES);
      view.setUint32(layout.ibv_qp_attr.sq_psn, queuePair.name.psn, true);
      view.setUint8(layout.ibv_qp_attr.max_rd_atomic, Math.min(peer.reads, this.#initiatedReads));
    });
  }

  #modify(handle: Pointer, state: number, mask: number, fill: (view: DataView, bytes: Uint8Array) => void): void {
    const bytes = new Uint8Array(layout.ibv_qp_attr.SIZE);
    const view = new DataView(bytes.buffer);
    view.setInt32(layout.ibv_qp_attr.qp_state, state, true);
    fill(view, bytes);
    this.#lib.check("ibv_modify_qp", handle, ptr(bytes), mask);
  }

  insert(name: Uint8Array): InsertedPeer {
    this.#requireOpen();
    if (this.isPassive) throw new Error("a target reaches nobody");
    if (this.#peers.size + this.#leaving.size >= PEERS_MAX) throw new Error(`more than ${PEERS_MAX} peers`);
    const peer = decodeName(name);
    const queuePair = this.#createQueuePair();
    try {
      this.#connect(queuePair, peer);
      this.#readyToSend(queuePair, peer);
    } catch (error) {
      this.#lib.check("ibv_destroy_qp", queuePair.handle);
      throw error;
    }
    const id = ++this.#lastPeer;
    this.#peers.set(id, queuePair);
    return { peer: id, name: encodeName(queuePair.name) };
  }

  /** What is under way ends with an error, and the queue pair after it. */
  remove(peer: bigint): void {
    this.#requireOpen();
    const queuePair = this.#peers.get(peer);
    if (queuePair === undefined) return;
    this.#peers.delete(peer);
    if (queuePair.running === 0) {
      this.#lib.check("ibv_destroy_qp", queuePair.handle);
      return;
    }
    queuePair.isLeaving = true;
    this.#leaving.add(queuePair);
    this.#modify(queuePair.handle, layout.IBV_QPS_ERR, layout.IBV_QP_STATE, () => undefined);
  }

  accept(name: Uint8Array): void {
    this.#requireOpen();
    if (this.#own === null) throw new Error("an initiator offers no memory");
    this.#connect(this.#own, decodeName(name));
  }

  register(memory: FixedMemory, use: "local" | "remote"): MemoryRegion {
    this.#requireOpen();
    // The device needs local write access for remote writes.
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
    return this.#send(operation, peer, POST.second);
  }

  read(operation: number, into: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean {
    this.#requireOpen();
    checkRange(into, offset, length);
    this.#request(1, operation, layout.IBV_WR_RDMA_READ, into, offset, length, address, key);
    return this.#send(operation, peer, null);
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

  /** @param chained where the second request stands behind the first; null: there is only the second */
  #send(operation: number, peer: bigint, chained: number | null): boolean {
    const queuePair = this.#peers.get(peer);
    if (queuePair === undefined) throw new Error("the peer is gone");
    if (queuePair.running >= OPERATIONS_PER_QP) return false;
    const first = this.#post.at(chained === null ? POST.second : 0);
    const status = this.#path.postSend(queuePair.handle, first, this.#post.at(POST.bad));
    if (status !== 0) {
      // Should the write have been taken without the read behind it: the device is done with it when the queue pair is in error.
      if (chained !== null) this.#modify(queuePair.handle, layout.IBV_QPS_ERR, layout.IBV_QP_STATE, () => undefined);
      throw osError("ibv_post_send", Math.abs(status));
    }
    queuePair.running++;
    this.#running.set(operation, { queuePair, error: null });
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
    const { queuePair } = operation;
    queuePair.running--;
    if (queuePair.isLeaving && queuePair.running === 0) {
      this.#leaving.delete(queuePair);
      this.#lib.check("ibv_destroy_qp", queuePair.handle);
    }
    onCompletion(number, operation.error);
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
    const queuePairs = [...this.#peers.values(), ...this.#leaving, ...(this.#own === null ? [] : [this.#own])];
    const steps = [
      ...queuePairs.map(
        ({ handle }) =>
          () =>
            this.#lib.check("ibv_destroy_qp", handle),
      ),
      ...this.#regions,
      ...this.#undo.splice(0).reverse(),
    ];
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
