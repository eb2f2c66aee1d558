/** One established TLS socket as a Connection: a bounded send queue with small writes joined, and an orderly end. */
import type { Socket } from "bun";
import { freeMemory } from "../process/free-memory.ts";
import type { Connection, Peer } from "./transport.ts";

/** Above this many queued bytes send() asks its caller to wait: two whole chunks in each direction keep a stream busy. */
const QUEUE_HIGH_BYTES = 8 * 1024 * 1024;
/** Below this many it lets the caller go on. */
const QUEUE_LOW_BYTES = 2 * 1024 * 1024;
/** Small parts are joined into writes of at most this many bytes: each write is a system call and a TLS record of at most 16 KiB. */
const JOIN_BYTES = 64 * 1024;
/** A part of at least this many bytes is written from where it lies. One TLS record (RFC 8446, 5.1). */
const RECORD_BYTES = 16 * 1024;
/** A peer that takes nothing for this long while something is queued is gone. */
const WRITE_STALL_MS = 30_000;
/** close() gives the queue and the peer this long before the socket is cut. */
const CLOSE_FLUSH_MS = 2_000;

/** Shared by all connections of the thread: the socket has copied its bytes when write() returns. */
const join = new Uint8Array(JOIN_BYTES);

export class TlsConnection implements Connection {
  readonly peer: Peer;
  readonly remoteAddress: string;
  readonly localAddress: string;
  onData: (bytes: Uint8Array) => void = () => {};
  onClose: (reason: string) => void = () => {};

  readonly #socket: Socket<unknown>;
  #queue: Uint8Array[] = [];
  /** Index of the first part not wholly written, and how much of it is. */
  #head = 0;
  #headOffset = 0;
  #acceptedBytes = 0;
  #writtenBytes = 0;
  /** Who waits for the bytes up to a position to be copied out, in order. */
  #takers: { position: number; onTaken: () => void }[] = [];
  #flushScheduled = false;
  /** The socket is full: drained() goes on. */
  #full = false;
  #room: { promise: Promise<void>; resolve: () => void } | null = null;
  #closing: string | null = null;
  #closed = false;
  #stallTimer: ReturnType<typeof setTimeout> | null = null;
  #closeTimer: ReturnType<typeof setTimeout> | null = null;

  constructor(socket: Socket<unknown>, peer: Peer) {
    this.#socket = socket;
    this.peer = peer;
    this.localAddress = socket.localAddress;
    this.remoteAddress = `${socket.remoteAddress}:${socket.remotePort}`;
    socket.setNoDelay(true);
  }

  get closed(): boolean {
    return this.#closed;
  }

