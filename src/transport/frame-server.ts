/**
 * The server's end of one connection: frames in, requests to a handler, answers or errors out, in whatever order they are done.
 * Knows nothing of tenants, shards or chunks.
 */
import { decodeAnswer, decodeError, decodeRequest, encodeAnswerFrame, encodeErrorFrame, encodeRequestFrame } from "../protocol/codec.ts";
import { NodeError, ProtocolError, TransportError } from "../protocol/errors.ts";
import { type Frame, FrameDecoder, REQUEST_ID_MAX } from "../protocol/frame.ts";
import { CHUNK_MAX_BYTES, FRAME_BODY_MAX_BYTES, FRAME_HEADER_MAX_BYTES, HELLO_PART_MAX_BYTES, IN_FLIGHT_MAX } from "../protocol/limits.ts";
import type { AnswerOf, NodeErrorCode, OpName, RequestOf } from "../protocol/messages.ts";
import { giveBuffer, takeBuffer } from "./buffer-pool.ts";
import type { Lane, LaneReader } from "./lanes.ts";
import type { Connection } from "./transport.ts";

export type MaybePromise<T> = T | Promise<T>;

/** What a client may ask; recall goes the other way. */
export type ClientOpName = Exclude<OpName, "recall">;

export interface Reply<O extends OpName> {
  answer: AnswerOf<O>;
  /** Raw part of the frame, sent without a copy: must not change before onTaken. */
  body?: Uint8Array[];
  /** The body's memory is the handler's again. */
  onTaken?: () => void;
}

/** One handler an operation; see FrameHandler.handle for what the arguments mean. */
export type HandlerTable = {
  [O in ClientOpName]: (request: RequestOf<O>, body: Uint8Array, requestId: number) => MaybePromise<Reply<O>>;
};

export interface FrameHandler {
  /**
   * Answers one request. `request` is checked (types, lengths, limits) and owned by the handler, `body` likewise (empty when the
   * frame has none; only chunkPut may bring one), unless reuseBodies says otherwise. Throw (or reject with) NodeError to refuse; anything else is logged and sent as
   * "io". With a table: `handle: (op, request, body, id) => table[op](request, body, id)`.
   */
  handle<O extends ClientOpName>(op: O, request: RequestOf<O>, body: Uint8Array, requestId: number): MaybePromise<Reply<O>>;
  /** The handler is done with a body when its answer has settled: the memory is used again. */
  readonly reuseBodies?: boolean;
  /** Until greeted() is called nobody knows who is at the other end: headers and bodies have HELLO_PART_MAX_BYTES at most. */
  readonly isStranger?: boolean;
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
  /** The stranger is known: it may send what the protocol allows, and is served in this lane. */
  greeted(lane?: Lane): void;
  close(reason: string): void;
}

/** Bodies of the requests in flight on one connection, received or asked for: 16 whole chunks keep any link busy. */
const IN_FLIGHT_BODIES_MAX_BYTES = 16 * CHUNK_MAX_BYTES;

/** Refusals that an operator has to know of, and how often a connection tells: a disk that fails makes every request fail. */
const TROUBLES: ReadonlySet<NodeErrorCode> = new Set<NodeErrorCode>(["io", "damaged", "no_space"]);
const TROUBLE_LOG_MS = 10_000;

interface Call {
  resolve: (answer: AnswerOf<"recall">) => void;
  reject: (error: Error) => void;
  timer: ReturnType<typeof setTimeout>;
}

/** Serves frames on a connection that the transport has just brought. Call it inside onConnection. */
export function serveFrames(connection: Connection, handler: FrameHandler, logger?: FrameServerLogger): FrameSession {
  return new FrameServer(connection, handler, logger);
}

class FrameServer implements FrameSession {
  readonly connection: Connection;
  readonly #handler: FrameHandler;
  readonly #logger: FrameServerLogger | undefined;
  readonly #decoder: FrameDecoder;
  #inFlight = 0;
  #bodiesBytes = 0;
  /** Requests that were in the pieces already read when a limit was reached; reading is paused while there are any. */
  #waiting: Frame[] = [];
  /** The peer does not take its answers fast enough. */
  #congested = false;
  #paused = false;
  #starting = false;
  #lane: Lane | null = null;
  #heldBytes = 0;
  /** Its tenant's requests take as much memory as they may. */
  #lacksMemory = false;
  /** Its lane has used up its turn, by what was received and sent too. */
  #spent = false;
  readonly #reader: LaneReader = {
    setSpent: (spent) => {
      this.#spent = spent;
      if (spent) this.#setPaused(true);
      else if (!this.#closed) this.#startWaiting();
    },
  };
  readonly #onMemory = (): void => {
    this.#lacksMemory = false;
    if (!this.#closed) this.#startWaiting();
  };
  /** It is a lane's turn: what waits goes on. */
  readonly #turn = (): boolean => {
    if (!this.#closed) this.#startWaiting();
    return this.#waiting.length > 0 && !this.#closed && this.#hasRoom(this.#waiting[0] as Frame);
  };
  #draining: { promise: Promise<void>; resolve: () => void } | null = null;
  #closed = false;
  #troubleLoggedMs = Number.NEGATIVE_INFINITY;
  #lastCallId = 0;
  readonly #calls = new Map<number, Call>();

