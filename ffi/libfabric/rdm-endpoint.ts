/**
 * One reliable, connectionless endpoint (FI_EP_RDM) with all that it needs: fabric, domain, address vector, completion queue, registered memory.
 * It starts RMA operations on memory of peers, and offers memory to theirs. One thread owns it, and has to call poll() while anything is under way,
 * peers' operations included: most providers do nothing by themselves.
 *
 * fi_endpoint(3), fi_domain(3), fi_mr(3), fi_cq(3), fi_rma(3), fi_av(3). What providers do differently comes from fi_info: see `mrMode`.
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
import { asPointer } from "../libc/libc.ts";
import { MappedMemory } from "../libc/memory.ts";
import * as layout from "./layout.ts";
import { cText, FabricError, type Libfabric, mallocText, viewOf } from "./libfabric.ts";

/** What we can do if a provider wants it done; each says in fi_info which of it it does want. */
const MR_MODES = layout.FI_MR_LOCAL | layout.FI_MR_VIRT_ADDR | layout.FI_MR_ALLOCATED | layout.FI_MR_PROV_KEY | layout.FI_MR_ENDPOINT;
/** Completions read by one call. */
const COMPLETIONS_PER_READ = 16;
/** Longest address of an endpoint: 28 bytes for IPv6, some 40 for shm's names, 56 with rxm's. */
const NAME_MAX_BYTES = 256;
/** Peers known to the address vector at first; providers let it grow. */
const AV_COUNT = 64;
const ERROR_TEXT_BYTES = 256;
const NO_NAME = new Uint8Array();

const WRITE_FLAGS = layout.FI_COMPLETION | layout.FI_DELIVERY_COMPLETE;
/** Where the parts of a message stand behind its struct fi_msg_rma. */
const MESSAGE = { iov: 64, descriptor: 80, target: 88, SIZE: 112 };

export interface EndpointOptions {
  /** As in fi_info(7): "net", "tcp;ofi_rxm", "shm", "verbs;ofi_rxm", "cxi". */
  readonly provider: string;
  /** Local address to use (an IP address, or whatever the provider resolves); null: the provider's choice. */
  readonly source: string | null;
  /** A domain (device) by its name; null: the first. */
  readonly domain?: string | null;
  /** Operations at a time. */
  readonly operations: number;
}

/** The devices that a provider could be used with; none: it isn't there. @throws FabricError */
export function fabricDevices(lib: Libfabric, provider: string, source: string | null = null): FabricDevice[] {
  const list = findInfo(lib, { provider, source });
  if (list === null) return [];
  const devices: FabricDevice[] = [];
  for (let info: number = list; info !== 0; info = read.ptr(asPointer(info), layout.fi_info.next)) devices.push(deviceOf(asPointer(info)));
  lib.freeInfo(list);
  return devices;
}

/** Of the list, the first of the domain. Layered providers (ofi_rxm) don't find it by fi_getinfo's hints. */
function itemWith(list: Pointer, domain: string | null): Pointer | null {
  for (let info: number = list; info !== 0; info = read.ptr(asPointer(info), layout.fi_info.next))
    if (domain === null || deviceOf(asPointer(info)).domain === domain) return asPointer(info);
  return null;
}

function deviceOf(info: Pointer): FabricDevice {
  const fabric = asPointer(read.ptr(info, layout.fi_info.fabric_attr));
  const domain = asPointer(read.ptr(info, layout.fi_info.domain_attr));
  return {
    provider: cText(read.ptr(fabric, layout.fi_fabric_attr.prov_name)),
    fabric: cText(read.ptr(fabric, layout.fi_fabric_attr.name)),
    domain: cText(read.ptr(domain, layout.fi_domain_attr.name)),
  };
}

function findInfo(lib: Libfabric, { provider, source }: Pick<EndpointOptions, "provider" | "source">): Pointer | null {
  const hints = lib.allocInfo();
  try {
    const { view } = viewOf(hints, layout.fi_info.SIZE);
    view.setBigUint64(layout.fi_info.caps, layout.FI_RMA, true);
    view.setBigUint64(layout.fi_info.mode, layout.FI_CONTEXT | layout.FI_CONTEXT2, true);
    const attr = (offset: number, length: number) => viewOf(asPointer(view.getBigUint64(offset, true)), length).view;
    attr(layout.fi_info.ep_attr, 8).setInt32(layout.fi_ep_attr.type, layout.FI_EP_RDM, true);
    const domainAttr = attr(layout.fi_info.domain_attr, 48);
    domainAttr.setInt32(layout.fi_domain_attr.mr_mode, MR_MODES, true);
    attr(layout.fi_info.fabric_attr, 32).setBigUint64(layout.fi_fabric_attr.prov_name, BigInt(mallocText(provider)), true);
    return lib.getInfo(source, null, source === null ? 0n : layout.FI_SOURCE, hints);
  } finally {
    lib.freeInfo(hints);
  }
}

