/** Overwriting a file in place. What the disk below does with the old blocks (flash, copy on write) is out of reach. */
import { closeSync, fdatasyncSync, fstatSync, openSync, writeSync } from "node:fs";
import { MIB } from "../protocol/limits.ts";

/** Zeros on every byte of the file, on disk when this returns. @throws the system's error */
export function overwriteFile(path: string): void {
  const zeros = new Uint8Array(MIB);
  const fd = openSync(path, "r+");
  try {
    const { size } = fstatSync(fd);
    for (let at = 0; at < size; ) at += writeSync(fd, zeros, 0, Math.min(zeros.length, size - at), at);
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
