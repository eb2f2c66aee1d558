/** A fixed number of equal buffers; who finds none waits in line. */

export class BufferPool {
  readonly bufferBytes: number;
  readonly #free: Uint8Array[] = [];
  readonly #waiters: ((buffer: Uint8Array) => void)[] = [];

  /** Memory is set aside now, but only used as buffers are first written. */
  constructor(count: number, bufferBytes: number) {
    this.bufferBytes = bufferBytes;
    for (let i = 0; i < count; i++) this.#free.push(new Uint8Array(bufferBytes));
  }

  /** A buffer, now where one is free. Everybody who takes one gives it back. */
  take(): Uint8Array | Promise<Uint8Array> {
    return this.#free.pop() ?? new Promise((resolve) => this.#waiters.push(resolve));
  }

  release(buffer: Uint8Array): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#free.push(buffer);
    else waiter(buffer);
  }
}
