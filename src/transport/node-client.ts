/**
 * A client's lasting tie to a storage node. Connections come and go beneath it; requests are sent again on the next one until they are
 * answered or their deadline passes. That is safe because every operation is idempotent and a commit carries an id.
 *
 * A request costs one encode and a place in a map; the sockets' writes of one turn are joined below (tcp-tls-connection.ts), and
 * deadlines are looked at by one timer for all requests (pending-requests.ts).
 */
import { answerProblem, inodeAskedFor } from "../protocol/answer-checks.ts";
import { decodeAnswer, decodeError, decodeRequest, encodeAnswerFrame, encodeErrorFrame, encodeRequestFrame } from "../protocol/codec.ts";
import { NodeError, ProtocolError, TransportError } from "../protocol/errors.ts";
import type { BodyTarget, Frame } from "../protocol/frame.ts";
import { IN_FLIGHT_MAX } from "../protocol/limits.ts";
import { type AnswerOf, type OpName, PROTOCOL_VERSION, type RequestOf } from "../protocol/messages.ts";
import { parseAddress } from "./address.ts";
import { backoffMs } from "./backoff.ts";
import { Heartbeat } from "./heartbeat.ts";
import type { CallOptions, CallResult, ClientRequestOp, NodeClientLogger, NodeClientOptions } from "./node-client-options.ts";
import { type NodeLink, openLink, worstFailure } from "./node-link.ts";
import { type Pending, PendingRequests } from "./pending-requests.ts";
import { type KnownStore, StoreMemory } from "./store-memory.ts";
import { tcpTls } from "./tcp-tls.ts";
import type { Transport } from "./transport.ts";

export type { CallOptions, CallResult, ClientRequestOp, NodeClientLogger, NodeClientOptions } from "./node-client-options.ts";

/** Requests in flight at most. A little below the node's limit, where it stops reading: pings must still get through. */
const CLIENT_IN_FLIGHT_MAX = IN_FLIGHT_MAX - 16;
/** A node that says it shuts down may still answer what it has; after this the connection is given up. */
const LEAVING_MS = 1_000;
/** close() waits this long for the answer to bye. */
const BYE_WAIT_MS = 1_000;

export class NodeClient {
  readonly #options: NodeClientOptions;
  readonly #transport: Transport;
  readonly #logger: NodeClientLogger | undefined;
  #link: NodeLink | null = null;
  #connecting: AbortController | null = null;
  #everConnected = false;
  #closed = false;
  /** When the connection was lost, or the client made; null: there is one. */
  lostSince: Date | null = new Date();
  /** The tenant's keys were destroyed: no node answers anything any more. */
  #revoked: NodeError | null = null;
  #lastAnswerAtMs = Number.NEGATIVE_INFINITY;
  /** The node will go away: nothing new is sent on this link. */
  #leaving = false;
  #congested = false;
  #attempt = 0;
  #nextAddr = 0;
  #leaseValidUntilMs = 0;

  readonly #store: StoreMemory;
  /** Why the last node that said hello is not used; null: it is, or none has. */
  #refusal: TransportError | null = null;
  /** Answers that could not be true. */
  lies = 0;
  readonly #requests = new PendingRequests((pending) => this.#expire(pending));
  #heartbeat: Heartbeat | null = null;
  #retryTimer: ReturnType<typeof setTimeout> | null = null;
  #leavingTimer: ReturnType<typeof setTimeout> | null = null;

  /** @throws RangeError when an address is not HOST:PORT, or there is none */
  constructor(options: NodeClientOptions) {
    if (options.addrs.length === 0) throw new RangeError("addrs: empty");
    for (const addr of options.addrs) parseAddress(addr);
    this.#options = options;
    this.#transport = options.transport ?? tcpTls;
    this.#logger = options.logger;
    this.#store = new StoreMemory(options.knownStore ?? null);
  }

  /** What is known of the data that this client works with; null before the first connection. */
  get knownStore(): KnownStore | null {
    return this.#store.toKnown();
  }

