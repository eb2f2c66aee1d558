/**
 * libfabric (fabric.h, API 1.17): what the library itself exports. All else in its API is inline over tables of function pointers in the
 * objects: `call` reads the pointer and calls it.
 *
 * Loaded by its soname, when a fabric is asked for and not before: without the library nothing else notices. dlopen returns the same library to
 * every thread, so Workers may load it too (they get a handle of their own to what is loaded already).
 */
import { CFunction, CString, dlopen, FFIType, type Pointer, ptr, read, toArrayBuffer } from "bun:ffi";
import { asPointer } from "../libc/libc.ts";
import { keepingSignalHandlers } from "../libc/signals.ts";
import { FI_ENODATA, fi_ops, fid } from "./layout.ts";

const LIBFABRIC = "libfabric.so.1";
/** FI_VERSION(1, 17): what this file was written against. Newer libraries go on offering it. */
const API_VERSION = (1 << 16) | 17;
/** The oldest library that is taken: endpoints and memory regions as they are used here are older. FI_VERSION(1, 11). */
const OLDEST_VERSION = (1 << 16) | 11;

const SYMBOLS = {
  fi_version: { args: [], returns: "u32" },
  fi_getinfo: { args: ["u32", "ptr", "ptr", "u64", "ptr", "ptr"], returns: "int" },
  fi_dupinfo: { args: ["ptr"], returns: "ptr" },
  fi_freeinfo: { args: ["ptr"], returns: "void" },
  fi_fabric: { args: ["ptr", "ptr", "ptr"], returns: "int" },
  fi_strerror: { args: ["int"], returns: "cstring" },
} as const;

/** A call of libfabric that failed: its name, the errno (positive; those above 255 are libfabric's own), the library's words for it. */
export class FabricError extends Error {
  override readonly name = "FabricError";
  readonly code: number;

  constructor(call: string, code: number, text: string) {
    super(`${call}: ${text}`);
    this.code = code;
  }
}

type Args = (Pointer | number | bigint | null | Uint8Array)[];
type Signature = { readonly args: readonly string[]; readonly returns: "int" | "i64" | "ptr" };

/** The shapes of the inline functions, by their names in the headers. i64: ssize_t. */
export const SIGNATURES = {
  fi_close: { args: ["ptr"], returns: "int" },
  fi_bind: { args: ["ptr", "ptr", "u64"], returns: "int" },
  fi_control: { args: ["ptr", "int", "ptr"], returns: "int" },
  fi_domain: { args: ["ptr", "ptr", "ptr", "ptr"], returns: "int" },
  fi_trywait: { args: ["ptr", "ptr", "int"], returns: "int" },
  fi_av_open: { args: ["ptr", "ptr", "ptr", "ptr"], returns: "int" },
  fi_cq_open: { args: ["ptr", "ptr", "ptr", "ptr"], returns: "int" },
  fi_endpoint: { args: ["ptr", "ptr", "ptr", "ptr"], returns: "int" },
  fi_mr_reg: { args: ["ptr", "ptr", "u64", "u64", "u64", "u64", "u64", "ptr", "ptr"], returns: "int" },
  fi_av_insert: { args: ["ptr", "ptr", "u64", "ptr", "u64", "ptr"], returns: "int" },
  fi_av_remove: { args: ["ptr", "ptr", "u64", "u64"], returns: "int" },
  fi_cq_read: { args: ["ptr", "ptr", "u64"], returns: "i64" },
  fi_cq_readerr: { args: ["ptr", "ptr", "u64"], returns: "i64" },
  fi_cq_strerror: { args: ["ptr", "int", "ptr", "ptr", "u64"], returns: "ptr" },
  fi_read: { args: ["ptr", "ptr", "u64", "ptr", "u64", "u64", "u64", "ptr"], returns: "i64" },
  fi_writemsg: { args: ["ptr", "ptr", "u64"], returns: "i64" },
  fi_getname: { args: ["ptr", "ptr", "ptr"], returns: "int" },
} as const satisfies Record<string, Signature>;
export type InlineName = keyof typeof SIGNATURES;

export class Libfabric {
  /** fi_version(): major and minor. */
  readonly version: string;
  readonly #symbols: ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];
  /** By function and address. Providers have one function each for all of their objects. */
  readonly #functions = new Map<string, (...args: Args) => number | bigint | null>();

  /** @throws Error when there is no such library, or it is too old */
  constructor(path = LIBFABRIC) {
    this.#symbols = keepingSignalHandlers(() => dlopen(path, SYMBOLS).symbols);
    const version = this.#symbols.fi_version();
    this.version = `${version >>> 16}.${version & 0xffff}`;
    if (version < OLDEST_VERSION) throw new Error(`libfabric ${this.version} is too old: expected at least 1.11`);
  }

  /** Variables that providers read when they are first asked for, in C's environment; what is set already stays (setenv(3)). */
  setEnvironment(variables: Readonly<Record<string, string>>): void {
    for (const [name, value] of Object.entries(variables)) libc().setenv(ptr(Buffer.from(`${name}\0`)), ptr(Buffer.from(`${value}\0`)), 0);
  }

