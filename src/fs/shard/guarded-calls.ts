/** The node as a mount may ask it: with what is not worth asking any more refused at once. */
import { NodeError } from "../../protocol/errors.ts";
import type { AnswerOf, OpName, RequestOf } from "../../protocol/messages.ts";
import type { ClientRequestOp } from "../../transport/node-client-options.ts";
import { FsError } from "../posix/errno.ts";
import type { ChunkTransfer } from "./chunk-transfer.ts";
import type { NodeCalls, Outage } from "./node-calls.ts";

/** What a client knows of its right to serve anything (cache/lifecycle.ts). */
export interface Standing {
  readonly isRevoked: boolean;
  readonly isExpired: boolean;
  readonly watch: Outage;
  /** A node has said that the tenant's keys were destroyed. */
  revoke(): void;
}

/** Without a cause: they are expected, and come often. */
export const REVOKED = new FsError("EKEYREVOKED", "the tenant was shredded");
const EXPIRED = new FsError("EIO", "no storage node has answered for too long");

/** What changes something waits for a node to come back, as long as any request waits: it can't be taken from a cache anyway. */
const PATIENT: ReadonlySet<OpName> = new Set<OpName>(["commit", "chunkPut", "sync", "inoGrant", "leaseRelease", "chunkRelease", "credit"]);

/** Why this must not be asked now; null: it may. */
function refusalOf(standing: Standing, op: OpName): FsError | null {
  if (standing.isRevoked) return REVOKED;
  return standing.isExpired && !PATIENT.has(op) ? EXPIRED : null;
}

export class GuardedCalls implements NodeCalls {
  readonly #calls: Omit<NodeCalls, "outage">;
  readonly #standing: Standing;

  constructor(calls: Omit<NodeCalls, "outage">, standing: Standing) {
    this.#calls = calls;
    this.#standing = standing;
  }

  call<O extends ClientRequestOp>(op: O, request: RequestOf<O>): Promise<{ answer: AnswerOf<O>; body: Uint8Array }> {
    const refusal = refusalOf(this.#standing, op);
    return refusal === null ? this.#calls.call(op, request) : Promise.reject(refusal);
  }

  get leaseValidUntilMs(): number {
    return this.#calls.leaseValidUntilMs;
  }

  get connected(): boolean {
    return this.#calls.connected;
  }

  get outage(): Outage {
    return this.#standing.watch;
  }

  giveUp(namespace: string, ino: number): void {
    this.#calls.giveUp?.(namespace, ino);
  }

  mistrust(what: string): void {
    this.#calls.mistrust?.(what);
  }

  isStaged(namespace: string, ino: number): boolean {
    return this.#calls.isStaged?.(namespace, ino) ?? false;
  }
}

/** The same for chunks. */
export function guardedTransfer(standing: Standing, transfer: ChunkTransfer): ChunkTransfer {
  const guarded = async <T>(op: OpName, ask: () => Promise<T>): Promise<T> => {
    const refusal = refusalOf(standing, op);
    if (refusal !== null) throw refusal;
    try {
      return await ask();
    } catch (error) {
      // Chunks have connections of their own, which may learn of it first.
      if (error instanceof NodeError && error.code === "key_revoked") standing.revoke();
      if (standing.isRevoked) throw REVOKED;
      throw error;
    }
  };
  return {
    put: (cells, bytes) => guarded("chunkPut", () => transfer.put(cells, bytes)),
    get: (ref, first, cells) => guarded("chunkGet", () => transfer.get(ref, first, cells)),
  };
}