  /** Why no node may be used: those that answer have other data, or have lost some. null: it is not so. */
  get refusal(): string | null {
    return this.#refusal?.message ?? null;
  }

  get connected(): boolean {
    return this.#link !== null;
  }

  /** Our end of the connection: an IP address; null when disconnected. */
  get localAddress(): string | null {
    return this.#link?.connection.localAddress ?? null;
  }

  /** performance.now() until which this session's leases hold for sure; 0 when disconnected. */
  get leaseValidUntilMs(): number {
    return this.#leaseValidUntilMs;
  }

  /** performance.now() when a node last did what it was asked, be it a ping. */
  get lastAnswerAtMs(): number {
    return this.#lastAnswerAtMs;
  }

  /**
   * The first connection: tries each address once.
   * @throws TransportError "unreachable", "tls", "not_authorized", "timeout", "closed"; NodeError when hello is refused otherwise
   */
  async connect(): Promise<AnswerOf<"hello">> {
    if (this.#closed) throw new TransportError("closed", "the client is closed");
    if (this.#link !== null) return this.#link.hello;
    if (this.#connecting !== null || this.#everConnected) throw new Error("connect: already called");
    const deadlineMs = performance.now() + this.#options.connectTimeoutMs;
    const failures: Error[] = [];
    for (let i = 0; i < this.#options.addrs.length; i++) {
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0) break;
      try {
        return (await this.#open(leftMs)).hello;
      } catch (error) {
        if (this.#closed) throw new TransportError("closed", "the client was closed");
        failures.push(error as Error);
      }
    }
    throw worstFailure(failures);
  }

  /** After a connect() that failed: goes on trying, as when a connection was lost. */
  connectLater(): void {
    if (this.#link === null && this.#connecting === null && this.#retryTimer === null) this.#retryLater();
  }

  /**
   * Asks the node.
   * @throws NodeError when the node refuses; TransportError "timeout", "aborted", "closed"; RangeError when a field breaks a limit;
   *   ProtocolError when the answer makes no sense
   */
  call<O extends ClientRequestOp>(op: O, request: RequestOf<O>, options: CallOptions = {}): Promise<CallResult<O>> {
    if (this.#closed) return Promise.reject(new TransportError("closed", "the client is closed"));
    if (this.#revoked !== null) return Promise.reject(this.#revoked);
    if (this.#refusal !== null) return Promise.reject(this.#refusal);
    const { body, bodyInto, signal } = options;
    if (signal?.aborted === true) return Promise.reject(new TransportError("aborted", `${op}: aborted`));
    return new Promise((resolve, reject) => {
      const id = this.#requests.newId();
      const timeoutMs = options.timeoutMs ?? this.#options.requestTimeoutMs;
      const pending: Pending = {
        id,
        op,
        request,
        parts: encodeRequestFrame(op, id, request, body), // what it throws rejects this Promise
        own: false,
        hasBody: body !== undefined,
        bodyInto,
        timeoutMs,
        deadlineMs: performance.now() + timeoutMs,
        resolve: resolve as (result: CallResult<OpName>) => void,
        reject,
        signal,
        onAbort: undefined,
        sentAtMs: 0,
        sentEndBytes: 0,
      };
      if (signal !== undefined) {
        pending.onAbort = () => this.#giveUp(pending, new TransportError("aborted", `${op}: aborted`));
        signal.addEventListener("abort", pending.onAbort);
      }
      if (this.#canSend()) this.#send(pending);
      else this.#requests.addWaiting(pending);
    });
  }

  /** Ends the session (role meta says bye), rejects what is still asked as "closed". Takes at most a second or so. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const link = this.#link;
    if (link !== null && this.#options.role === "meta") {
      await this.#ask("bye", BYE_WAIT_MS).catch(() => {});
    }
    this.#shut("closed by us");
  }

  /** Cuts the connection at once, without bye: the node keeps the session until it times out. */
  abandon(): void {
    if (!this.#closed) this.#shut("abandoned", true);
  }

  #shut(reason: string, atOnce = false): void {
    this.#closed = true;
    this.#connecting?.abort();
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    const link = this.#link;
    if (link !== null) {
      this.#dropLink();
      // Bodies of requests that are rejected below are their callers' again.
      if (atOnce || this.#requests.sentCount > 0) link.connection.destroy(reason);
      else link.connection.close(reason);
    }
    const error = new TransportError("closed", `the client was ${reason}`);
    for (const pending of this.#requests.settleAll()) pending.reject(error);
  }

  // Sending

  #canSend(): boolean {
    return this.#requests.waitingCount === 0 && this.#hasRoom();
  }

  #hasRoom(): boolean {
    return this.#link !== null && !this.#leaving && !this.#congested && this.#requests.sentCount < CLIENT_IN_FLIGHT_MAX;
  }

  #send(pending: Pending): void {
    const link = this.#link as NodeLink;
    this.#requests.addSent(pending);
    pending.sentAtMs = performance.now();
    const room = link.connection.send(pending.parts);
    pending.sentEndBytes = link.connection.acceptedBytes;
    if (room !== undefined && !this.#congested) {
      this.#congested = true;
      room.then(() => {
        if (this.#link !== link) return;
        this.#congested = false;
        this.#sendWaiting();
      });
    }
  }

  #sendWaiting(): void {
    for (const pending of this.#requests.waiting) {
      if (!this.#hasRoom()) return;
      this.#send(pending);
    }
  }

  /** A request of the client's own: past the queue, gone with the link. */
  #ask(op: "ping" | "bye", timeoutMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const id = this.#requests.newId();
      const deadlineMs = performance.now() + timeoutMs;
      const parts = encodeRequestFrame(op, id, {});
      const never = { own: true, hasBody: false, bodyInto: undefined, signal: undefined, onAbort: undefined, sentAtMs: 0, sentEndBytes: 0 };
      this.#send({ id, op, request: {}, parts, timeoutMs, deadlineMs, resolve: () => resolve(), reject, ...never });
    });
  }

  // Settling

  /** Ends a request that has no answer. Its buffers are its caller's again, so nothing below may still read or write them. */
  #giveUp(pending: Pending, error: TransportError): void {
    const link = this.#link;
    const wasSent = this.#requests.sentWith(pending.id) !== undefined;
    if (this.#requests.settle(pending) === null) return;
    if (wasSent && link !== null) {
      if (pending.bodyInto !== undefined) link.abandonBody(pending.id);
      // A frame half sent can't be taken back: what follows in the stream would be taken for its body.
      if (pending.hasBody && link.connection.writtenBytes < pending.sentEndBytes) {
        link.connection.destroy(`upload given up: ${error.message}`);
      }
    }
    pending.reject(error);
    this.#sendWaiting();
  }

  #expire(pending: Pending): void {
    const state = this.#link === null ? "; not connected" : "";
    this.#giveUp(pending, new TransportError("timeout", `${pending.op}: no answer within ${pending.timeoutMs} ms${state}`));
  }

  // Receiving

  readonly #bodyTarget = (requestId: number, length: number): BodyTarget => {
    const pending = this.#requests.sentWith(requestId);
    if (pending === undefined) return "discard";
    if (pending.bodyInto !== undefined && pending.bodyInto.length < length) {
      this.#requests.settle(pending)?.reject(new RangeError(`${pending.op}: body of ${length} bytes, room for ${pending.bodyInto.length}`));
      return "discard";
    }
    return pending.bodyInto ?? null;
  };

  #received(frame: Frame, link: NodeLink): void {
    if (link !== this.#link) return;
    if (!frame.answer) {
      this.#recall(frame, link);
      return;
    }
    const pending = this.#requests.sentWith(frame.requestId);
    // An answer that comes after its deadline.
    if (pending === undefined) return;
    if (pending.op !== frame.op) throw new ProtocolError(`answer to ${frame.op}, the request was ${pending.op}`);
    this.#leaseValidUntilMs = Math.max(this.#leaseValidUntilMs, pending.sentAtMs + link.hello.leaseMs);
    if (frame.error) {
      const error = decodeError(frame.header);
      if (error.code === "shutting_down" || error.code === "session_lost") {
        this.#requests.addWaiting(pending);
        this.#leave(link, error.message);
      } else {
        this.#attempt = 0;
        this.#requests.settle(pending)?.reject(error);
        if (error.code === "key_revoked") this.#revoke(error);
      }
    } else {
      this.#lastAnswerAtMs = performance.now();
      // Only work done shows that the node is well: one that sends everybody away is asked less and less often.
      this.#attempt = 0;
      this.#requests.settle(pending);
      try {
        const answer = decodeAnswer(pending.op, frame.header);
        this.#requireTrue(pending, answer);
        this.#store.answered(pending.op, pending.request, answer);
        const wait = this.#options.beforeAnswer?.(pending.op, answer) ?? null;
        const settled = { answer, body: frame.body };
        if (wait === null) pending.resolve(settled);
        else wait.then(() => pending.resolve(settled), pending.reject);
      } catch (error) {
        pending.reject(error as Error);
        throw error;
      }
    }
    if (this.#requests.waitingCount > 0) this.#sendWaiting();
    if (this.#leaving && this.#requests.sentCount === 0) link.connection.close("the node is going away");
  }

  /** @throws TransportError "untrue", which closes the connection: one that answers something else than was asked is not to be believed */
  #requireTrue({ op, request }: Pending, answer: AnswerOf<OpName>): void {
    const problem = answerProblem(op, request, answer);
    if (problem === null) return;
    const ino = inodeAskedFor(op, request);
    this.#countLie(ino === null ? `${op}: ${problem}` : `${op} of inode ${ino}: ${problem}`);
    throw new TransportError("untrue", `${op}: the storage node answered what was not asked: ${problem}`);
  }

  /** What the node has answered can't be true, as whoever opened it has found: its connection is closed, and the answer counted. */
  mistrust(what: string): void {
    this.#countLie(what);
    this.#link?.connection.destroy(`the node answered what can't be true: ${what}`);
  }

  #countLie(what: string): void {
    this.lies++;
    const addr = this.#link?.addr;
    this.#logger?.warn(
      { addr },
      `the storage node answered what can't be true, and nothing of it is used: ${what}; its connection is closed`,
    );
  }

  /** For good: what is asked now fails, and so does all that is asked later. */
  #revoke(error: NodeError): void {
    if (this.#revoked !== null) return;
    this.#revoked = error;
    for (const pending of [...this.#requests.waiting]) this.#requests.settle(pending)?.reject(error);
    this.#options.onRevoked?.(error);
  }

  #recall(frame: Frame, link: NodeLink): void {
    const { ns, inos } = decodeRequest("recall", frame.header);
    const reply = (error: unknown): void => {
      if (error !== null) this.#logger?.warn({ err: error, ns }, "a recall failed");
      link.connection.send(
        error === null
          ? encodeAnswerFrame("recall", frame.requestId, {})
          : encodeErrorFrame("recall", frame.requestId, "io", "recall failed"),
      );
    };
    try {
      const done = this.#options.onRecall?.(ns, inos);
      if (done instanceof Promise) done.then(() => reply(null), reply);
      else reply(null);
    } catch (error) {
      reply(error);
    }
  }

  /** The node cannot serve this session here any more: lets it finish, then connects anew. */
  #leave(link: NodeLink, reason: string): void {
    if (this.#leaving) return;
    this.#leaving = true;
    this.#leavingTimer = setTimeout(() => link.connection.destroy(reason), LEAVING_MS);
  }

  // Connecting

  async #open(timeoutMs: number): Promise<NodeLink> {
    const { addrs, tls, sessionId, role, clientVersion } = this.#options;
    const addr = addrs[this.#nextAddr % addrs.length] as string;
    this.#nextAddr = (this.#nextAddr + 1) % addrs.length;
    const connecting = new AbortController();
    this.#connecting = connecting;
    try {
      const link = await openLink({
        transport: this.#transport,
        addr,
        tls,
        hello: {
          protocol: PROTOCOL_VERSION,
          sessionId,
          clientVersion,
          role,
          lastStart: this.#store.startId,
          namespaces: role === "meta" ? this.#store.namespaces : [],
        },
        timeoutMs,
        signal: connecting.signal,
        bodyTarget: this.#bodyTarget,
        onFrame: (frame, from) => this.#received(frame, from),
        onClose: (reason, from) => this.#lost(from, reason),
      });
      if (this.#closed || link.connection.closed) {
        link.connection.destroy("not wanted any more");
        throw new TransportError("unreachable", `${addr}: the connection was lost at once`);
      }
      const verdict = this.#store.meet(link.hello.store);
      if (verdict.kind !== "same") {
        link.connection.destroy("another store");
        throw this.#refuse(addr, verdict.why);
      }
      this.#refusal = null;
      if (verdict.lost.length > 0) this.#options.onTailLost?.(verdict.lost);
      this.#established(link);
      return link;
    } finally {
      this.#connecting = null;
    }
  }

  /** The node at this address is not used, and what is asked fails until another one, or this one with the right data, is found. */
  #refuse(addr: string, why: string): TransportError {
    const error = new TransportError("refused", `${addr} is not used: ${why}`);
    if (this.#refusal?.message !== error.message) this.#logger?.warn({ addr }, error.message);
    this.#refusal = error;
    if (this.#everConnected) for (const pending of [...this.#requests.waiting]) this.#requests.settle(pending)?.reject(error);
    return error;
  }

  #established(link: NodeLink): void {
    this.#link = link;
    this.lostSince = null;
    this.#lastAnswerAtMs = performance.now();
    this.#leaseValidUntilMs = link.helloSentAtMs + link.hello.leaseMs;
    this.#heartbeat = new Heartbeat({
      link,
      whenIdle: this.#options.role === "meta",
      inFlight: () => this.#requests.sentCount,
      ping: (timeoutMs) => this.#ask("ping", timeoutMs).catch(() => {}),
    });
    this.#logger?.debug({ addr: link.addr, resumed: link.hello.resumed }, "connected");
    // A new session has lost nothing; only a session that was known before can fail to be resumed.
    const resumed = link.hello.resumed || !this.#everConnected;
    this.#everConnected = true;
    this.#options.onState?.("connected", { resumed, addr: link.addr });
    this.#sendWaiting();
  }

  #dropLink(): void {
    this.#link = null;
    this.lostSince = new Date();
    this.#leaving = false;
    this.#congested = false;
    this.#leaseValidUntilMs = 0;
    this.#heartbeat?.stop();
    if (this.#leavingTimer !== null) clearTimeout(this.#leavingTimer);
  }

  #lost(link: NodeLink, reason: string): void {
    if (this.#link !== link) return;
    this.#dropLink();
    this.#logger?.debug({ addr: link.addr, reason }, "disconnected");
    for (const own of this.#requests.takeBack()) own.reject(new TransportError("closed", reason));
    this.#options.onState?.("disconnected", { reason, addr: link.addr });
    this.#retryLater();
  }

  #retryLater(): void {
    if (this.#closed) return;
    this.#retryTimer = setTimeout(
      () => {
        this.#open(this.#options.connectTimeoutMs).catch((error: unknown) => {
          this.#logger?.debug({ err: error }, "cannot connect");
          if (error instanceof NodeError && error.code === "key_revoked") this.#revoke(error);
          else {
            if (isUnauthorized(error)) this.#refuse(this.#options.addrs.join(), error.message);
            this.#retryLater();
          }
        });
      },
      backoffMs(this.#attempt++),
    );
  }
}

/** The credentials are not accepted any more: they have expired, or were revoked. */
function isUnauthorized(error: unknown): error is NodeError | TransportError {
  if (error instanceof NodeError) return error.code === "not_authorized";
  return error instanceof TransportError && error.kind === "not_authorized";
}