  get acceptedBytes(): number {
    return this.#acceptedBytes;
  }

  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  send(parts: readonly Uint8Array[], onTaken?: () => void): Promise<void> | undefined {
    if (this.#closed || this.#closing !== null) {
      onTaken?.();
      return undefined;
    }
    for (const part of parts) {
      if (part.length === 0) continue;
      this.#queue.push(part);
      this.#acceptedBytes += part.length;
    }
    if (onTaken !== undefined) this.#takers.push({ position: this.#acceptedBytes, onTaken });
    // Nothing is saved by keeping whole records back: the peer works on this answer while the next one is made.
    if (this.#acceptedBytes - this.#writtenBytes >= RECORD_BYTES) this.#write();
    // What the running callback still sends goes out in the same write; a lone request waits for nothing but its own call to return.
    if (!this.#flushScheduled && !this.#full) {
      this.#flushScheduled = true;
      queueMicrotask(this.#flush);
    }
    if (this.#acceptedBytes - this.#writtenBytes <= QUEUE_HIGH_BYTES) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  pause(): void {
    if (!this.#closed) this.#socket.pause();
  }

  resume(): void {
    if (!this.#closed) this.#socket.resume();
  }

  close(reason: string): void {
    if (this.#closed || this.#closing !== null) return;
    this.#closing = reason;
    this.onData = () => {};
    // A paused socket would not notice that the peer has gone.
    this.#socket.resume();
    this.#closeTimer = setTimeout(() => this.destroy(reason), CLOSE_FLUSH_MS);
    this.#flush();
  }

  destroy(reason: string): void {
    if (this.#closed) return;
    this.ended(reason);
    this.#socket.terminate();
  }

  /** For the socket's handlers: bytes have come. */
  received(bytes: Uint8Array): void {
    if (!this.#closed) this.onData(bytes);
    freeMemory(bytes);
  }

  /** For the socket's handlers: it takes bytes again. */
  drained(): void {
    this.#full = false;
    this.#flush();
  }

  /** For the socket's handlers: it is gone. */
  ended(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue = [];
    for (const { onTaken } of this.#takers) onTaken();
    this.#takers = [];
    if (this.#stallTimer !== null) clearTimeout(this.#stallTimer);
    if (this.#closeTimer !== null) clearTimeout(this.#closeTimer);
    this.#room?.resolve();
    this.#room = null;
    const onClose = this.onClose;
    this.onData = () => {};
    this.onClose = () => {};
    onClose(this.#closing ?? reason);
  }

  readonly #flush = (): void => {
    this.#flushScheduled = false;
    this.#write();
    if (this.#closed) return;
    while (this.#takers.length > 0 && (this.#takers[0]?.position ?? 0) <= this.#writtenBytes) this.#takers.shift()?.onTaken();
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
      if (this.#closing !== null) this.#socket.end();
    } else if (this.#head > 1_024) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    if (this.#room !== null && this.#acceptedBytes - this.#writtenBytes <= QUEUE_LOW_BYTES) {
      const { resolve } = this.#room;
      this.#room = null;
      resolve();
    }
  };

  #write(): void {
    while (!this.#closed && !this.#full && this.#head < this.#queue.length) this.#writeSome();
  }

  #writeSome(): void {
    const first = this.#queue[this.#head] as Uint8Array;
    const firstBytes = first.length - this.#headOffset;
    const alone = this.#head + 1 === this.#queue.length;
    let offered: number;
    let taken: number;
    if (firstBytes >= RECORD_BYTES || alone) {
      offered = firstBytes;
      taken = this.#socket.write(first, this.#headOffset, firstBytes);
    } else {
      offered = this.#joinParts();
      taken = this.#socket.write(join, 0, offered);
    }
    // -1: the socket is closed, and its close handler comes.
    if (taken > 0) this.#advance(taken);
    if (taken < offered) {
      this.#full = true;
      this.#watchStall();
    }
  }

  /** Copies queued parts into `join`: small ones, and as much of a large one as fills the record that they began. */
  #joinParts(): number {
    let length = 0;
    let offset = this.#headOffset;
    for (let i = this.#head; i < this.#queue.length; i++) {
      const part = this.#queue[i] as Uint8Array;
      const partBytes = part.length - offset;
      if (partBytes >= RECORD_BYTES) {
        const fill = Math.min(partBytes, Math.max(0, RECORD_BYTES - length));
        join.set(part.subarray(offset, offset + fill), length);
        return length + fill;
      }
      if (length + partBytes > JOIN_BYTES) return length;
      join.set(offset === 0 ? part : part.subarray(offset), length);
      length += partBytes;
      offset = 0;
    }
    return length;
  }

  #advance(count: number): void {
    this.#writtenBytes += count;
    let left = count;
    while (left > 0) {
      const partLeft = (this.#queue[this.#head] as Uint8Array).length - this.#headOffset;
      if (left < partLeft) {
        this.#headOffset += left;
        return;
      }
      left -= partLeft;
      // Let go of the memory: the array itself is only cut now and then.
      this.#queue[this.#head] = NO_BYTES;
      this.#head++;
      this.#headOffset = 0;
    }
  }

  #watchStall(): void {
    if (this.#stallTimer !== null) return;
    const writtenBytes = this.#writtenBytes;
    this.#stallTimer = setTimeout(() => {
      this.#stallTimer = null;
      if (!this.#full) return;
      if (this.#writtenBytes === writtenBytes) this.destroy(`the peer took nothing for ${WRITE_STALL_MS / 1000} s`);
      else this.#watchStall();
    }, WRITE_STALL_MS);
    this.#stallTimer.unref();
  }
}

const NO_BYTES = new Uint8Array(0);
