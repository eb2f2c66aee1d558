/** Signal handlers that a library must not take over. */
import { dlopen, ptr } from "bun:ffi";

/** struct sigaction: 152 bytes on x86_64 and aarch64 with glibc. */
const SIGACTION_BYTES = 256;
/** The classic signals; real-time ones are the runtime's own affair. */
const SIGNALS = Array.from({ length: 31 }, (_, i) => i + 1);

const { sigaction } = dlopen("libc.so.6", { sigaction: { args: ["int", "ptr", "ptr"], returns: "int" } }).symbols;

/**
 * Runs `load`, which loads or starts a library, and then gives all signals the handlers that they had before (sigaction(2)). What the library's
 * constructors install (libpsm2's for SIGTERM and SIGSEGV end the process) would take them from us and from the runtime.
 */
export function keepingSignalHandlers<T>(load: () => T): T {
  const before = SIGNALS.map((signal) => {
    const action = new Uint8Array(SIGACTION_BYTES);
    return { signal, action, isKnown: sigaction(signal, null, ptr(action)) === 0 };
  });
  try {
    return load();
  } finally {
    for (const { signal, action, isKnown } of before) if (isKnown) sigaction(signal, ptr(action), null);
  }
}
