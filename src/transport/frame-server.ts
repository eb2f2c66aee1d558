/**
 * The server's end of one connection: frames in, requests to a handler, answers or errors out, in whatever order they are done.
 * Knows nothing of tenants, shards or chunks.
 */
import { NodeError } from "../protocol/errors.ts";
import type { AnswerOf, OpName, RequestOf } from "../protocol/messages.ts";
import type { Connection } from "./transport.ts";

export type MaybePromise<T> = T | Promise<T>;

/** What a client may ask; recall goes the other way. */
export type ClientOpName = Exclude<OpName, "recall">;

export interface Reply<O extends OpName> {
  answer: AnswerOf<O>;
  /** Raw part of the frame, sent without a copy: must not change afterwards. */
  body?: Uint8Array[];
}

/** One handler an operation; see FrameHandler.handle for what the arguments mean. */
export type HandlerTable = {
  [O in ClientOpName]: (request: RequestOf<O>, body: Uint8Array, requestId: number) => MaybePromise<Reply<O>>;
};

export interface FrameHandler {
  /**
   * Answers one request. `request` is checked (types, lengths, limits) and owned by the handler, `body` likewise (empty when the
   * frame has none; only chunkPut may bring one). Throw (or reject with) NodeError to refuse; anything else is logged and sent as
   * "io". With a table: `handle: (op, request, body, id) => table[op](request, body, id)`.
   */
  handle<O extends ClientOpName>(op: O, request: RequestOf<O>, body: Uint8Array, requestId: number): MaybePromise<Reply<O>>;
  /** Once, when the connection is gone; handlers still running may finish, their answers go nowhere. */
  onClose?(reason: string): void;
}

export interface FrameServerLogger {
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface FrameSession {
  readonly connection: Connection;
  /** Requests that have not been answered yet. */
  readonly inFlight: number;
  /**
   * Asks the client and waits for its answer.
   * @throws TransportError "timeout" or "closed"; NodeError when the client answers with an error
   */
  call<O extends "recall">(op: O, request: RequestOf<O>, timeoutMs: number): Promise<AnswerOf<O>>;
  /** From now on every new request is refused as "shutting_down"; resolves when those in flight have been answered. */
  drain(): Promise<void>;
  close(reason: string): void;
}

/** Serves frames on a connection that the transport has just brought. Call it inside onConnection. */
export function serveFrames(connection: Connection, handler: FrameHandler, logger?: FrameServerLogger): FrameSession {
  void connection;
  void handler;
  void logger;
  throw new NodeError("io", "not there yet");
}