  constructor(connection: Connection, handler: FrameHandler, logger: FrameServerLogger | undefined) {
    this.connection = connection;
    this.#handler = handler;
    this.#logger = logger;
    this.#decoder = new FrameDecoder({
      side: "node",
      onFrame: (frame) => this.#received(frame),
      onBegin: (bytes) => this.#hold(bytes),
      bodyTarget: (_requestId, length) => (handler.reuseBodies === true ? takeBuffer(length) : null),
    });
    if (handler.isStranger === true) {
      this.#decoder.headerMaxBytes = HELLO_PART_MAX_BYTES;
      this.#decoder.bodyMaxBytes = HELLO_PART_MAX_BYTES;
    }
    connection.onData = (bytes) => this.#push(bytes);
    connection.onClose = (reason) => this.#onClose(reason);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  call<O extends "recall">(op: O, request: RequestOf<O>, timeoutMs: number): Promise<AnswerOf<O>> {
    if (this.#closed) return Promise.reject(new TransportError("closed", "the connection is closed"));
    const id = this.#lastCallId === REQUEST_ID_MAX ? 1 : this.#lastCallId + 1;
    this.#lastCallId = id;
    const parts = encodeRequestFrame(op, id, request);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#calls.delete(id);
        reject(new TransportError("timeout", `${op}: no answer within ${timeoutMs} ms`));
      }, timeoutMs);
      this.#calls.set(id, { resolve, reject, timer });
      this.connection.send(parts);
    });
  }

  drain(): Promise<void> {
    if (this.#draining === null) {
      this.#draining = Promise.withResolvers<void>();
      this.#startWaiting();
      if (this.#inFlight === 0) this.#draining.resolve();
    }
    return this.#draining.promise;
  }

  greeted(lane?: Lane): void {
    this.#lane = lane ?? null;
    if (!this.#closed) lane?.addReader(this.#reader);
    this.#decoder.headerMaxBytes = FRAME_HEADER_MAX_BYTES;
    this.#decoder.bodyMaxBytes = FRAME_BODY_MAX_BYTES;
  }

  close(reason: string): void {
    this.#closed = true;
    this.connection.close(reason);
  }

  #push(bytes: Uint8Array): void {
    if (this.#closed) return;
    this.#lane?.transferred(bytes.length);
    try {
      this.#decoder.push(bytes);
    } catch (error) {
      this.#refuse(error);
    }
  }

  /** The connection ends because of what the peer sent. It is told why, in an answer to no request (id 0). */
  #refuse(error: unknown): void {
    const reason = error instanceof ProtocolError ? error.message : "internal error";
    const fields = { remote: this.connection.remoteAddress, peer: this.connection.peer.sanUris, reason };
    if (error instanceof ProtocolError) this.#logger?.warn(fields, "closing a connection that breaks the protocol");
    else this.#logger?.error({ ...fields, err: error }, "closing a connection after an internal error");
    if (this.#closed) return;
    this.connection.send(encodeErrorFrame("ping", 0, error instanceof ProtocolError ? "bad_request" : "io", reason));
    this.close(reason);
  }

  /** Memory that a request takes, from when it begins to arrive until it is answered. */
  #hold(bytes: number): void {
    const lane = this.#lane;
    if (lane === null) return;
    this.#heldBytes += bytes;
    lane.hold(bytes);
    if (lane.hasMemory) return;
    this.#lacksMemory = true;
    this.#setPaused(true);
    lane.waitForMemory(this.#onMemory);
  }

  #release(frame: Frame): void {
    const bytes = Math.min(this.#heldBytes, frame.header.length + frame.body.length);
    this.#heldBytes -= bytes;
    this.#lane?.release(bytes);
  }

  #received(frame: Frame): void {
    if (this.#closed) return;
    if (frame.answer) {
      this.#release(frame);
      this.#answered(frame);
      return;
    }
    const lane = this.#lane;
    if (this.#waiting.length > 0 || !this.#hasRoom(frame)) {
      this.#waiting.push(frame);
      this.#setPaused(true);
      return;
    }
    if (lane === null) this.#start(frame);
    else if (lane.mayRun) lane.run(() => this.#start(frame));
    else {
      this.#waiting.push(frame);
      this.#setPaused(true);
      lane.wait(this.#turn);
    }
  }

  #answered(frame: Frame): void {
    const call = this.#calls.get(frame.requestId);
    // Answers to calls that have timed out are late, not wrong.
    if (call === undefined) return;
    this.#calls.delete(frame.requestId);
    clearTimeout(call.timer);
    if (frame.error) call.reject(decodeError(frame.header));
    else call.resolve(decodeAnswer("recall", frame.header));
  }

  #hasRoom(frame: Frame): boolean {
    if (this.#congested || this.#inFlight >= IN_FLIGHT_MAX) return false;
    return this.#inFlight === 0 || this.#bodiesBytes + frame.body.length <= IN_FLIGHT_BODIES_MAX_BYTES;
  }

  #start(frame: Frame): void {
    const op = frame.op as ClientOpName;
    const request = decodeRequest(op, frame.header);
    if (this.#draining !== null) {
      this.#release(frame);
      this.connection.send(encodeErrorFrame(op, frame.requestId, "shutting_down", "the node is shutting down"));
      return;
    }
    const costBytes = frame.op === "chunkGet" ? (request as RequestOf<"chunkGet">).length : frame.body.length;
    this.#inFlight++;
    this.#bodiesBytes += costBytes;
    let result: MaybePromise<Reply<ClientOpName>>;
    try {
      result = this.#handler.handle(op, request, frame.body, frame.requestId);
    } catch (error) {
      this.#finish(frame, costBytes, null, error);
      return;
    }
    if (result instanceof Promise) {
      result.then(
        (reply) => this.#finishLater(frame, costBytes, reply, null),
        (error: unknown) => this.#finishLater(frame, costBytes, null, error),
      );
    } else {
      this.#finish(frame, costBytes, result, null);
    }
  }

  #finishLater(frame: Frame, costBytes: number, reply: Reply<ClientOpName> | null, error: unknown): void {
    if (this.#lane === null) this.#finish(frame, costBytes, reply, error);
    else this.#lane.run(() => this.#finish(frame, costBytes, reply, error));
  }

  #finish(frame: Frame, costBytes: number, reply: Reply<ClientOpName> | null, error: unknown): void {
    if (this.#handler.reuseBodies === true) giveBuffer(frame.body);
    this.#release(frame);
    this.#inFlight--;
    this.#bodiesBytes -= costBytes;
    if (!this.#closed) {
      const parts = this.#encodeReply(frame.op as ClientOpName, frame.requestId, reply, error);
      const room = this.connection.send(parts, reply?.onTaken);
      const unsent = this.connection.acceptedBytes - this.connection.writtenBytes;
      if (unsent > 0) this.#lane?.transferred(Math.min(unsent, byteLength(parts)));
      if (room !== undefined && !this.#congested) {
        this.#congested = true;
        this.#setPaused(true);
        room.then(() => {
          this.#congested = false;
          this.#startWaiting();
        });
      }
      if (this.#paused) this.#startWaiting();
    } else {
      reply?.onTaken?.();
    }
    if (this.#draining !== null && this.#inFlight === 0) this.#draining.resolve();
  }

  #encodeReply(op: ClientOpName, requestId: number, reply: Reply<ClientOpName> | null, error: unknown): Uint8Array[] {
    let cause = error;
    if (reply !== null) {
      try {
        return encodeAnswerFrame(op, requestId, reply.answer, reply.body);
      } catch (encodeError) {
        cause = encodeError;
      }
    }
    if (cause instanceof NodeError) {
      if (TROUBLES.has(cause.code)) this.#logTrouble(op, cause);
      return encodeErrorFrame(op, requestId, cause.code, cause.message);
    }
    this.#logger?.error({ op, remote: this.connection.remoteAddress, err: cause }, "request failed");
    return encodeErrorFrame(op, requestId, "io", "internal error");
  }

  #logTrouble(op: ClientOpName, error: NodeError): void {
    const nowMs = performance.now();
    if (nowMs < this.#troubleLoggedMs + TROUBLE_LOG_MS) return;
    this.#troubleLoggedMs = nowMs;
    this.#logger?.error({ op, remote: this.connection.remoteAddress, err: error }, "the node's disk is in trouble");
  }

  #startWaiting(): void {
    // A handler that answers at once comes back here through #finish: the outer loop goes on for it.
    if (this.#starting) return;
    this.#starting = true;
    let next = 0;
    try {
      for (; next < this.#waiting.length && !this.#closed; next++) {
        const frame = this.#waiting[next] as Frame;
        if (this.#draining === null && !this.#hasRoom(frame)) break;
        const lane = this.#lane;
        if (lane === null) this.#start(frame);
        else if (lane.mayRun || this.#draining !== null) lane.run(() => this.#start(frame));
        else {
          lane.wait(this.#turn);
          break;
        }
      }
    } catch (error) {
      this.#refuse(error);
    } finally {
      this.#starting = false;
    }
    if (next > 0) this.#waiting.splice(0, next);
    if (this.#waiting.length === 0 && !this.#congested && !this.#lacksMemory && !this.#spent) this.#setPaused(false);
  }

  #setPaused(paused: boolean): void {
    if (paused === this.#paused || this.#closed) return;
    this.#paused = paused;
    if (paused) this.connection.pause();
    else this.connection.resume();
  }

  #onClose(reason: string): void {
    this.#closed = true;
    this.#lane?.cancel(this.#turn);
    this.#lane?.removeReader(this.#reader);
    this.#lane?.release(this.#heldBytes, this.#onMemory);
    this.#heldBytes = 0;
    this.#waiting = [];
    for (const call of this.#calls.values()) {
      clearTimeout(call.timer);
      call.reject(new TransportError("closed", `the connection was closed: ${reason}`));
    }
    this.#calls.clear();
    this.#handler.onClose?.(reason);
  }
}

function byteLength(parts: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const part of parts) bytes += part.length;
  return bytes;
}
