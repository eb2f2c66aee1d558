/** What TransferPool and its Workers say to each other. All small: file content stays in the shared arena. */
import type { ChunkRef } from "../crypto/chunk-seal.ts";
import { IntegrityError } from "../crypto/integrity-error.ts";
import type { KeyMaterial } from "../crypto/key-ring.ts";
import { NodeError, TransportError, type TransportErrorKind } from "../protocol/errors.ts";
import { NODE_ERRORS, type NodeErrorCode } from "../protocol/messages.ts";
import type { NodeSettings } from "./data-connection.ts";

export interface StartMessage {
  readonly kind: "start";
  readonly arena: SharedArrayBuffer;
  readonly keys: KeyMaterial;
  readonly node: NodeSettings;
  readonly limits: JobLimits;
  /** See TransferCounts. */
  readonly counts: SharedArrayBuffer;
}

export interface PutJob {
  readonly kind: "put";
  readonly cells: readonly number[];
  readonly bytes: number;
}

export interface GetJob {
  readonly kind: "get";
  readonly ref: ChunkRef;
  readonly firstBlock: number;
  readonly cells: readonly number[];
}

export type Job = PutJob | GetJob;

/** Jobs of each kind that run at a time in one Worker. */
export interface JobLimits {
  /** Puts of more than SMALL_BLOCKS_MAX blocks, each with a buffer for a whole chunk. */
  readonly put: number;
  /** Gets of more than SMALL_BLOCKS_MAX blocks. */
  readonly get: number;
  readonly small: number;
}

export type JobKind = keyof JobLimits;

export type ToWorker =
  | StartMessage
  /** Epochs were added. */
  | { readonly kind: "keys"; readonly keys: KeyMaterial }
  | { readonly kind: "job"; readonly id: number; readonly job: Job; readonly timeoutMs: number }
  | { readonly kind: "close" };

/** An error as structured clone can carry it: class instances lose their class on the way. */
export interface ErrorMessage {
  readonly name: string;
  readonly message: string;
  /** NodeError: its code; TransportError: its kind. */
  readonly code: string;
}

export type FromWorker =
  | { readonly kind: "ready" }
  | { readonly kind: "done"; readonly id: number; readonly ref: ChunkRef | null }
  | { readonly kind: "failed"; readonly id: number; readonly error: ErrorMessage }
  /** Something that the log should have; no job failed of it. */
  | { readonly kind: "log"; readonly message: string }
  | { readonly kind: "closed" };

export function packError(error: unknown): ErrorMessage {
  if (error instanceof NodeError) return { name: error.name, message: error.message, code: error.code };
  if (error instanceof TransportError) return { name: error.name, message: error.message, code: error.kind };
  if (error instanceof Error) return { name: error.name, message: error.message, code: "" };
  return { name: "Error", message: String(error), code: "" };
}

const TRANSPORT_KINDS: readonly TransportErrorKind[] = ["unreachable", "tls", "not_authorized", "timeout", "aborted", "closed"];

/** The error that packError packed, with its class and code. */
export function unpackError({ name, message, code }: ErrorMessage): Error {
  if (name === "NodeError" && (NODE_ERRORS as readonly string[]).includes(code)) return new NodeError(code as NodeErrorCode, message);
  if (name === "TransportError" && (TRANSPORT_KINDS as readonly string[]).includes(code)) {
    return new TransportError(code as TransportErrorKind, message);
  }
  if (name === "IntegrityError") return new IntegrityError(message);
  if (name === "RangeError") return new RangeError(message);
  return new Error(`${name}: ${message}`);
}
