import { type Pointer, toArrayBuffer } from "bun:ffi";
import { asPointer, mapAnonymous, unmap } from "./libc.ts";

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
