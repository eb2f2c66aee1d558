/**
 * The HTTP server on a mount's or staging daemon's control socket. It runs on the request loop's thread: what is asked takes microseconds, or
 * awaits. Who may connect is the kernel's to check: connecting needs write permission on the socket, which only its owner and root have,
 * and its folder lets nobody else in.
 */
import { chmodSync, rmSync } from "node:fs";
import type { Server } from "bun";
import { z } from "zod";
import type { Logger } from "../../log.ts";
import {
  ControlError,
  type ControlTarget,
  handOverRequestSchema,
  type PoolStatus,
  type ReleaseReport,
  releaseRequestSchema,
  type StageControlOptions,
  type StageEvent,
  type StageProgress,
  type StagingControl,
  stageRequestSchema,
} from "./control.ts";
import { withSocketPath } from "./socket-path.ts";

/** A request names a path (4 KiB) and little else. */
const BODY_BYTES_MAX = 16 * 1024;
/** A connection on which nothing happens is closed; work of which the answer is awaited doesn't count as nothing. */
const IDLE_SECONDS = 30;
/** Staging tells this often how far it is, changed or not: Bun 1.4.5 ends an answer in which nothing comes for 10 s, timeout() or not. */
const PROGRESS_INTERVAL_MS = 250;

const STATUS_OF_CODE = { bad_request: 400, not_found: 404, conflict: 409 } as const;

export interface ControlServerOptions {
  readonly log: Logger;
  /** What a user is told of a failure, and with which exit status. */
  readonly describe: (error: unknown) => { readonly message: string; readonly exitStatus: number };
}

export interface ControlServer {
  /** Ends the requests that run, and removes the socket. */
  close(): Promise<void>;
}

/**
 * Serves `target` on a socket at `path`, mode 0600. A socket that a dead process left there is replaced: whoever calls holds the lock of
 * the folder.
 * @throws Error when it can't listen.
 */
export function serveControl(path: string, target: ControlTarget, { log, describe }: ControlServerOptions): ControlServer {
  rmSync(path, { force: true });
  const server = withSocketPath(path, (unix) =>
    Bun.serve({
      unix,
      maxRequestBodySize: BODY_BYTES_MAX,
      development: false,
      routes: routesOf(target, describe),
      fetch: () => failure(404, "not_found", "no such request"),
      error: (error) => answerError(error, log),
    }),
  );
  chmodSync(path, 0o600);
  return {
    close: async () => {
      await server.stop(true);
      rmSync(path, { force: true });
    },
  };
}

/** Serves GET /metrics alone, on TCP. @throws Error when the address is in use. */
export function serveMetrics(address: { host: string; port: number }, target: Pick<ControlTarget, "stats">, log: Logger): ControlServer {
  // Some ten milliseconds of loading, which the first scrape would cost the requests of the mount.
  import("./prometheus.ts").catch((error) => log.warn({ err: error }, "the metrics can't be made"));
  const server = Bun.serve({
    hostname: address.host,
    port: address.port,
    // Bun 1.4.5 sets SO_REUSEPORT where development is false: two mounts would share the port, and each scrape would meet either.
    reusePort: false,
    maxRequestBodySize: 0,
    idleTimeout: IDLE_SECONDS,
    development: false,
    routes: { "/metrics": { GET: () => metrics(target) } },
    fetch: () => failure(404, "not_found", "only /metrics is here"),
    error: (error) => answerError(error, log),
  });
  return { close: async () => void (await server.stop(true)) };
}

type Handler = (request: Request, server: Server<undefined>) => Response | Promise<Response>;

function routesOf(target: ControlTarget, describe: ControlServerOptions["describe"]): Record<string, { GET: Handler } | { POST: Handler }> {
  /** For work that may take minutes. */
  const patient =
    (handler: Handler): Handler =>
    (request, server) => {
      server.timeout(request, 0);
      return handler(request, server);
    };
  return {
    "/stats": { GET: () => Response.json(target.stats()) },
    "/metrics": { GET: () => metrics(target) },
    "/status": { GET: () => Response.json(statusOf(target)) },
    "/wipe": { POST: patient(async () => Response.json(await target.wipe())) },
    "/release": { POST: patient(async (request) => Response.json(await release(target, await bodyOf(request, releaseRequestSchema)))) },
    "/stage": { POST: patient(async (request) => stage(target, request, describe)) },
    "/handover": {
      POST: async (request) => {
        const { socket } = await bodyOf(request, handOverRequestSchema);
        if (target.handOver === undefined) throw new ControlError("conflict", "this pool is in use by a mount");
        await target.handOver(socket);
        return Response.json({});
      },
    },
  };
}

