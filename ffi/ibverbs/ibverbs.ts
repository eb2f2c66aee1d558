/**
 * libibverbs (infiniband/verbs.h, rdma-core 44): what the library itself exports, and the three calls of the data path, which are inline over a table
 * of function pointers in the device's context.
 *
 * Loaded by its soname, when RDMA is asked for and not before: without the library nothing else notices.
 */

import { CFunction, dlopen, FFIType, type Pointer, ptr, read } from "bun:ffi";
import { getSystemErrorMap } from "node:util";
import { asPointer, errno } from "../libc/libc.ts";
import { keepingSignalHandlers } from "../libc/signals.ts";
import { ibv_context, ibv_context_ops, ibv_device_attr, ibv_port_attr } from "./layout.ts";

const LIBIBVERBS = "libibverbs.so.1";
/** Devices and ports looked at; a large node has eight adapters. */
const DEVICES_MAX = 64;

const SYMBOLS = {
  ibv_fork_init: { args: [], returns: "int" },
  ibv_get_device_list: { args: ["ptr"], returns: "ptr" },
  ibv_free_device_list: { args: ["ptr"], returns: "void" },
  ibv_get_device_name: { args: ["ptr"], returns: "cstring" },
  ibv_open_device: { args: ["ptr"], returns: "ptr" },
  ibv_close_device: { args: ["ptr"], returns: "int" },
  ibv_query_device: { args: ["ptr", "ptr"], returns: "int" },
  ibv_query_port: { args: ["ptr", "u8", "ptr"], returns: "int" },
  ibv_query_gid: { args: ["ptr", "u8", "int", "ptr"], returns: "int" },
  ibv_alloc_pd: { args: ["ptr"], returns: "ptr" },
  ibv_dealloc_pd: { args: ["ptr"], returns: "int" },
  ibv_reg_mr: { args: ["ptr", "ptr", "u64", "int"], returns: "ptr" },
  ibv_dereg_mr: { args: ["ptr"], returns: "int" },
  ibv_create_comp_channel: { args: ["ptr"], returns: "ptr" },
  ibv_destroy_comp_channel: { args: ["ptr"], returns: "int" },
  ibv_create_cq: { args: ["ptr", "int", "ptr", "ptr", "int"], returns: "ptr" },
  ibv_destroy_cq: { args: ["ptr"], returns: "int" },
  ibv_get_cq_event: { args: ["ptr", "ptr", "ptr"], returns: "int" },
  ibv_ack_cq_events: { args: ["ptr", "u32"], returns: "void" },
  ibv_create_qp: { args: ["ptr", "ptr"], returns: "ptr" },
  ibv_modify_qp: { args: ["ptr", "ptr", "int"], returns: "int" },
  ibv_destroy_qp: { args: ["ptr"], returns: "int" },
  ibv_wc_status_str: { args: ["int"], returns: "cstring" },
} as const;

type Symbols = ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];
type SymbolName = keyof typeof SYMBOLS;
type Returning<Kind> = { [N in SymbolName]: (typeof SYMBOLS)[N]["returns"] extends Kind ? N : never }[SymbolName];

/** A call of libibverbs that failed: its name, and the errno or work completion's status. */
export class VerbsError extends Error {
  override readonly name = "VerbsError";
  readonly code: number;

  constructor(call: string, code: number, text: string) {
    super(`${call}: ${text}`);
    this.code = code;
  }
}

export class Ibverbs {
  readonly #symbols: Symbols;

  /** @throws Error when there is no such library */
  constructor(path = LIBIBVERBS) {
    this.#symbols = keepingSignalHandlers(() => dlopen(path, SYMBOLS).symbols);
    // A child that shares pages with registered memory must not break it. Kernels since 5.12 need nothing; a failure says as much.
    this.#symbols.ibv_fork_init();
  }

  /** The devices' names. Without a kernel module there is no list at all (ENOSYS): that means none. */
  devices(): string[] {
    return this.#withDevices((devices) => devices.map(({ name }) => name)) ?? [];
  }

