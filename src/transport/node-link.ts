/** One connection to a storage node that has said hello. NodeClient makes a new one whenever the last is lost. */
import { decodeAnswer, decodeError, encodeRequestFrame } from "../protocol/codec.ts";
import { NodeError, TransportError } from "../protocol/errors.ts";
import { type BodyTarget, type Frame, FrameDecoder, REQUEST_ID_MAX } from "../protocol/frame.ts";
import type { AnswerOf, RequestOf } from "../protocol/messages.ts";
import { parseAddress } from "./address.ts";
import { identityProblem } from "./tcp-tls-identity.ts";
import type { Connection, TlsIdentity, Transport } from "./transport.ts";

/** hello's request id; requests count up from 1 and stay below. */
export const HELLO_REQUEST_ID = REQUEST_ID_MAX;
/** A frame with this id answers no request: the node says why it closes the connection. */
const GOODBYE_ID = 0;

export interface LinkOptions {
  readonly transport: Transport;
  readonly addr: string;
  readonly tls: TlsIdentity;
  readonly hello: RequestOf<"hello">;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly bodyTarget: (requestId: number, length: number) => BodyTarget;
  /** Every frame but the answer to hello. What it throws closes the link. */
  readonly onFrame: (frame: Frame, link: NodeLink) => void;
  /** Once, and only when openLink has resolved. */
  readonly onClose: (reason: string, link: NodeLink) => void;
}

export class NodeLink {
  readonly addr: string;
  readonly connection: Connection;
  readonly hello: AnswerOf<"hello">;
  /** performance.now() when hello was sent. */
  readonly helloSentAtMs: number;
  /** performance.now() when bytes last came. */
  receivedAtMs: number;
  readonly #decoder: FrameDecoder;

  constructor(addr: string, connection: Connection, decoder: FrameDecoder, hello: AnswerOf<"hello">, helloSentAtMs: number) {
    this.addr = addr;
    this.connection = connection;
    this.hello = hello;
    this.helloSentAtMs = helloSentAtMs;
    this.receivedAtMs = performance.now();
    this.#decoder = decoder;
  }

  /** The memory that bodyTarget gave for this answer is the caller's again. */
  abandonBody(requestId: number): void {
    this.#decoder.abandonBody(requestId);
  }
}

/**
 * Connects and says hello.
 * @throws TransportError "unreachable", "tls", "not_authorized", "timeout", "aborted"; NodeError when the node refuses hello otherwise
 */
export async function openLink(options: LinkOptions): Promise<NodeLink> {
  const { transport, addr, tls, hello, timeoutMs, signal } = options;
  const { host, port } = parseAddress(addr);
  const deadlineMs = performance.now() + timeoutMs;
  const connection = await transport.connect({ host, port, tls, timeoutMs, signal });

  const { promise, resolve, reject } = Promise.withResolvers<NodeLink>();
  let link: NodeLink | null = null;
  let goodbye: string | null = null;

  const fail = (error: Error): void => {
    reject(error);
    connection.destroy(error.message);
  };
  const onFrame = (frame: Frame): void => {
    if (link !== null && frame.requestId !== GOODBYE_ID) {
      options.onFrame(frame, link);
    } else if (frame.requestId === GOODBYE_ID && frame.error) {
      goodbye = decodeError(frame.header).message;
    } else if (frame.op !== "hello" || frame.requestId !== HELLO_REQUEST_ID) {
      fail(new TransportError("unreachable", `${addr}: the node spoke before it answered hello`));
    } else if (frame.error) {
      const error = decodeError(frame.header);
      fail(error.code === "not_authorized" ? new TransportError("not_authorized", `${addr}: ${error.message}`) : error);
    } else {
      link = new NodeLink(addr, connection, decoder, decodeAnswer("hello", frame.header), sentAtMs);
      resolve(link);
    }
  };
  const decoder = new FrameDecoder({ side: "client", onFrame, bodyTarget: options.bodyTarget });
  connection.onData = (bytes) => {
    if (link !== null) link.receivedAtMs = performance.now();
    try {
      decoder.push(bytes);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      fail(new TransportError("unreachable", `${addr}: ${reason}`, { cause: error }));
    }
  };
  connection.onClose = (reason) => {
    const why = goodbye === null ? reason : `the node closed the connection: ${goodbye}`;
    if (link !== null) options.onClose(why, link);
    else reject(helloFailure(addr, tls, why));
  };
  const onAbort = (): void => fail(new TransportError("aborted", `connecting to ${addr} was given up`));
  signal.addEventListener("abort", onAbort);
  const timer = setTimeout(
    () => fail(new TransportError("timeout", `${addr} did not answer hello within ${timeoutMs} ms`)),
    Math.max(1, deadlineMs - performance.now()),
  );
  const sentAtMs = performance.now();
  try {
    if (signal.aborted) onAbort();
    connection.send(encodeRequestFrame("hello", HELLO_REQUEST_ID, hello));
    return await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

/** The connection ended between the TLS handshake and the answer to hello. That is how a node refuses a certificate under TLS 1.3. */
function helloFailure(addr: string, tls: TlsIdentity, reason: string): TransportError {
  const problem = identityProblem(tls);
  if (problem !== null) return new TransportError("tls", `${addr} refused us: ${problem}`);
  if (reason.includes("certificate")) return new TransportError("tls", `${addr}: ${reason}`);
  return new TransportError("unreachable", `${addr}: the connection ended before hello was answered: ${reason}`);
}

/** Which of the failures at several addresses tells the user most. */
export function worstFailure(errors: readonly Error[]): Error {
  const rank = (error: Error): number => {
    if (error instanceof NodeError) return 5;
    if (!(error instanceof TransportError)) return 6;
    return { closed: 0, aborted: 0, unreachable: 1, timeout: 2, untrue: 2, refused: 5, not_authorized: 4, tls: 3 }[error.kind];
  };
  let worst: Error = new TransportError("unreachable", "no address to connect to");
  for (const [index, error] of errors.entries()) if (index === 0 || rank(error) > rank(worst)) worst = error;
  return worst;
}