export class RdmEndpoint implements FabricEndpoint, Disposable {
  /** Most providers do nothing by themselves. */
  readonly isPassive = false;
  readonly device: FabricDevice;
  /** Bits of FI_MR_*: what the provider wants done with registered memory. */
  readonly mrMode: number;
  /** The longest operation, in bytes. */
  readonly maxBytes: number;
  /** Its address, for peers. */
  readonly name: Uint8Array;
  /** Readable when there may be completions; null: the provider has no descriptor, poll() again and again. */
  readonly waitFd: number | null;
  readonly #lib: Libfabric;
  /** In the order in which they were opened. */
  readonly #handles: Pointer[] = [];
  readonly #regions = new Set<Pointer>();
  readonly #info: Pointer;
  readonly #fabric: Pointer;
  readonly #domain: Pointer;
  readonly #av: Pointer;
  readonly #cq: Pointer;
  readonly #ep: Pointer;
  /** One struct fi_context for each operation: its address is how completions name it. */
  readonly #contexts: MappedMemory;
  readonly #entries = new MappedMemory(COMPLETIONS_PER_READ * layout.fi_cq_msg_entry.SIZE);
  /** A struct fi_msg_rma and what it points to; read when an operation starts. */
  readonly #message = new MappedMemory(MESSAGE.SIZE);
  /** With room: later versions of the library append members. */
  readonly #failure = new MappedMemory(2 * layout.fi_cq_err_entry.SIZE);
  /** What fi_trywait is asked about. */
  readonly #waited: BigUint64Array;
  readonly #calls: Record<"read" | "writemsg" | "cqRead" | "cqReaderr" | "cqStrerror" | "trywait", ReturnType<Libfabric["inline"]>>;
  #closed = false;

