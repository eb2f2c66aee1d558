/** A storage node whose answers a test writes. */
import { INSTANCE_ID_BYTES } from "../protocol/limits.ts";
import type { AnswerOf, OpName, StoreState } from "../protocol/messages.ts";
import { type ClientOpName, type FrameSession, type Reply, serveFrames } from "./frame-server.ts";
import { tcpTls } from "./tcp-tls.ts";
import type { Listener, TlsIdentity } from "./transport.ts";

export type Answerer = (op: ClientOpName, request: unknown, body: Uint8Array) => Reply<OpName> | Promise<Reply<OpName>> | undefined;

/** INSTANCE_ID_BYTES, all `byte`. */
export function id(byte: number): Uint8Array {
  return new Uint8Array(INSTANCE_ID_BYTES).fill(byte);
}

/** A node that answers hello, and everything else as `answer` says; undefined: never. */
export class ScriptedNode {
  readonly sessions: FrameSession[] = [];
  readonly seen: { op: ClientOpName; request: unknown }[] = [];
  readonly closedBecause: string[] = [];
  readonly warnings: object[] = [];
  answer: Answerer = () => ({ answer: {} });
  leaseMs = 5_000;
  resumed = false;
  store: StoreState = { instance: id(1), start: 1, startId: id(2), knowsLastStart: true, namespaces: [] };
  readonly #tls: TlsIdentity;
  #listener: Listener | null = null;
  #port = 0;

  constructor(tls: TlsIdentity) {
    this.#tls = tls;
  }

  get addr(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** Again after stop(): on the same port. */
  async listen(): Promise<this> {
    this.#listener = await tcpTls.listen({ host: "127.0.0.1", port: this.#port, tls: this.#tls }, (connection) => {
      const handle = (op: ClientOpName, request: unknown, body: Uint8Array): Reply<OpName> | Promise<Reply<OpName>> => {
        this.seen.push({ op, request });
        if (op === "hello") {
          const said: AnswerOf<"hello"> = {
            nodeVersion: "1",
            cluster: "c",
            tenant: "t1",
            leaseMs: this.leaseMs,
            resumed: this.resumed,
            store: this.store,
          };
          return this.answer(op, request, body) ?? { answer: said };
        }
        return this.answer(op, request, body) ?? new Promise(() => {});
      };
      const logger = { warn: (fields: object) => void this.warnings.push(fields), error: () => {} };
      const handler = { handle: handle as never, onClose: (reason: string) => void this.closedBecause.push(reason) };
      this.sessions.push(serveFrames(connection, handler, logger));
    });
    this.#port = this.#listener.port;
    return this;
  }

  get last(): FrameSession {
    return this.sessions.at(-1) as FrameSession;
  }

  cut(): void {
    this.last.connection.destroy("cut");
  }

  stop(): void {
    this.#listener?.close();
    for (const session of this.sessions) session.connection.destroy("stopped");
  }
}