  #withDevices<T>(use: (devices: { name: string; device: Pointer }[]) => T): T | null {
    const list = keepingSignalHandlers(() => this.#symbols.ibv_get_device_list(null));
    if (list === null) return null;
    try {
      const devices: { name: string; device: Pointer }[] = [];
      for (let i = 0; i < DEVICES_MAX; i++) {
        const device = read.ptr(list, i * 8);
        if (device === 0) break;
        devices.push({ device: asPointer(device), name: String(this.#symbols.ibv_get_device_name(asPointer(device))) });
      }
      return use(devices);
    } finally {
      this.#symbols.ibv_free_device_list(list);
    }
  }

  /** ibv_open_device(3): the context, to be closed by ibv_close_device. @throws VerbsError; Error when there is no such device */
  openDevice(wanted: string): Pointer {
    const context = this.#withDevices((devices) => {
      const found = devices.find(({ name }) => name === wanted);
      return found === undefined ? null : this.create("ibv_open_device", found.device);
    });
    if (context === null) throw new Error(`libibverbs knows no device ${wanted}`);
    return context;
  }

  /** A call that makes an object. @throws VerbsError with errno */
  create<N extends Returning<"ptr">>(name: N, ...args: Parameters<Symbols[N]>): Pointer {
    const call = this.#symbols[name] as (...args: unknown[]) => Pointer | null;
    const made = call(...args);
    if (made === null) throw osError(name, errno());
    return asPointer(made);
  }

  /** A call that answers 0, or an errno, or -1 and sets it. @throws VerbsError */
  check<N extends Returning<"int">>(name: N, ...args: Parameters<Symbols[N]>): void {
    const call = this.#symbols[name] as (...args: unknown[]) => number;
    const status = call(...args);
    if (status !== 0) throw osError(name, status > 0 ? status : errno());
  }

  /** ibv_query_port(3). */
  port(context: Pointer, port: number): DataView {
    const attr = new Uint8Array(ibv_port_attr.SIZE);
    this.check("ibv_query_port", context, port, attr);
    return new DataView(attr.buffer);
  }

  /** ibv_query_device(3). */
  device(context: Pointer): DataView {
    const attr = new Uint8Array(ibv_device_attr.SIZE);
    this.check("ibv_query_device", context, attr);
    return new DataView(attr.buffer);
  }

  /** ibv_query_gid(3): 16 bytes. @throws VerbsError */
  gid(context: Pointer, port: number, index: number): Uint8Array {
    const gid = new Uint8Array(16);
    this.check("ibv_query_gid", context, port, index, gid);
    return gid;
  }

  /** Takes one event of a completion channel, which must not block. False: there is none. */
  takeCqEvent(channel: Pointer): boolean {
    const out = new BigUint64Array(2);
    const at = ptr(out);
    if (this.#symbols.ibv_get_cq_event(channel, at, asPointer(at + 8)) !== 0) return false;
    this.#symbols.ibv_ack_cq_events(asPointer(out[0] as bigint), 1);
    return true;
  }

  /** ibv_wc_status_str(3) */
  statusText(status: number): string {
    return String(this.#symbols.ibv_wc_status_str(status));
  }

  /** The data path of a context. */
  dataPath(context: Pointer): DataPath {
    const at = (offset: number) => asPointer(read.ptr(context, ibv_context.ops + offset));
    const three = { args: [FFIType.ptr, FFIType.ptr, FFIType.ptr], returns: FFIType.int };
    return {
      postSend: CFunction({ ptr: at(ibv_context_ops.post_send), ...three }),
      pollCq: CFunction({
        ptr: at(ibv_context_ops.poll_cq),
        args: [FFIType.ptr, FFIType.int, FFIType.ptr],
        returns: FFIType.int,
      }),
      reqNotifyCq: CFunction({ ptr: at(ibv_context_ops.req_notify_cq), args: [FFIType.ptr, FFIType.int], returns: FFIType.int }),
    } as unknown as DataPath;
  }
}

/** ibv_post_send(3), ibv_poll_cq(3), ibv_req_notify_cq(3). */
export interface DataPath {
  readonly postSend: (qp: Pointer, requests: Pointer, bad: Pointer) => number;
  readonly pollCq: (cq: Pointer, count: number, completions: Pointer) => number;
  readonly reqNotifyCq: (cq: Pointer, solicitedOnly: number) => number;
}

export function osError(call: string, code: number): VerbsError {
  return new VerbsError(call, code, getSystemErrorMap().get(-code)?.[1] ?? `errno ${code}`);
}
