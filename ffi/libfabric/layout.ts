/**
 * Where things are in the structs of libfabric's headers (rdma/fabric.h, fi_domain.h, fi_endpoint.h, fi_eq.h, fi_rma.h, fi_cm.h) for 64-bit
 * Linux, API 1.17: names as in the headers, offsets in bytes, SIZE the whole struct. Only what is used. layout.test.ts compares all of it
 * with the installed headers. Later versions of the library append members: structs that it fills are allocated by it, or with room.
 */

export const fi_info = {
  SIZE: 120,
  next: 0,
  caps: 8,
  mode: 16,
  addr_format: 24,
  src_addrlen: 32,
  dest_addrlen: 40,
  src_addr: 48,
  dest_addr: 56,
  tx_attr: 72,
  rx_attr: 80,
  ep_attr: 88,
  domain_attr: 96,
  fabric_attr: 104,
  nic: 112,
} as const;

export const fi_ep_attr = { type: 0, max_msg_size: 16 } as const;
export const fi_domain_attr = {
  name: 8,
  threading: 16,
  control_progress: 20,
  data_progress: 24,
  resource_mgmt: 28,
  mr_mode: 36,
  mr_key_size: 40,
} as const;
export const fi_fabric_attr = { name: 8, prov_name: 16, prov_version: 24, api_version: 28 } as const;

export const fid = { SIZE: 24, ops: 16 } as const;
export const fi_ops = { size: 0, close: 8, bind: 16, control: 24 } as const;
export const fid_fabric = { ops: 24 } as const;
export const fi_ops_fabric = { size: 0, domain: 8, trywait: 40 } as const;
export const fid_domain = { ops: 24, mr: 32 } as const;
export const fi_ops_domain = { size: 0, av_open: 8, cq_open: 16, endpoint: 24 } as const;
export const fi_ops_mr = { size: 0, reg: 8 } as const;
export const fid_mr = { mem_desc: 24, key: 32 } as const;
export const fid_av = { ops: 24 } as const;
export const fi_ops_av = { size: 0, insert: 8, remove: 32 } as const;
export const fid_cq = { ops: 24 } as const;
export const fi_ops_cq = { size: 0, read: 8, readerr: 24, strerror: 56 } as const;
export const fid_ep = { ops: 24, cm: 32, rma: 48 } as const;
export const fi_ops_rma = { size: 0, read: 8, writemsg: 48 } as const;
export const fi_msg_rma = { SIZE: 64, msg_iov: 0, desc: 8, iov_count: 16, addr: 24, rma_iov: 32, rma_iov_count: 40, context: 48 } as const;
export const fi_rma_iov = { SIZE: 24, addr: 0, len: 8, key: 16 } as const;
export const iovec = { SIZE: 16, iov_base: 0, iov_len: 8 } as const;
export const fi_ops_cm = { size: 0, getname: 16 } as const;

export const fi_av_attr = { SIZE: 48, type: 0, count: 8 } as const;
export const fi_cq_attr = { SIZE: 40, size: 0, flags: 8, format: 16, wait_obj: 20, wait_cond: 28 } as const;
export const fi_cq_msg_entry = { SIZE: 24, op_context: 0, flags: 8, len: 16 } as const;
export const fi_cq_err_entry = { SIZE: 80, op_context: 0, err: 56, prov_errno: 60, err_data: 64 } as const;

/** Room for one operation's context where a provider asks for it (FI_CONTEXT, FI_CONTEXT2): two of struct fi_context2 at most. */
export const fi_context2 = { SIZE: 64 } as const;

/** Capabilities (64 bits wide), and flags of calls. */
export const FI_RMA = 1n << 2n;
export const FI_READ = 1n << 8n;
export const FI_WRITE = 1n << 9n;
export const FI_RECV = 1n << 10n;
export const FI_TRANSMIT = 1n << 11n;
export const FI_REMOTE_READ = 1n << 12n;
export const FI_REMOTE_WRITE = 1n << 13n;
export const FI_COMPLETION = 1n << 24n;
export const FI_DELIVERY_COMPLETE = 1n << 28n;
export const FI_SOURCE = 1n << 57n;
/** Modes: what the caller has to do for the provider. */
export const FI_CONTEXT = 1n << 59n;
export const FI_CONTEXT2 = 1n << 52n;

export const FI_MR_LOCAL = 1 << 2;
export const FI_MR_VIRT_ADDR = 1 << 4;
export const FI_MR_ALLOCATED = 1 << 5;
export const FI_MR_PROV_KEY = 1 << 6;
export const FI_MR_ENDPOINT = 1 << 9;

export const FI_EP_RDM = 3;
export const FI_AV_TABLE = 2;
export const FI_CQ_FORMAT_MSG = 2;
export const FI_WAIT_NONE = 0;
export const FI_WAIT_UNSPEC = 1;
export const FI_WAIT_FD = 3;
export const FI_GETWAIT = 5;
export const FI_ENABLE = 6;
export const FI_ADDR_UNSPEC = 0xff_ff_ff_ff_ff_ff_ff_ffn;

export const FI_EAGAIN = 11;
export const FI_EAVAIL = 259;
export const FI_ENODATA = 61;
