import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { adviseHugePages, asPointer, mapAnonymous, unmap } from "./libc.ts";

/** A huge page of x86_64, and of aarch64 with pages of 4 KiB. */
const HUGE_PAGE_BYTES = 2 * 1024 * 1024;

/**
 * Asks the kernel to back large memory by huge pages as it is first touched (madvise(2), MADV_HUGEPAGE). Nothing happens where it can't.
 * `memory` must not move: a SharedArrayBuffer, or an ArrayBuffer that is far larger than what a typed array holds itself.
 */
export function preferHugePages(memory: SharedArrayBuffer | ArrayBuffer): void {
  const address = Number(ptr(new Uint8Array(memory)));
  const first = Math.ceil(address / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
  const end = Math.floor((address + memory.byteLength) / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
  if (first < end) adviseHugePages(asPointer(first), end - first);
}

/**
 * Memory that C may keep an address of: mapped, so that it neither moves nor is collected, as the ArrayBuffer of a typed array may be.
 * After close() the views must not be touched: the pages are gone.
 */
export class MappedMemory implements Disposable {
  readonly address: Pointer;
  readonly length: number;
  readonly bytes: Buffer;
  readonly view: DataView;
  #closed = false;

  /** `length` in bytes, rounded up to whole pages by the kernel. Throws LibcError when there is no memory. */
  constructor(length: number) {
    if (!Number.isSafeInteger(length) || length <= 0) throw new RangeError(`mapped memory of ${length} bytes: expected at least 1`);
    this.address = mapAnonymous(length);
    this.length = length;
    const memory = toArrayBuffer(this.address, 0, length);
    this.bytes = Buffer.from(memory);
    this.view = new DataView(memory);
  }

  /** The address of the byte at `offset`. */
  at(offset: number): Pointer {
    return asPointer(this.address + offset);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    unmap(this.address, this.length);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