  /** fi_strerror(3). @param code positive */
  strerror(code: number): string {
    return String(this.#symbols.fi_strerror(code));
  }

  /** An empty fi_info, to be filled as hints (fi_allocinfo). The caller frees it. */
  allocInfo(): Pointer {
    const info = this.#symbols.fi_dupinfo(null);
    if (info === null) throw new Error("fi_dupinfo: no memory");
    return asPointer(info);
  }

  dupInfo(info: Pointer): Pointer {
    const copy = this.#symbols.fi_dupinfo(info);
    if (copy === null) throw new Error("fi_dupinfo: no memory");
    return asPointer(copy);
  }

  freeInfo(info: Pointer): void {
    this.#symbols.fi_freeinfo(info);
  }

  /** fi_getinfo(3): a list that the caller frees; null: nothing fits (FI_ENODATA and its like). @throws FabricError */
  getInfo(node: string | null, service: string | null, flags: bigint, hints: Pointer): Pointer | null {
    const out = new BigUint64Array(1);
    const text = (value: string | null) => (value === null ? null : ptr(Buffer.from(`${value}\0`)));
    // The first call starts all providers.
    const status = keepingSignalHandlers(() => this.#symbols.fi_getinfo(API_VERSION, text(node), text(service), flags, hints, ptr(out)));
    if (status === 0) return asPointer(out[0] as bigint);
    if (-status === FI_ENODATA) return null;
    throw this.error("fi_getinfo", status);
  }

  /** fi_fabric(3). @throws FabricError */
  openFabric(attr: Pointer): Pointer {
    return keepingSignalHandlers(() => this.opened("fi_fabric", (out) => this.#symbols.fi_fabric(attr, out, null)));
  }

  /** The object that `open` puts where it is told to. @throws FabricError */
  opened(call: string, open: (out: Pointer) => number): Pointer {
    const out = new BigUint64Array(1);
    const status = open(ptr(out));
    if (status !== 0) throw this.error(call, status);
    return asPointer(out[0] as bigint);
  }

  error(call: string, status: number): FabricError {
    return new FabricError(call, -status, this.strerror(-status));
  }

  /**
   * An inline function of the headers: the entry at `offset` of the table that `object` points to at `table`. Look it up once for each object.
   * @throws Error when the provider's table is too short to have it
   */
  inline(name: InlineName, object: Pointer, table: number, offset: number): (...args: Args) => number {
    const ops = asPointer(read.ptr(object, table));
    if (ops === 0) throw new Error(`${name}: the provider does not have it`);
    if (read.u64(ops, fi_ops.size) <= BigInt(offset)) throw new Error(`${name}: the provider's table is too short`);
    const address = read.ptr(ops, offset);
    if (address === 0) throw new Error(`${name}: the provider does not have it`);
    const key = `${name} ${address}`;
    let call = this.#functions.get(key);
    if (call === undefined) {
      const { args, returns } = SIGNATURES[name];
      const kinds = { int: FFIType.int, i64: FFIType.i64_fast, ptr: FFIType.ptr };
      call = CFunction({ ptr: asPointer(address), args: [...args], returns: kinds[returns] }) as unknown as (...args: Args) => number;
      this.#functions.set(key, call);
    }
    const found = call;
    return (...args) => Number(found(...args));
  }

  /** fi_close(3). @throws FabricError, EBUSY where something that belongs to it is still open */
  close(object: Pointer): void {
    const status = this.inline("fi_close", object, fid.ops, fi_ops.close)(object);
    if (status !== 0) throw this.error("fi_close", status);
  }

  /** fi_ep_bind, fi_mr_bind. @throws FabricError */
  bind(object: Pointer, other: Pointer, flags: bigint): void {
    const status = this.inline("fi_bind", object, fid.ops, fi_ops.bind)(object, other, flags);
    if (status !== 0) throw this.error("fi_bind", status);
  }

  /** fi_control(3). @throws FabricError */
  control(object: Pointer, command: number, argument: Pointer | null): void {
    const status = this.inline("fi_control", object, fid.ops, fi_ops.control)(object, command, argument);
    if (status !== 0) throw this.error("fi_control", status);
  }
}

/** A C string at an address that may be NULL. */
export function cText(address: number): string {
  return address === 0 ? "" : new CString(asPointer(address)).toString();
}

/** The memory of a C struct, to be filled. */
export function viewOf(address: Pointer, length: number): { bytes: Uint8Array; view: DataView } {
  const memory = toArrayBuffer(address, 0, length);
  return { bytes: new Uint8Array(memory), view: new DataView(memory) };
}

const LIBC_SYMBOLS = {
  malloc: { args: ["u64"], returns: "ptr" },
  setenv: { args: ["ptr", "ptr", "int"], returns: "int" },
} as const;
let libcSymbols: ReturnType<typeof dlopen<typeof LIBC_SYMBOLS>>["symbols"] | null = null;

function libc() {
  libcSymbols ??= dlopen("libc.so.6", LIBC_SYMBOLS).symbols;
  return libcSymbols;
}

/** malloc'ed text that the library frees. */
export function mallocText(text: string): Pointer {
  const bytes = Buffer.from(`${text}\0`);
  const address = libc().malloc(bytes.length);
  if (address === null) throw new Error("malloc: no memory");
  viewOf(asPointer(address), bytes.length).bytes.set(bytes);
  return asPointer(address);
}