  /** @throws FabricError; Error when the provider is not there */
  constructor(lib: Libfabric, options: EndpointOptions) {
    this.#lib = lib;
    const list = findInfo(lib, options);
    const { domain = null } = options;
    const chosen = list === null ? null : itemWith(list, domain);
    if (list === null || chosen === null) {
      if (list !== null) lib.freeInfo(list);
      const where = domain === null ? "here" : `on the device ${domain}`;
      throw new Error(`libfabric ${lib.version} has no provider ${options.provider} that can do RMA ${where}`);
    }
    this.#info = lib.dupInfo(chosen);
    lib.freeInfo(list);
    this.#contexts = new MappedMemory(options.operations * layout.fi_context2.SIZE);
    try {
      this.device = deviceOf(this.#info);
      const domainAttr = asPointer(read.ptr(this.#info, layout.fi_info.domain_attr));
      const epAttr = asPointer(read.ptr(this.#info, layout.fi_info.ep_attr));
      this.mrMode = read.i32(domainAttr, layout.fi_domain_attr.mr_mode);
      this.maxBytes = Number(read.u64(epAttr, layout.fi_ep_attr.max_msg_size));
      this.#fabric = this.#keep(lib.openFabric(asPointer(read.ptr(this.#info, layout.fi_info.fabric_attr))));
      this.#domain = this.#keep(this.#open("fi_domain", this.#fabric, layout.fid_fabric.ops, layout.fi_ops_fabric.domain, this.#info));
      const avAttr = new Uint8Array(layout.fi_av_attr.SIZE);
      new DataView(avAttr.buffer).setInt32(layout.fi_av_attr.type, layout.FI_AV_TABLE, true);
      new DataView(avAttr.buffer).setBigUint64(layout.fi_av_attr.count, BigInt(AV_COUNT), true);
      this.#av = this.#keep(this.#open("fi_av_open", this.#domain, layout.fid_domain.ops, layout.fi_ops_domain.av_open, ptr(avAttr)));
      const { cq, waitObject } = this.#openCq(options.operations);
      this.#cq = cq;
      this.#waited = new BigUint64Array([BigInt(cq)]);
      this.#ep = this.#keep(this.#open("fi_endpoint", this.#domain, layout.fid_domain.ops, layout.fi_ops_domain.endpoint, this.#info));
      lib.bind(this.#ep, this.#cq, layout.FI_TRANSMIT | layout.FI_RECV);
      lib.bind(this.#ep, this.#av, 0n);
      lib.control(this.#ep, layout.FI_ENABLE, null);
      this.waitFd = waitObject === layout.FI_WAIT_FD ? this.#descriptor() : null;
      this.name = this.#getName();
      this.#calls = {
        read: lib.inline("fi_read", this.#ep, layout.fid_ep.rma, layout.fi_ops_rma.read),
        writemsg: lib.inline("fi_writemsg", this.#ep, layout.fid_ep.rma, layout.fi_ops_rma.writemsg),
        cqRead: lib.inline("fi_cq_read", this.#cq, layout.fid_cq.ops, layout.fi_ops_cq.read),
        cqReaderr: lib.inline("fi_cq_readerr", this.#cq, layout.fid_cq.ops, layout.fi_ops_cq.readerr),
        cqStrerror: lib.inline("fi_cq_strerror", this.#cq, layout.fid_cq.ops, layout.fi_ops_cq.strerror),
        trywait: lib.inline("fi_trywait", this.#fabric, layout.fid_fabric.ops, layout.fi_ops_fabric.trywait),
      };
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #keep(handle: Pointer): Pointer {
    this.#handles.push(handle);
    return handle;
  }

  #open(
    name: "fi_domain" | "fi_av_open" | "fi_cq_open" | "fi_endpoint",
    object: Pointer,
    table: number,
    offset: number,
    what: Pointer,
  ): Pointer {
    const call = this.#lib.inline(name, object, table, offset);
    return this.#lib.opened(name, (out) => call(object, what, out, null));
  }

  /** With a descriptor to wait for where the provider has one, else with whatever it can wait by, else with nothing. */
  #openCq(size: number): { cq: Pointer; waitObject: number } {
    const attr = new Uint8Array(layout.fi_cq_attr.SIZE);
    const view = new DataView(attr.buffer);
    view.setBigUint64(layout.fi_cq_attr.size, BigInt(size + COMPLETIONS_PER_READ), true);
    view.setInt32(layout.fi_cq_attr.format, layout.FI_CQ_FORMAT_MSG, true);
    for (const waitObject of [layout.FI_WAIT_FD, layout.FI_WAIT_UNSPEC]) {
      view.setInt32(layout.fi_cq_attr.wait_obj, waitObject, true);
      try {
        const cq = this.#open("fi_cq_open", this.#domain, layout.fid_domain.ops, layout.fi_ops_domain.cq_open, ptr(attr));
        return { cq: this.#keep(cq), waitObject };
      } catch (error) {
        if (!(error instanceof FabricError)) throw error;
      }
    }
    view.setInt32(layout.fi_cq_attr.wait_obj, layout.FI_WAIT_NONE, true);
    const cq = this.#open("fi_cq_open", this.#domain, layout.fid_domain.ops, layout.fi_ops_domain.cq_open, ptr(attr));
    return { cq: this.#keep(cq), waitObject: layout.FI_WAIT_NONE };
  }

  #descriptor(): number | null {
    const fd = new Int32Array(1);
    try {
      this.#lib.control(this.#cq, layout.FI_GETWAIT, ptr(fd));
      return fd[0] ?? null;
    } catch {
      return null;
    }
  }

  #getName(): Uint8Array {
    const getName = this.#lib.inline("fi_getname", this.#ep, layout.fid_ep.cm, layout.fi_ops_cm.getname);
    const name = new Uint8Array(NAME_MAX_BYTES);
    const length = new BigUint64Array([BigInt(NAME_MAX_BYTES)]);
    const status = getName(this.#ep, ptr(name), ptr(length));
    if (status !== 0) throw this.#lib.error("fi_getname", status);
    return name.slice(0, Number(length[0]));
  }

  /** @throws FabricError */
  insert(name: Uint8Array): InsertedPeer {
    this.#requireOpen();
    const insert = this.#lib.inline("fi_av_insert", this.#av, layout.fid_av.ops, layout.fi_ops_av.insert);
    const address = new BigUint64Array([layout.FI_ADDR_UNSPEC]);
    // The provider reads as much as its kind of address has.
    const room = new Uint8Array(NAME_MAX_BYTES);
    room.set(name);
    const count = insert(this.#av, ptr(room), 1, ptr(address), 0, null);
    if (count !== 1) throw count < 0 ? this.#lib.error("fi_av_insert", count) : new Error("fi_av_insert: not an address of this fabric");
    return { peer: address[0] as bigint, name: NO_NAME };
  }

  /** It is connectionless: whoever has the key may come. */
  accept(_name: Uint8Array): void {
    this.#requireOpen();
  }

  /** Its connections are closed, where the provider has any. */
  remove(peer: bigint): void {
    this.#requireOpen();
    const remove = this.#lib.inline("fi_av_remove", this.#av, layout.fid_av.ops, layout.fi_ops_av.remove);
    const status = remove(this.#av, ptr(new BigUint64Array([peer])), 1, 0);
    if (status !== 0) throw this.#lib.error("fi_av_remove", status);
  }

  /** The key is one that nobody can guess. @throws FabricError; PinningError where RLIMIT_MEMLOCK is too low */
  register(memory: FixedMemory, use: "local" | "remote"): MemoryRegion {
    this.#requireOpen();
    const access = use === "local" ? layout.FI_READ | layout.FI_WRITE : layout.FI_REMOTE_READ | layout.FI_REMOTE_WRITE;
    // Below 2^63, for providers that keep it signed; those with FI_MR_PROV_KEY choose themselves.
    const wanted = (crypto.getRandomValues(new BigUint64Array(1))[0] as bigint) >> 1n;
    const reg = this.#lib.inline("fi_mr_reg", this.#domain, layout.fid_domain.mr, REG);
    const mr = this.#registered(memory.length, (out) =>
      reg(this.#domain, memory.address, memory.length, access, 0n, wanted, 0n, out, null),
    );
    if ((this.mrMode & layout.FI_MR_ENDPOINT) !== 0) {
      this.#lib.bind(mr, this.#ep, 0n);
      this.#lib.control(mr, layout.FI_ENABLE, null);
    }
    this.#regions.add(mr);
    const descriptor = read.ptr(mr, layout.fid_mr.mem_desc);
    return {
      key: read.u64(mr, layout.fid_mr.key),
      base: (this.mrMode & layout.FI_MR_VIRT_ADDR) === 0 ? 0n : BigInt(memory.address),
      memory,
      descriptor: descriptor === 0 ? null : asPointer(descriptor),
      close: () => {
        if (this.#regions.delete(mr)) this.#lib.close(mr);
      },
    };
  }

  #registered(length: number, register: (out: Pointer) => number): Pointer {
    try {
      return this.#lib.opened("fi_mr_reg", register);
    } catch (error) {
      if (!(error instanceof FabricError) || error.code !== ENOMEM) throw error;
      throw new PinningError("fi_mr_reg", length);
    }
  }

  /** FI_DELIVERY_COMPLETE: it has ended when the bytes are in the peer's memory. @throws FabricError */
  write(operation: number, from: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean {
    this.#requireOpen();
    checkRange(from, offset, length);
    const { view, address: at } = this.#message;
    view.setBigUint64(MESSAGE.iov + layout.iovec.iov_base, BigInt(from.memory.address + offset), true);
    view.setBigUint64(MESSAGE.iov + layout.iovec.iov_len, BigInt(length), true);
    view.setBigUint64(MESSAGE.descriptor, BigInt(from.descriptor ?? 0), true);
    view.setBigUint64(MESSAGE.target + layout.fi_rma_iov.addr, address, true);
    view.setBigUint64(MESSAGE.target + layout.fi_rma_iov.len, BigInt(length), true);
    view.setBigUint64(MESSAGE.target + layout.fi_rma_iov.key, key, true);
    view.setBigUint64(layout.fi_msg_rma.msg_iov, BigInt(at + MESSAGE.iov), true);
    view.setBigUint64(layout.fi_msg_rma.desc, BigInt(at + MESSAGE.descriptor), true);
    view.setBigUint64(layout.fi_msg_rma.iov_count, 1n, true);
    view.setBigUint64(layout.fi_msg_rma.addr, peer, true);
    view.setBigUint64(layout.fi_msg_rma.rma_iov, BigInt(at + MESSAGE.target), true);
    view.setBigUint64(layout.fi_msg_rma.rma_iov_count, 1n, true);
    view.setBigUint64(layout.fi_msg_rma.context, BigInt(this.#contextOf(operation)), true);
    return this.#started("fi_writemsg", this.#calls.writemsg(this.#ep, at, WRITE_FLAGS));
  }

  /** @throws FabricError */
  read(operation: number, into: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean {
    this.#requireOpen();
    checkRange(into, offset, length);
    const context = this.#contextOf(operation);
    const status = this.#calls.read(
      this.#ep,
      asPointer(into.memory.address + offset),
      length,
      into.descriptor as Pointer | null,
      peer,
      address,
      key,
      context,
    );
    return this.#started("fi_read", status);
  }

  /** A handle that was closed is freed memory. */
  #requireOpen(): void {
    if (this.#closed) throw new Error("the endpoint is closed");
  }

  #contextOf(operation: number): Pointer {
    return this.#contexts.at(operation * layout.fi_context2.SIZE);
  }

  #started(call: string, status: number): boolean {
    if (status === -layout.FI_EAGAIN) return false;
    if (status !== 0) throw this.#lib.error(call, status);
    return true;
  }

  /** @throws FabricError */
  poll(onCompletion: OnCompletion): number {
    this.#requireOpen();
    return this.#take(this.#calls.cqRead(this.#cq, this.#entries.address, COMPLETIONS_PER_READ), onCompletion);
  }

  /** fi_trywait(3) */
  mayWait(): boolean {
    this.#requireOpen();
    return this.#calls.trywait(this.#fabric, ptr(this.#waited), 1) === 0;
  }

  #take(count: number, onCompletion: OnCompletion): number {
    if (count === -layout.FI_EAVAIL) return this.#takeFailure(onCompletion);
    if (count <= 0) {
      if (count === 0 || count === -layout.FI_EAGAIN) return 0;
      throw this.#lib.error("fi_cq_read", count);
    }
    for (let i = 0; i < count; i++) {
      const context = this.#entries.view.getBigUint64(i * layout.fi_cq_msg_entry.SIZE + layout.fi_cq_msg_entry.op_context, true);
      onCompletion(this.#operationAt(context), null);
    }
    return count;
  }

  #takeFailure(onCompletion: OnCompletion): number {
    this.#failure.bytes.fill(0);
    const status = this.#calls.cqReaderr(this.#cq, this.#failure.address, 0);
    if (status <= 0) return 0;
    const { view } = this.#failure;
    const code = view.getInt32(layout.fi_cq_err_entry.err, true);
    const provErrno = view.getInt32(layout.fi_cq_err_entry.prov_errno, true);
    const text = Buffer.alloc(ERROR_TEXT_BYTES);
    const detail = asPointer(view.getBigUint64(layout.fi_cq_err_entry.err_data, true));
    this.#calls.cqStrerror(this.#cq, provErrno, detail === 0 ? null : detail, ptr(text), text.length);
    const words = text.toString("utf8", 0, Math.max(0, text.indexOf(0)));
    const context = view.getBigUint64(layout.fi_cq_err_entry.op_context, true);
    onCompletion(this.#operationAt(context), new FabricError("RMA", code, words === "" ? this.#lib.strerror(code) : words));
    return 1;
  }

  #operationAt(context: bigint): number {
    return Number((context - BigInt(this.#contexts.address)) / BigInt(layout.fi_context2.SIZE));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const endpoint = this.#handles.splice(4);
    // Regions that are bound to the endpoint go before it, others after it; then what all stood on.
    const isBound = (this.mrMode & layout.FI_MR_ENDPOINT) !== 0;
    const first = isBound ? [...this.#regions, ...endpoint] : [...endpoint, ...this.#regions];
    const order = [...first, ...this.#handles.splice(0).reverse()];
    this.#regions.clear();
    let failure: unknown = null;
    for (const handle of order) {
      try {
        this.#lib.close(handle);
      } catch (error) {
        failure ??= error;
      }
    }
    this.#lib.freeInfo(this.#info);
    this.#contexts.close();
    this.#entries.close();
    this.#message.close();
    this.#failure.close();
    if (failure !== null) throw failure;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const ENOMEM = 12;
const REG = layout.fi_ops_mr.reg;
