/**
 * One reliable connected queue pair (RC) and its way through the states: INIT when it is made, RTR when it knows its peer, RTS when it may send, ERR.
 * ibv_create_qp(3), ibv_modify_qp(3).
 */
import { type Pointer, read } from "bun:ffi";
import type { Ibverbs } from "./ibverbs.ts";
import * as layout from "./layout.ts";
import { PSN_MASK, type QueuePairName } from "./queue-pair-name.ts";

/** 4.096 us x 2^14 = 67 ms for an acknowledgement, up to 7 times again: a lost packet costs little, and a peer that is gone is known within 4 s. */
const ACK_TIMEOUT = 14;
const RETRIES = 7;
const RNR_TIMER = 12;
/** Routers on the way of RoCE v2. */
const HOP_LIMIT = 64;

/** What all queue pairs of a port have in common. */
export interface QueuePairPort {
  /** From 1. */
  readonly port: number;
  readonly gidIndex: number;
  readonly attributes: Omit<QueuePairName, "number" | "psn">;
  /** RDMA reads that the device starts at a time. */
  readonly initiatedReads: number;
}

export interface QueuePairOptions {
  readonly pd: Pointer;
  readonly cq: Pointer;
  /** Requests that may be posted and have not ended. */
  readonly requests: number;
  /** IBV_ACCESS_*: what its peer may do; 0: nothing, whatever keys it knows. */
  readonly access: number;
}

export class QueuePair {
  readonly handle: Pointer;
  readonly name: QueuePairName;
  readonly #lib: Ibverbs;
  readonly #port: QueuePairPort;

  /** @throws VerbsError */
  constructor(lib: Ibverbs, port: QueuePairPort, { pd, cq, requests, access }: QueuePairOptions) {
    this.#lib = lib;
    this.#port = port;
    const attr = new Uint8Array(layout.ibv_qp_init_attr.SIZE);
    const view = new DataView(attr.buffer);
    view.setBigUint64(layout.ibv_qp_init_attr.send_cq, BigInt(cq), true);
    view.setBigUint64(layout.ibv_qp_init_attr.recv_cq, BigInt(cq), true);
    view.setInt32(layout.ibv_qp_init_attr.qp_type, layout.IBV_QPT_RC, true);
    const { cap } = layout.ibv_qp_init_attr;
    view.setUint32(cap + layout.ibv_qp_cap.max_send_wr, requests, true);
    view.setUint32(cap + layout.ibv_qp_cap.max_recv_wr, 1, true);
    view.setUint32(cap + layout.ibv_qp_cap.max_send_sge, 1, true);
    view.setUint32(cap + layout.ibv_qp_cap.max_recv_sge, 1, true);
    this.handle = lib.create("ibv_create_qp", pd, attr);
    const psn = (crypto.getRandomValues(new Uint32Array(1))[0] as number) & PSN_MASK;
    this.name = { ...port.attributes, number: read.u32(this.handle, layout.ibv_qp.qp_num), psn };
    try {
      this.#initialize(access);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #initialize(access: number): void {
    const { IBV_QP_STATE, IBV_QP_PKEY_INDEX, IBV_QP_PORT, IBV_QP_ACCESS_FLAGS } = layout;
    this.#modify(layout.IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS | IBV_QP_STATE, (view) => {
      view.setUint8(layout.ibv_qp_attr.port_num, this.#port.port);
      view.setUint32(layout.ibv_qp_attr.qp_access_flags, access, true);
    });
  }

  /** Ready to receive from the peer (RTR): all that a target needs. @throws VerbsError; Error when the peer can't be reached from here */
  readyToReceive(peer: QueuePairName): void {
    const { port, gidIndex, attributes } = this.#port;
    if (peer.isEthernet !== attributes.isEthernet) throw new Error("the peer is on another kind of network (InfiniBand, RoCE)");
    const mask =
      layout.IBV_QP_STATE |
      layout.IBV_QP_AV |
      layout.IBV_QP_PATH_MTU |
      layout.IBV_QP_DEST_QPN |
      layout.IBV_QP_RQ_PSN |
      layout.IBV_QP_MAX_DEST_RD_ATOMIC |
      layout.IBV_QP_MIN_RNR_TIMER;
    this.#modify(layout.IBV_QPS_RTR, mask, (view, bytes) => {
      const { ibv_qp_attr: attr, ibv_ah_attr: ah, ibv_global_route: route } = layout;
      view.setInt32(attr.path_mtu, Math.min(peer.mtu, attributes.mtu), true);
      view.setUint32(attr.dest_qp_num, peer.number, true);
      view.setUint32(attr.rq_psn, peer.psn, true);
      view.setUint8(attr.max_dest_rd_atomic, attributes.reads);
      view.setUint8(attr.min_rnr_timer, RNR_TIMER);
      view.setUint8(attr.ah_attr + ah.port_num, port);
      view.setUint16(attr.ah_attr + ah.dlid, peer.lid, true);
      // InfiniBand within a subnet goes by LID; RoCE has addresses alone.
      if (!peer.isEthernet) return;
      view.setUint8(attr.ah_attr + ah.is_global, 1);
      bytes.set(peer.gid, attr.ah_attr + ah.grh + route.dgid);
      view.setUint8(attr.ah_attr + ah.grh + route.sgid_index, gidIndex);
      view.setUint8(attr.ah_attr + ah.grh + route.hop_limit, HOP_LIMIT);
    });
  }

  /** RTS, after readyToReceive(). @throws VerbsError */
  readyToSend(peer: QueuePairName): void {
    const mask =
      layout.IBV_QP_STATE |
      layout.IBV_QP_TIMEOUT |
      layout.IBV_QP_RETRY_CNT |
      layout.IBV_QP_RNR_RETRY |
      layout.IBV_QP_SQ_PSN |
      layout.IBV_QP_MAX_QP_RD_ATOMIC;
    this.#modify(layout.IBV_QPS_RTS, mask, (view) => {
      view.setUint8(layout.ibv_qp_attr.timeout, ACK_TIMEOUT);
      view.setUint8(layout.ibv_qp_attr.retry_cnt, RETRIES);
      view.setUint8(layout.ibv_qp_attr.rnr_retry, RETRIES);
      view.setUint32(layout.ibv_qp_attr.sq_psn, this.name.psn, true);
      view.setUint8(layout.ibv_qp_attr.max_rd_atomic, Math.min(peer.reads, this.#port.initiatedReads));
    });
  }

  /** ERR: what is under way ends, and the device touches none of its memory any more. @throws VerbsError */
  breakOff(): void {
    this.#modify(layout.IBV_QPS_ERR, layout.IBV_QP_STATE, () => undefined);
  }

  #modify(state: number, mask: number, fill: (view: DataView, bytes: Uint8Array) => void): void {
    const bytes = new Uint8Array(layout.ibv_qp_attr.SIZE);
    const view = new DataView(bytes.buffer);
    view.setInt32(layout.ibv_qp_attr.qp_state, state, true);
    fill(view, bytes);
    this.#lib.check("ibv_modify_qp", this.handle, bytes, mask);
  }

  /** @throws VerbsError */
  close(): void {
    this.#lib.check("ibv_destroy_qp", this.handle);
  }
}
