/**
 * The staging daemon: a client without a tree, which keeps a pool alive until a mount takes it over. It does what it is asked on its
 * control socket, and ends when its pool was handed over, when nothing is staged in it any more, or by a signal.
 */
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { CONTROL_SOCKET, ControlError, type ControlTarget, type StagingControl } from "../cache/control/control.ts";
import { serveControl } from "../cache/control/server.ts";
import { collectStats } from "../cache/control/stats.ts";
import type { ClientConfig } from "../config/mount-config.ts";
import type { BackgroundJob } from "../process/background-process.ts";
import { CommandError, ExitStatus } from "../process/failure.ts";
import { VERSION } from "../version.ts";
import { controlledCaches } from "./controlled-caches.ts";
import { unpackCredentials } from "./credential-handover.ts";
import { failureOf } from "./failure-of.ts";
import { openClient } from "./open-client.ts";

/** What the daemon says when its pool is there and it can be asked. */
export interface StageDaemonReady {
  readonly pool: string;
}

/** Who started the daemon asks at once; where that one was interrupted meanwhile, an empty pool is not kept. */
const FIRST_REQUEST_MS = 10_000;
/** The answer to a request that ends the daemon has to go out first. */
const LAST_ANSWER_MS = 100;

/** Why the daemon ends. Abandoned: its pool stays as that of a process that has died. */
type Why = "stopped" | "released" | "handed over" | "abandoned";

/** Staging that can be brought to an end, and that tells when nothing is left. */
class DaemonStaging implements StagingControl {
  readonly #inner: StagingControl;
  readonly #onEmpty: () => void;
  readonly #ending = new AbortController();
  readonly #running = new Set<Promise<void>>();

  constructor(inner: StagingControl, onEmpty: () => void) {
    this.#inner = inner;
    this.#onEmpty = onEmpty;
  }

  async stage(path: string, options: Parameters<StagingControl["stage"]>[1]): Promise<void> {
    if (this.#ending.signal.aborted) throw new ControlError("conflict", "the pool is being handed over");
    const work = this.#inner.stage(path, { ...options, signal: AbortSignal.any([options.signal, this.#ending.signal]) });
    this.#running.add(work);
    try {
      await work;
    } finally {
      this.#running.delete(work);
      this.endIfEmpty();
    }
  }

  datasets(): ReturnType<StagingControl["datasets"]> {
    return this.#inner.datasets();
  }

  async release(path: string): Promise<number> {
    const bytes = await this.#inner.release(path);
    this.endIfEmpty();
    return bytes;
  }

  /** Nothing is staged any more from now on. */
  async stop(): Promise<void> {
    this.#ending.abort(new ControlError("conflict", "the pool is being handed over"));
    await Promise.allSettled(this.#running);
  }

  endIfEmpty(): void {
    if (this.#running.size === 0 && this.#inner.datasets().length === 0 && !this.#ending.signal.aborted) this.#onEmpty();
  }
}

/** Returns when the daemon has ended. */
export async function stageDaemonMain({
  config,
  secrets,
  log,
  stop,
  onReady,
}: BackgroundJob<ClientConfig, StageDaemonReady>): Promise<void> {
  const credentials = unpackCredentials(secrets);
  const client = await openClient(
    { config, credentials, log },
    { kind: "stage", mountpoint: null },
    { onRecall: () => {}, onState: (state) => log.info({ state }, "node connection"), staging: { onChange: () => {} } },
  );
  const { pool } = client;
  const ended = Promise.withResolvers<Why>();
  let closeServer = async (): Promise<void> => {};
  try {
    if (pool === null) {
      throw new CommandError(ExitStatus.failure, "nothing can be staged: the cache policy, or the disk, leaves no room for a disk cache");
    }
    const caches = controlledCaches(client);
    const endSoon = (why: Why) => void setTimeout(() => ended.resolve(why), LAST_ANSWER_MS);
    const staging = new DaemonStaging(caches.staging(), () => endSoon("released"));
    setTimeout(() => staging.endIfEmpty(), FIRST_REQUEST_MS).unref();
    // By request, because no node answers any more, or because the keys are gone: there is nothing left to keep.
    client.lifecycle.onWipe(() => endSoon("released"));
    const startedAt = new Date().toISOString();
    const identity = {
      version: VERSION,
      pid: process.pid,
      kind: "stage",
      mountpoint: null,
      tenant: credentials.tenant,
      startedAt,
    } as const;
    const socket = join(pool.path, CONTROL_SOCKET);
    const target: ControlTarget = {
      kind: "stage",
      stats: () => collectStats({ ...identity, mode: caches.mode, pool: caches.pool }, caches.stats),
      wipe: () => caches.wipe(),
      staging: () => staging,
      end: () => endSoon("released"),
      handOver: async (name) => {
        // Once the pool is not in use any more there is no way back.
        if (statSync(join(pool.path, name), { throwIfNoEntry: false })?.isSocket() !== true) {
          throw new ControlError("not_found", `${name}: there is no such socket in the pool`);
        }
        await staging.stop();
        await client.staging?.close();
        await client.disk?.close();
        // The one who takes over makes its own, which must not be removed by us.
        rmSync(socket, { force: true });
        try {
          pool.handOver(name);
          endSoon("handed over");
        } catch (error) {
          // Who asked has died. Another one can take the pool over from nobody.
          endSoon("abandoned");
          throw error;
        }
      },
    };
    const server = serveControl(socket, target, { log, describe: failureOf });
    closeServer = () => server.close();
    stop.addEventListener("abort", () => ended.resolve("stopped"));
    if (stop.aborted) ended.resolve("stopped");
    log.info({ pool: pool.id }, "a staging daemon has begun");
    onReady({ pool: pool.id });
    const why = await ended.promise;
    log.info({ pool: pool.id, why }, "the staging daemon ends");
    if (why === "handed over") closeServer = async () => {};
    else await staging.stop();
    if (why === "abandoned") await pool.close({ wipe: false });
    await client.lifecycle.wiped();
  } finally {
    await closeServer();
    await client.close();
  }
}
