/** Whole-file locks that end with the process, flock(2): they belong to the open file description, so every copy of the descriptor holds it. */
import { dlopen, FFIType } from "bun:ffi";
import { EAGAIN, EINTR } from "./constants.ts";
import { LibcError } from "./errors.ts";
import { errno } from "./libc.ts";

/** sys/file.h */
const LOCK_EX = 2;
const LOCK_NB = 4;

/** unistd.h: the next byte at or behind an offset that is data, or that is a hole. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

const library = dlopen("libc.so.6", {
  flock: { args: ["int", "int"], returns: "int" },
  lseek: { args: ["int", "i64", "int"], returns: FFIType.i64_fast },
});

/**
 * Takes the lock for this open file description, without waiting. True where it already has it.
 * @returns false: another open file description holds it
 * @throws LibcError
 */
export function tryLock(fd: number): boolean {
  while (library.symbols.flock(fd, LOCK_EX | LOCK_NB) < 0) {
    const number = errno();
    if (number === EAGAIN) return false;
    if (number !== EINTR) throw new LibcError("flock", number);
  }
  return true;
}

/** lseek(2) with SEEK_DATA or SEEK_HOLE. Returns the offset, or -errno (-ENXIO: no data behind `offset`). Moves the file's position. */
export function seek(fd: number, offset: number, whence: typeof SEEK_DATA | typeof SEEK_HOLE): number {
  const found = Number(library.symbols.lseek(fd, offset, whence));
  return found < 0 ? -errno() : found;
}
