/** How many files a process may have open, getrlimit(2). */
import { dlopen, ptr } from "bun:ffi";
import { LibcError } from "./errors.ts";
import { errno } from "./libc.ts";

/** asm-generic/resource.h */
const RLIMIT_NOFILE = 7;

const library = dlopen("libc.so.6", {
  getrlimit: { args: ["int", "ptr"], returns: "int" },
  setrlimit: { args: ["int", "ptr"], returns: "int" },
});

/** Raises this process's soft limit to the hard one. Returns the limit that holds then. @throws LibcError */
export function raiseOpenFilesLimit(): number {
  // struct rlimit: soft, hard.
  const limits = new BigUint64Array(2);
  if (library.symbols.getrlimit(RLIMIT_NOFILE, ptr(limits)) !== 0) throw new LibcError("getrlimit", errno());
  const [soft = 0n, hard = 0n] = limits;
  if (soft < hard) {
    limits[0] = hard;
    if (library.symbols.setrlimit(RLIMIT_NOFILE, ptr(limits)) !== 0) throw new LibcError("setrlimit", errno());
  }
  return Number(hard);
}
