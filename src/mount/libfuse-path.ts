/**
 * Which libfuse3 to load: the system's, else the one inside the binary. That one goes through memfd_create and /proc/self/fd, since the
 * temporary folder may be unwritable, full or mounted noexec.
 */
import { closeSync, readFileSync, writeFileSync } from "node:fs";
import { memfdCreate } from "../../ffi/libc/libc.ts";
import { Libfuse } from "../../ffi/libfuse3/libfuse3.ts";
import { MountError } from "./mount-error.ts";

/** Sonames: 3 up to libfuse 3.16, 4 from 3.17 on. */
const SYSTEM_NAMES = ["libfuse3.so.3", "libfuse3.so.4"];

let loaded: Libfuse | null = null;

/** The library, loaded at the first call. Throws MountError when neither can be loaded. */
export async function loadLibfuse(): Promise<Libfuse> {
  loaded ??= await load();
  return loaded;
}

async function load(): Promise<Libfuse> {
  const failures: string[] = [];
  for (const name of SYSTEM_NAMES) {
    try {
      return new Libfuse(name);
    } catch (cause) {
      failures.push(`${name}: ${reason(cause)}`);
    }
  }
  const embedded = await embeddedLibrary();
  if (embedded !== null) {
    try {
      return libfuseFromBytes(embedded);
    } catch (cause) {
      failures.push(`embedded copy: ${reason(cause)}`);
    }
  }
  throw new MountError("library", `libfuse3 can't be loaded (install the package libfuse3-3 or fuse3): ${failures.join("; ")}`);
}

/** Loads a library that is in memory. Throws an Error when that can't be done. */
export function libfuseFromBytes(bytes: Uint8Array): Libfuse {
  const fd = memfdCreate("libfuse3.so.3");
  try {
    writeFileSync(fd, bytes);
    // It stays open: the loader takes a path that it has seen for the library that it loaded from there.
    return new Libfuse(`/proc/self/fd/${fd}`);
  } catch (cause) {
    closeSync(fd);
    throw cause;
  }
}

/** The bytes of the library inside the binary; null outside of a binary that has one. scripts/build puts it into dist/. */
async function embeddedLibrary(): Promise<Uint8Array | null> {
  try {
    const { default: path } = await import("../../dist/libfuse3.so.3", { with: { type: "file" } });
    return readFileSync(path);
  } catch {
    return null;
  }
}

function reason(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
