/**
 * Where things are in the structs of libibverbs' header (infiniband/verbs.h) for 64-bit Linux: names as in the header, offsets in bytes, SIZE the
 * whole struct. Only what is used. layout.test.ts compares all of it with the installed header; the library keeps them (its ABI is stable).
 */

export const ibv_context = { ops: 8 } as const;
export const ibv_context_ops = { poll_cq: 88, req_notify_cq: 96, post_send: 200 } as const;
/** The library fills as much of it as it knows; ibv_query_port() itself, the function, ends before port_cap_flags2. */
export const ibv_port_attr = { SIZE: 52, state: 0, active_mtu: 8, gid_tbl_len: 12, max_msg_sz: 20, lid: 34, link_layer: 46 } as const;
export const ibv_device_attr = { SIZE: 232, max_qp_rd_atom: 144, max_qp_init_rd_atom: 156, phys_port_cnt: 227 } as const;
export const ibv_mr = { lkey: 36, rkey: 40 } as const;
export const ibv_qp = { qp_num: 52 } as const;
export const ibv_comp_channel = { fd: 8 } as const;

export const ibv_qp_init_attr = { SIZE: 64, send_cq: 8, recv_cq: 16, cap: 32, qp_type: 52, sq_sig_all: 56 } as const;
export const ibv_qp_cap = { max_send_wr: 0, max_recv_wr: 4, max_send_sge: 8, max_recv_sge: 12 } as const;
export const ibv_qp_attr = {
  SIZE: 144,
  qp_state: 0,
  path_mtu: 8,
  rq_psn: 20,
  sq_psn: 24,
  dest_qp_num: 28,
  qp_access_flags: 32,
  ah_attr: 56,
  pkey_index: 120,
  max_rd_atomic: 126,
  max_dest_rd_atomic: 127,
  min_rnr_timer: 128,
  port_num: 129,
  timeout: 130,
  retry_cnt: 131,
  rnr_retry: 132,
} as const;
export const ibv_ah_attr = { grh: 0, dlid: 24, is_global: 29, port_num: 30 } as const;
export const ibv_global_route = { dgid: 0, sgid_index: 20, hop_limit: 21 } as const;

export const ibv_send_wr = {
  SIZE: 128,
  wr_id: 0,
  next: 8,
  sg_list: 16,
  num_sge: 24,
  opcode: 28,
  send_flags: 32,
  "wr.rdma.remote_addr": 40,
  "wr.rdma.rkey": 48,
} as const;
export const ibv_sge = { SIZE: 16, addr: 0, length: 8, lkey: 12 } as const;
export const ibv_wc = { SIZE: 48, wr_id: 0, status: 8, vendor_err: 16, qp_num: 28 } as const;

export const IBV_ACCESS_LOCAL_WRITE = 1;
export const IBV_ACCESS_REMOTE_WRITE = 2;
export const IBV_ACCESS_REMOTE_READ = 4;
export const IBV_QPT_RC = 2;
export const IBV_QPS_INIT = 1;
export const IBV_QPS_RTR = 2;
export const IBV_QPS_RTS = 3;
export const IBV_QPS_ERR = 6;
export const IBV_QP_STATE = 1 << 0;
export const IBV_QP_ACCESS_FLAGS = 1 << 3;
export const IBV_QP_PKEY_INDEX = 1 << 4;
export const IBV_QP_PORT = 1 << 5;
export const IBV_QP_AV = 1 << 7;
export const IBV_QP_PATH_MTU = 1 << 8;
export const IBV_QP_TIMEOUT = 1 << 9;
export const IBV_QP_RETRY_CNT = 1 << 10;
export const IBV_QP_RNR_RETRY = 1 << 11;
export const IBV_QP_RQ_PSN = 1 << 12;
export const IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13;
export const IBV_QP_MIN_RNR_TIMER = 1 << 15;
export const IBV_QP_SQ_PSN = 1 << 16;
export const IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17;
export const IBV_QP_DEST_QPN = 1 << 20;
export const IBV_WR_RDMA_WRITE = 0;
export const IBV_WR_RDMA_READ = 4;
export const IBV_SEND_SIGNALED = 2;
export const IBV_WC_SUCCESS = 0;
export const IBV_PORT_ACTIVE = 4;
export const IBV_LINK_LAYER_ETHERNET = 2;
export const IBV_MTU_256 = 1;
export const IBV_MTU_4096 = 5;
