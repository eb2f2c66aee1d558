/** The other end of the control socket: what the commands of this program ask of a running mount or staging daemon. */
import { z } from "zod";
import {
  ControlError,
  type PoolStatus,
  poolStatusSchema,
  type ReleaseReport,
  releaseReportSchema,
  type StageEvent,
  stageEventSchema,
  type WipeReport,
  wipeReportSchema,
} from "./control.ts";
import { withSocketPath } from "./socket-path.ts";
import { type CacheStats, cacheStatsSchema } from "./stats.ts";

/** The other process answers within milliseconds unless it hangs. */
const ANSWER_TIMEOUT_MS = 10_000;

/** A staging daemon first ends what it is doing. */
const HAND_OVER_TIMEOUT_MS = 30_000;

const errorSchema = z.object({ error: z.object({ code: z.string(), message: z.string() }) });

/** Nobody answers on the socket: its process has ended, or hangs. */
export class ControlUnreachable extends Error {
  override readonly name = "ControlUnreachable";
}

export class ControlClient {
  readonly #path: string;

  /** @param path of the socket; nothing is opened before the first request. */
  constructor(path: string) {
    this.#path = path;
  }

  async stats(): Promise<CacheStats> {
    return cacheStatsSchema.parse(await (await this.#get("/stats")).json());
  }

  async metrics(): Promise<string> {
    return await (await this.#get("/metrics")).text();
  }

  async status(): Promise<PoolStatus> {
    return poolStatusSchema.parse(await (await this.#get("/status")).json());
  }

  /** Takes as long as overwriting does. */
  async wipe(signal?: AbortSignal): Promise<WipeReport> {
    return wipeReportSchema.parse(await (await this.#post("/wipe", {}, signal)).json());
  }

  async release(what: { path: string } | { all: true }, signal?: AbortSignal): Promise<ReleaseReport> {
    return releaseReportSchema.parse(await (await this.#post("/release", what, signal)).json());
  }

  /** The lock's owner sends it to `socket`, a name in the pool's folder, before this resolves. */
  async handOver(socket: string): Promise<void> {
    await this.#post("/handover", { socket }, AbortSignal.timeout(HAND_OVER_TIMEOUT_MS));
  }

  /** Stages; aborting `signal`, or leaving the loop, cancels it. The last event is "done" or "failed". */
  async *stage(request: { path: string; timeoutSeconds?: number }, signal: AbortSignal): AsyncGenerator<StageEvent> {
    const response = await this.#post("/stage", request, signal);
    if (response.body === null) return;
    const decoder = new TextDecoder();
    let rest = "";
    for await (const part of this.#parts(response.body, signal)) {
      const lines = (rest + decoder.decode(part, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) yield stageEventSchema.parse(JSON.parse(line));
    }
  }

  async *#parts(body: ReadableStream<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    try {
      yield* body;
    } catch (error) {
      if (signal.aborted) throw error;
      throw new ControlUnreachable(`${this.#path}: the connection was lost`, { cause: error });
    }
  }

  #get(path: string): Promise<Response> {
    return this.#request(path, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  }

  #post(path: string, body: object, signal?: AbortSignal): Promise<Response> {
    return this.#request(path, {
      method: "POST",
      body: JSON.stringify(body),
      // Bun gives up on an answer after five minutes otherwise.
      timeout: false,
      ...(signal === undefined ? {} : { signal }),
    });
  }

  async #request(path: string, init: BunFetchRequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await withSocketPath(this.#path, (unix) => fetch(`http://kiseki${path}`, { ...init, unix }));
    } catch (error) {
      if (init.signal?.aborted === true && init.signal.reason?.name !== "TimeoutError") throw error;
      throw new ControlUnreachable(`${this.#path}: nobody answers`, { cause: error });
    }
    if (response.ok) return response;
    const parsed = errorSchema.safeParse(await response.json().catch(() => null));
    if (!parsed.success) throw new Error(`${this.#path}: the answer was ${response.status}`);
    const { code, message } = parsed.data.error;
    if (code === "bad_request" || code === "not_found" || code === "conflict") throw new ControlError(code, message);
    throw new Error(message);
  }
}