function statusOf(target: ControlTarget): PoolStatus {
  const { kind, tenant, mountpoint, pool, datasets } = target.stats();
  return { pool: pool?.id ?? null, kind, tenant, mountpoint, datasets };
}

async function metrics(target: Pick<ControlTarget, "stats">): Promise<Response> {
  // Loaded when it is first asked for: most mounts are never scraped.
  const { METRICS_CONTENT_TYPE, prometheusText } = await import("./prometheus.ts");
  return new Response(await prometheusText(target.stats()), { headers: { "content-type": METRICS_CONTENT_TYPE } });
}

async function release(target: ControlTarget, request: z.infer<typeof releaseRequestSchema>): Promise<ReleaseReport> {
  const staging = target.staging();
  const paths = "path" in request ? [request.path] : staging.datasets().map((dataset) => dataset.path);
  let bytes = 0;
  for (const path of paths) bytes += await staging.release(path);
  const ends = "all" in request && target.end !== undefined;
  // After the answer has gone out.
  if (ends) setTimeout(() => target.end?.(), 0);
  return { released: paths, bytes, ends };
}

/** Answers at once, with a line of JSON for each event. Who asks cancels by closing the connection. */
async function stage(target: ControlTarget, request: Request, describe: ControlServerOptions["describe"]): Promise<Response> {
  const { path, timeoutSeconds } = await bodyOf(request, stageRequestSchema);
  const staging = target.staging();
  const cancelled = new AbortController();
  const signal = AbortSignal.any([cancelled.signal, request.signal]);
  const deadline = timeoutSeconds === undefined ? {} : { timeoutMs: timeoutSeconds * 1_000 };
  const encoder = new TextEncoder();
  const lines = new ReadableStream<Uint8Array>({
    start: async (controller) => {
      const send = (event: StageEvent): void => {
        if (!cancelled.signal.aborted && !request.signal.aborted) controller.enqueue(encoder.encode(`${JSON.stringify(event)}\n`));
      };
      let progress: StageProgress = { files: 0, bytes: 0, filesDone: 0, bytesDone: 0, walked: false };
      const onProgress = (reached: StageProgress): void => {
        progress = reached;
      };
      const timer = setInterval(() => send({ type: "progress", progress }), PROGRESS_INTERVAL_MS);
      const last = await stageTo(staging, path, { signal, onProgress, ...deadline }).catch((error): StageEvent => {
        const { message, exitStatus } = describe(error);
        return { type: "failed", error: { code: codeOf(error), message, exitStatus } };
      });
      clearInterval(timer);
      send({ type: "progress", progress });
      send(last);
      if (!cancelled.signal.aborted && !request.signal.aborted) controller.close();
    },
    cancel: () => cancelled.abort(),
  });
  return new Response(lines, { headers: { "content-type": "application/x-ndjson" } });
}

async function stageTo(staging: StagingControl, path: string, options: StageControlOptions): Promise<StageEvent> {
  await staging.stage(path, options);
  const dataset = staging.datasets().find((candidate) => candidate.path === path);
  if (dataset === undefined) throw new Error(`${path} was released while it was staged`);
  return { type: "done", dataset };
}

function codeOf(error: unknown): string {
  if (error instanceof ControlError) return error.code;
  return error instanceof Error ? error.name : "internal";
}

async function bodyOf<S extends z.ZodType>(request: Request, schema: S): Promise<z.output<S>> {
  let body: unknown;
  try {
    body = await request.json();
  } catch {
    throw new ControlError("bad_request", "expected a body of JSON");
  }
  const result = schema.safeParse(body);
  if (!result.success) throw new ControlError("bad_request", z.prettifyError(result.error).replaceAll("\n", " "));
  return result.data;
}

function failure(status: number, code: string, message: string): Response {
  return Response.json({ error: { code, message } }, { status });
}

function answerError(error: Error, log: Logger): Response {
  if (error instanceof ControlError) return failure(STATUS_OF_CODE[error.code], error.code, error.message);
  log.error({ err: error }, "a request on the control socket failed");
  return failure(500, "internal", error.message);
}
