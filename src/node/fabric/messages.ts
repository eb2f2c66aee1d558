/** What RdmaService and its Worker say to each other. Bodies stay in the buffers, which both see. */

/** The memory of all buffers, one behind the other. */
export interface BufferMemory {
  readonly address: number;
  readonly bytes: number;
}

export type ToRdmaWorker =
  | { readonly kind: "start"; readonly providers: readonly ProviderStart[]; readonly memory: BufferMemory }
  | { readonly kind: "peer"; readonly id: number; readonly provider: string; readonly domain: string; readonly name: Uint8Array }
  | { readonly kind: "forget"; readonly id: number }
  /** Place `bytes` at `offset` of the buffers in the peer's memory, or fetch them from there. */
  | {
      readonly kind: "transfer";
      readonly job: number;
      readonly peer: number;
      readonly direction: "place" | "fetch";
      readonly offset: number;
      readonly bytes: number;
      readonly address: bigint;
      readonly key: bigint;
    }
  | { readonly kind: "stop" };

export interface ProviderStart {
  readonly name: string;
  readonly source: string | null;
}

export type FromRdmaWorker =
  /** The endpoints that could be opened, and why others could not. */
  | {
      readonly kind: "started";
      readonly opened: readonly { readonly provider: string; readonly domain: string }[];
      readonly failed: readonly { readonly provider: string; readonly reason: string }[];
    }
  /** `name`: what the peer has to accept; null: it can't be reached, `error` says why. */
  | { readonly kind: "peer"; readonly id: number; readonly name: Uint8Array; readonly error: null }
  | { readonly kind: "peer"; readonly id: number; readonly name: null; readonly error: string }
  | { readonly kind: "done"; readonly job: number; readonly error: string | null }
  | { readonly kind: "stopped" };
