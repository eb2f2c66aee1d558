/**
 * What bodies are moved by: an endpoint of libfabric (libfabric/rdm-endpoint.ts) or of ibverbs (ibverbs/rc-endpoint.ts). One side, the initiator, starts
 * RMA operations on memory that the other, the target, offers. Both tell each other their names on another path, the target first.
 */
import type { Pointer } from "bun:ffi";
import type { MappedMemory } from "./libc/memory.ts";

export interface FabricDevice {
  readonly provider: string;
  readonly fabric: string;
  readonly domain: string;
}

/** Memory that neither moves nor goes while it is registered: MappedMemory, of this thread or another one. */
export type FixedMemory = Pick<MappedMemory, "address" | "length">;

export interface MemoryRegion {
  /** What a peer has to name besides an address. */
  readonly key: bigint;
  /** What a peer calls the first byte of it: an address, or 0 where the provider counts from the region's start. */
  readonly base: bigint;
  readonly memory: FixedMemory;
  /** What our own operations name it by, where they have to; else null. */
  readonly descriptor: Pointer | number | null;
  close(): void;
}

/** Told of each operation that has ended, by the number that it was started with. */
export type OnCompletion = (operation: number, error: Error | null) => void;

export interface InsertedPeer {
  /** What to call it. */
  readonly peer: bigint;
  /** What it has to accept; empty: nothing. */
  readonly name: Uint8Array;
}

export interface FabricEndpoint {
  readonly device: FabricDevice;
  /** For the initiator; empty: it is one itself. */
  readonly name: Uint8Array;
  /** Readable when there may be completions; null: there is no descriptor, poll() again and again. */
  readonly waitFd: number | null;
  /** Peers' operations on its memory go on by themselves: a target needs no poll(). */
  readonly isPassive: boolean;
  /** Initiator: makes a target's name usable. @throws Error */
  insert(name: Uint8Array): InsertedPeer;
  /** Initiator: it is not used again; what is under way with it ends. */
  remove(peer: bigint): void;
  /** Target: lets the initiator in whose insert() answered this name. @throws Error */
  accept(name: Uint8Array): void;
  /** For this endpoint's own operations ("local"), or for peers' ("remote"). @throws Error; PinningError where RLIMIT_MEMLOCK is too low */
  register(memory: FixedMemory, use: "local" | "remote"): MemoryRegion;
  /**
   * Starts to write `length` bytes at `offset` of `from` to a peer's memory. False: there is no room for it now, poll() first. It has ended when
   * the bytes are in the peer's memory: an answer on another path must not overtake them. Until then they must not change. @throws Error
   */
  write(operation: number, from: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean;
  /** Starts to read from a peer's memory into `length` bytes at `offset` of `into`; otherwise as write. */
  read(operation: number, into: MemoryRegion, offset: number, length: number, peer: bigint, address: bigint, key: bigint): boolean;
  /** Tells of what has ended, and lets the provider go on with the rest. @returns how many had ended @throws Error */
  poll(onCompletion: OnCompletion): number;
  /** Whether to wait by waitFd now: false where something is there already. */
  mayWait(): boolean;
  /** Ends everything: operations under way are lost without a word, the memory is its owner's again. @throws Error */
  close(): void;
}

/** @throws RangeError */
export function checkRange({ memory }: MemoryRegion, offset: number, length: number): void {
  if (offset < 0 || length < 1 || offset + length > memory.length) throw new RangeError(`${offset}+${length} of ${memory.length} bytes`);
}

/** Memory can't be pinned. What is missing then is known to few: it is said. */
export class PinningError extends Error {
  override readonly name = "PinningError";

  constructor(call: string, length: number) {
    super(`${call}: no memory: ${Math.ceil(length / 1024)} KiB have to be pinned; does ulimit -l (RLIMIT_MEMLOCK) allow it?`);
  }
}
