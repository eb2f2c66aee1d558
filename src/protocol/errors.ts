/** The errors of the wire: a frame that breaks the protocol, a request that the node refused, a connection that failed. */
import type { NodeErrorCode } from "./messages.ts";

/** Bytes from the other side break the protocol or a limit. The connection that brought them is closed with this reason. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** The node refused a request. Handlers of the node throw it; NodeClient.call rejects with it. */
export class NodeError extends Error {
  override readonly name = "NodeError";
  readonly code: NodeErrorCode;

  constructor(code: NodeErrorCode, message: string = code, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** Why no answer came. */
export type TransportErrorKind =
  | "unreachable" // nobody answers at any address
  | "tls" // certificates do not fit: the message says whose and why
  | "not_authorized" // the node knows the certificate and refuses it
  | "timeout" // the deadline of the request (or of connecting) has passed
  | "refused" // the node that answers has other data than this client works with, or has lost some
  | "untrue" // the node answered what can't be: something else than was asked
  | "aborted" // the caller's AbortSignal
  | "closed"; // the client or the connection was closed

/** A request got no answer, or a connection could not be made. */
export class TransportError extends Error {
  override readonly name = "TransportError";
  readonly kind: TransportErrorKind;

  constructor(kind: TransportErrorKind, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.kind = kind;
  }
}
