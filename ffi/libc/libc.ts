/**
 * The libc calls that kiseki needs and Bun does not offer. Two kinds of result, because a thrown error costs more than a whole
 * request: calls of the request loop return -errno as the kernel does; the others throw LibcError.
 *
 * Opened once, by the first import, on the main thread. A Worker gets the address of a function (`addresses`) and wraps it in a
 * CFunction, so that no Worker opens a library.
 */
import { dlopen, FFIType, type Pointer, read as peek, ptr } from "bun:ffi";
import {
  AF_UNIX,
  F_DUPFD_CLOEXEC,
  F_GETFL,
  F_SETFL,
  F_SETLEASE,
  F_SETSIG,
  F_WRLCK,
  MADV_HUGEPAGE,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MFD_CLOEXEC,
  MS_REMOUNT,
  O_CLOEXEC,
  O_NONBLOCK,
  PROT_READ,
  PROT_WRITE,
  SIGURG,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_SEQPACKET,
} from "./constants.ts";
import { LibcError } from "./errors.ts";

const LIBC = "libc.so.6";

const library = dlopen(LIBC, {
  __errno_location: { args: [], returns: "ptr" },
  poll: { args: ["ptr", "u64", "int"], returns: "int" },
  read: { args: ["int", "ptr", "u64"], returns: FFIType.i64_fast },
  write: { args: ["int", "ptr", "u64"], returns: FFIType.i64_fast },
  close: { args: ["int"], returns: "int" },
  dup3: { args: ["int", "int", "int"], returns: "int" },
  // fcntl is variadic; on the Linux ABIs of x86_64 and aarch64 an int argument travels the same way.
  fcntl: { args: ["int", "int", "int"], returns: "int" },
  // Variadic as well; all callers pass an address.
  ioctl: { args: ["int", "u64", "ptr"], returns: "int" },
  socketpair: { args: ["int", "int", "int", "ptr"], returns: "int" },
  mmap: { args: ["ptr", "u64", "int", "int", "int", "i64"], returns: FFIType.i64_fast },
  madvise: { args: ["ptr", "u64", "int"], returns: "int" },
  munmap: { args: ["ptr", "u64"], returns: "int" },
  umount2: { args: ["ptr", "int"], returns: "int" },
  mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "int" },
  lseek: { args: ["int", "i64", "int"], returns: FFIType.i64_fast },
  setpriority: { args: ["int", "u32", "int"], returns: "int" },
  vsnprintf: { args: ["ptr", "u64", "ptr", "ptr"], returns: "int" },
});
const libc = library.symbols;

/** errno is one int per thread, at an address that stays: read without another call in between. */
const errnoAddress = libc.__errno_location();
if (errnoAddress === null) throw new Error("__errno_location returned NULL");
const errnoPointer = asPointer(errnoAddress);

/** User-space addresses are below 2^47 (2^52 with five-level tables): numbers hold them exactly. */
export function asPointer(address: Pointer | bigint | number): Pointer {
  return Number(address) as Pointer;
}

/** errno of the last libc call on this thread that failed. */
export function errno(): number {
  return peek.i32(errnoPointer, 0);
}

function check(call: string, result: number): number {
  if (result < 0) throw new LibcError(call, errno());
  return result;
}

function cString(text: string): Uint8Array {
  return Buffer.from(`${text}\0`, "utf8");
}

/** Addresses for Workers: see the comment at the top. */
export const addresses: { readonly write: number; readonly umount2: number; readonly lseek: number; readonly setpriority: number } = {
  write: Number(addressOf(libc.write)),
  lseek: Number(addressOf(libc.lseek)),
  setpriority: Number(addressOf(libc.setpriority)),
  umount2: Number(addressOf(libc.umount2)),
};

function addressOf(symbol: object): Pointer | bigint {
  const { ptr: address } = symbol as { ptr?: Pointer | bigint };
  if (address === undefined) throw new Error("bun:ffi gave no address for a libc function");
  return address;
}

/** poll(2) on an array of struct pollfd. Returns how many are ready, 0 at the timeout, or -errno. */
export function poll(pollfds: Pointer, count: number, timeoutMs: number): number {
  const ready = libc.poll(pollfds, count, timeoutMs);
  return ready < 0 ? -errno() : ready;
}

