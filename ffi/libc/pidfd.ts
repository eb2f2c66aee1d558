/** Signals to a process that can't be another one by then: pidfd_open(2), pidfd_send_signal(2). Linux 5.3. */
import { dlopen, FFIType } from "bun:ffi";
import { LibcError } from "./errors.ts";
import { close, errno } from "./libc.ts";

/** asm-generic/unistd.h: the same on every architecture that has them. */
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;

// glibc has no wrappers before 2.36.
const library = dlopen("libc.so.6", {
  syscall: { args: ["i64", "i64", "i64", "ptr", "i64"], returns: FFIType.i64_fast },
});

/** A descriptor that means this process and no later one with its number. @throws LibcError ESRCH: there is none */
export function pidfdOpen(pid: number): number {
  const fd = Number(library.symbols.syscall(SYS_PIDFD_OPEN, pid, 0, null, 0));
  if (fd < 0) throw new LibcError("pidfd_open", errno());
  return fd;
}

/** @throws LibcError ESRCH: it has ended; EPERM */
export function pidfdSendSignal(pidfd: number, signal: number): void {
  if (Number(library.symbols.syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, null, 0)) < 0) throw new LibcError("pidfd_send_signal", errno());
}

export function pidfdClose(pidfd: number): void {
  close(pidfd);
}
