/**
 * A transport moves ordered byte streams between a client and a storage node, and says who the peer is. Frames are above it
 * (frame-server.ts, node-client.ts), certificates and sockets below (tcp-tls.ts). libfabric and verbs fit behind the same interface.
 */

/** PEM texts. `ca` is the cluster CA that the peer's certificate must chain to; `cert` and `key` are one's own. */
export interface TlsIdentity {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** Who is at the other end: from its verified certificate, never from what it says. */
export interface Peer {
  /** URI names of the certificate's subjectAltName, in its order. */
  readonly sanUris: readonly string[];
  /** Serial number of the certificate, hexadecimal, as X.509 tools print it. */
  readonly serial: string;
}

/** One established, authenticated byte stream. */
export interface Connection {
  readonly peer: Peer;
  /** "address:port" of the peer, for logs. */
  readonly remoteAddress: string;
  /** Our own address, without the port. */
  readonly localAddress: string;
  /**
   * Called with each piece of received bytes. Set it before the callback that brought the connection returns. The memory belongs to the
   * transport: what is kept after the call returns must be copied.
   */
  onData: (bytes: Uint8Array) => void;
  /** Called once, after the last onData, also when close() was called here. The reason is for logs. */
  onClose: (reason: string) => void;
  /**
   * Sends the parts in order, after everything sent before. The transport may keep the parts until they are written: do not
   * change them before the returned Promise resolves or an answer has come. Returns undefined while the queue is short; else a
   * Promise that resolves when there is room again (also when the connection closes): wait for it before sending more.
   * Sending on a closed connection does nothing. `onTaken` is called once, when the parts have been copied out or dropped: their memory
   * may be changed then.
   */
  send(parts: readonly Uint8Array[], onTaken?: () => void): Promise<void> | undefined;
  /** Stops onData; the peer is slowed down by the full socket. Bytes already received may still come. */
  pause(): void;
  resume(): void;
  /** Writes out what is queued, for a bounded time, and closes. No more onData. */
  close(reason: string): void;
  /** Closes at once: what is queued is dropped, and the memory of the parts is the caller's again. */
  destroy(reason: string): void;
  readonly closed: boolean;
  /** Bytes ever given to send(). */
  readonly acceptedBytes: number;
  /** Bytes of those that the transport has copied out: parts that end at or before this position may be changed. */
  readonly writtenBytes: number;
}

export interface ListenOptions {
  readonly host: string;
  /** 0 takes any free port; see Listener.port. */
  readonly port: number;
  readonly tls: TlsIdentity;
  /** Told about peers that were turned away before they became a connection (no certificate, another CA, expired). */
  readonly onRejected?: (remoteAddress: string, reason: string) => void;
  /** Asked before the handshake, which costs a millisecond: why this peer may not come in; null: it may. */
  readonly refusal?: (remoteAddress: string) => string | null;
  /** One that was let in has gone, handshake or not. */
  readonly onLeft?: (remoteAddress: string) => void;
}

export interface ConnectOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: TlsIdentity;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export interface Listener {
  readonly host: string;
  readonly port: number;
  /** Stops accepting. Connections that exist go on. */
  close(): void;
}

export interface Transport {
  readonly name: string;
  /**
   * Accepts peers whose certificate chains to `tls.ca`. No other reaches `onConnection`.
   * @throws Error with the system's code (EADDRINUSE, EACCES ...) when the address cannot be had.
   */
  listen(options: ListenOptions, onConnection: (connection: Connection) => void): Promise<Listener>;
  /**
   * Connects to a storage node: its certificate must chain to `tls.ca` and carry a node URI (`spiffe://<cluster>/node/<name>`).
   * @throws TransportError "unreachable", "tls", "timeout", "aborted"
   */
  connect(options: ConnectOptions): Promise<Connection>;
}
