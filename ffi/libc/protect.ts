/**
 * What keeps a process's memory from others: no core dumps, no tracing (prctl(2), getrlimit(2)), no swap (mlock(2)). Main thread only: the library is
 * opened with the first call.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";

/** asm-generic/resource.h */
const RLIMIT_CORE = 4;
/** linux/prctl.h */
const PR_SET_DUMPABLE = 4;

function load() {
  return dlopen("libc.so.6", {
    setrlimit: { args: ["int", "ptr"], returns: "int" },
    prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" },
    mlock: { args: ["ptr", FFIType.u64], returns: "int" },
  }).symbols;
}

let libc: ReturnType<typeof load> | undefined;

/** No core dump is written, and nobody but root may trace this process or read its memory. False: the system did not allow it. */
export function forbidDumps(): boolean {
  libc ??= load();
  const none = new BigUint64Array(2);
  const limited = libc.setrlimit(RLIMIT_CORE, ptr(none)) === 0;
  return libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) === 0 && limited;
}

/** Keeps the pages of `bytes` out of swap. False: RLIMIT_MEMLOCK does not allow it. */
export function lockMemory(bytes: Uint8Array): boolean {
  libc ??= load();
  return bytes.length === 0 || libc.mlock(ptr(bytes), bytes.length) === 0;
}
