/** What a NodeClient is told, asked and gives: see node-client.ts. */
import type { NodeError } from "../protocol/errors.ts";
import type { BodySink } from "../protocol/frame.ts";
import type { AnswerOf, NamespaceState, OpName } from "../protocol/messages.ts";
import type { KnownStore } from "./store-memory.ts";
import type { TlsIdentity, Transport } from "./transport.ts";

export type ClientRequestOp = Exclude<OpName, "hello" | "recall">;

export interface NodeClientLogger {
  debug(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface NodeClientOptions {
  /** "host:port" of the cluster's nodes, tried in turn. */
  readonly addrs: readonly string[];
  readonly tls: TlsIdentity;
  /** SESSION_ID_BYTES random bytes, the same for all connections of one client process. */
  readonly sessionId: Uint8Array;
  /** "meta" holds leases, sends heartbeats and ends its session with bye; "data" only moves chunks. */
  readonly role: "meta" | "data";
  readonly clientVersion: string;
  readonly requestTimeoutMs: number;
  readonly connectTimeoutMs: number;
  /** Lets go of what is cached of these inodes; the node is answered when it resolves, and told of the failure when it rejects. */
  readonly onRecall?: (ns: string, inos: number[]) => void | Promise<void>;
  readonly onState?: (state: "connected" | "disconnected", detail: StateDetail) => void;
  /** What an earlier client process knew of the data. */
  readonly knownStore?: KnownStore | null;
  /** Before "connected": the node has lost, as by a power failure, changes that were answered and never said to be durable. */
  readonly onTailLost?: (namespaces: readonly NamespaceState[]) => void;
  /** Looks at each answer before who asked has it, and may have it wait. Rejected: who asked gets that error. */
  readonly beforeAnswer?: (op: OpName, answer: AnswerOf<OpName>) => Promise<void> | null;
  /** Once, after connect(): the tenant's keys were destroyed, and no call succeeds any more. */
  readonly onRevoked?: (error: NodeError) => void;
  readonly logger?: NodeClientLogger;
  readonly transport?: Transport;
}

export interface StateDetail {
  /** "connected": false when the node knows the session no more: leases and deleted-but-open files are lost. */
  readonly resumed?: boolean;
  readonly addr?: string;
  /** "disconnected": why. */
  readonly reason?: string;
}

export interface CallOptions {
  /** Raw part of the request (chunkPut). Must not change before the call settles. */
  readonly body?: readonly Uint8Array[];
  /** Where the answer's body is to go; it is written from its start (anew when the request had to be asked again), and by nobody after the call has settled. */
  readonly bodyInto?: Uint8Array | BodySink;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface CallResult<O extends OpName> {
  answer: AnswerOf<O>;
  /** The body: within `bodyInto` if that is memory, empty if there is none or a sink has had it. */
  body: Uint8Array;
}