/** read(2) into memory at an address. Returns the number of bytes, or -errno. */
export function read(fd: number, into: Pointer, length: number): number {
  const got = Number(libc.read(fd, into, length));
  return got < 0 ? -errno() : got;
}

/** write(2) of bytes. Returns the number of bytes, or -errno. */
export function write(fd: number, bytes: Uint8Array): number {
  const put = Number(libc.write(fd, bytes, bytes.length));
  return put < 0 ? -errno() : put;
}

/** ioctl(2) with an address as its argument. Returns its result, or -errno. */
export function ioctl(fd: number, request: number, argument: Uint8Array): number {
  const result = libc.ioctl(fd, request, argument);
  return result < 0 ? -errno() : result;
}

/** close(2). */
export function close(fd: number): void {
  check("close", libc.close(fd));
}

/** A second descriptor of the same open file, closed on exec. */
export function duplicate(fd: number): number {
  return check("fcntl(F_DUPFD_CLOEXEC)", libc.fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

/** Makes `target` a descriptor of what `fd` is, closed on exec; what `target` was before is closed (dup3(2)). */
export function replace(fd: number, target: number): void {
  check("dup3", libc.dup3(fd, target, O_CLOEXEC));
}

/** Sets O_NONBLOCK on the open file. */
export function setNonBlocking(fd: number): void {
  const flags = check("fcntl(F_GETFL)", libc.fcntl(fd, F_GETFL, 0));
  check("fcntl(F_SETFL)", libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

/**
 * Takes a write lease on an open file (F_SETLEASE). Returns 0, or -errno: EAGAIN when somebody else has the file open or mapped. Who opens
 * it while the lease is held waits for its end, and we are told so by a signal: one that is ignored, as SIGIO would end the process.
 */
export function takeWriteLease(fd: number): number {
  if (libc.fcntl(fd, F_SETSIG, SIGURG) < 0) return -errno();
  return libc.fcntl(fd, F_SETLEASE, F_WRLCK) < 0 ? -errno() : 0;
}

/** A connected pair of non-blocking Unix sockets that keep message boundaries, closed on exec. */
export function seqpacketPair(): [number, number] {
  const pair = new Int32Array(2);
  check("socketpair", libc.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
  const [left, right] = pair;
  if (left === undefined || right === undefined) throw new Error("socketpair gave no descriptors");
  return [left, right];
}

/** New zeroed memory, page-aligned, `length` bytes. Throws LibcError. */
export function mapAnonymous(length: number): Pointer {
  const address = Number(libc.mmap(null, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (address <= 0) throw new LibcError("mmap", errno());
  return asPointer(address);
}

export function unmap(address: Pointer, length: number): void {
  check("munmap", libc.munmap(address, length));
}

/** madvise(2) with MADV_HUGEPAGE. It is advice: that it can't be followed is no error. */
export function adviseHugePages(address: Pointer, length: number): void {
  libc.madvise(address, length, MADV_HUGEPAGE);
}

/** umount2(2). Never call it on this process's own live mount: it may wait for a request that only this thread answers. */
export function umount2(target: string, flags: number): void {
  check("umount2", libc.umount2(cString(target), flags));
}

/** mount(2) with MS_REMOUNT: `flags` are all that the mount is to have. Never call it on this process's own live mount. */
export function remount(target: string, flags: number): void {
  check("mount", libc.mount(cString("none"), cString(target), null, MS_REMOUNT | flags, null));
}

/** Formats what a C library passed to its log callback: a format and a va_list, which both ABIs pass as an address. */
export function formatVaList(format: Pointer, args: Pointer): string {
  const text = Buffer.alloc(2048);
  const length = libc.vsnprintf(text, text.length, format, args);
  return length < 0 ? "" : text.toString("utf8", 0, Math.min(length, text.length - 1));
}

/** An anonymous file in memory, closed on exec; its path for dlopen is /proc/self/fd/<it>. Needs glibc 2.27 (memfd_create(2)). */
export function memfdCreate(name: string): number {
  const extra = dlopen(LIBC, { memfd_create: { args: ["ptr", "u32"], returns: "int" } });
  return check("memfd_create", extra.symbols.memfd_create(ptr(cString(name)), MFD_CLOEXEC));
}
