/** One open end of a fabric at the client: its endpoint, and the memory that it offers to the node in slots. Made and given back here, used by RdmaPath. */
import { type FabricEndpoint, type MemoryRegion, PinningError } from "../../ffi/fabric-endpoint.ts";
import { MappedMemory } from "../../ffi/libc/memory.ts";
import { MAC_KEY_BYTES, SEALED_CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import type { Pumped } from "../transport/fabric-pump.ts";
import type { FabricCandidate } from "./fabric-candidates.ts";

/** Room for one sealed chunk, in whole pages. */
export const SLOT_BYTES = Math.ceil(SEALED_CHUNK_MAX_BYTES / 4_096) * 4_096;

export interface OpenPath extends Pumped {
  readonly candidate: FabricCandidate;
  readonly endpoint: FabricEndpoint;
  readonly memory: MappedMemory;
  readonly region: MemoryRegion;
  readonly macKey: Uint8Array;
  /** Offsets. */
  readonly free: number[];
  counter: number;
  inUse: number;
  /** It is asked until it is closed. */
  isRetired: boolean;
  /** Aborted when it is left: what waits for it goes by TLS at once. */
  readonly gone: AbortController;
  quarantined: number;
}

/**
 * Offers memory by an endpoint, which belongs to the path from here on.
 * @param slots wanted; fewer where not all can be pinned, and `log` is told @throws Error when not even one can: the endpoint is closed then
 */
export function openPath(endpoint: FabricEndpoint, candidate: FabricCandidate, slots: number, log: (message: string) => void): OpenPath {
  try {
    const { memory, region, pinned } = offer(endpoint, slots);
    if (pinned < slots) log(`${pinned} of ${slots} slots for the fabric can be pinned: raise ulimit -l (RLIMIT_MEMLOCK) for more`);
    return {
      candidate,
      endpoint,
      onCompletion: () => undefined,
      memory,
      region,
      macKey: crypto.getRandomValues(new Uint8Array(MAC_KEY_BYTES)),
      free: Array.from({ length: pinned }, (_, i) => i * SLOT_BYTES),
      counter: 0,
      inUse: 0,
      quarantined: 0,
      isRetired: false,
      gone: new AbortController(),
    };
  } catch (error) {
    endpoint.close();
    throw error;
  }
}

function offer(endpoint: FabricEndpoint, wanted: number): { memory: MappedMemory; region: MemoryRegion; pinned: number } {
  for (let pinned = wanted; ; pinned = Math.floor(pinned / 2)) {
    const memory = new MappedMemory(pinned * SLOT_BYTES);
    try {
      return { memory, region: endpoint.register(memory, "remote"), pinned };
    } catch (error) {
      memory.close();
      if (!(error instanceof PinningError) || pinned <= 1) throw error;
    }
  }
}

/** Memory that a transfer may still go to is unmapped only when the endpoint is closed: nothing goes there then. */
export function closePath({ endpoint, memory, macKey }: OpenPath): void {
  try {
    endpoint.close();
    memory.close();
  } catch {
    // What could not be closed may still be written to: the memory stays.
  }
  macKey.fill(0);
}
