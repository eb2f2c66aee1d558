/** The control socket and the metrics port of a mount: open as long as it is there. */
import { join } from "node:path";
import { CONTROL_SOCKET, type ControlledCaches, type ControlTarget } from "../cache/control/control.ts";
import { type ControlServer, serveControl, serveMetrics } from "../cache/control/server.ts";
import { collectStats } from "../cache/control/stats.ts";
import { type Address, formatAddress } from "../config/address.ts";
import type { MountConfig } from "../config/mount-config.ts";
import type { Logger } from "../log.ts";
import { CommandError, ExitStatus } from "../process/failure.ts";
import { runtimeSocketPath } from "../process/runtime-file.ts";
import { VERSION } from "../version.ts";
import { failureOf } from "./failure-of.ts";

export interface MountControl {
  /** null: it could not be opened. */
  readonly socket: string | null;
  close(): Promise<void>;
}

/**
 * A mount works without a control socket: that it can't be opened is logged.
 * @throws CommandError when the metrics address can't be used: it was asked for
 */
export function openMountControl(caches: ControlledCaches, tenant: string, config: MountConfig, log: Logger): MountControl {
  const { mode, pool } = caches;
  const startedAt = new Date().toISOString();
  const identity = { version: VERSION, pid: process.pid, kind: "mount", mountpoint: config.mountpoint, tenant, startedAt } as const;
  const target: ControlTarget = {
    kind: "mount",
    stats: () => collectStats({ ...identity, mode, pool }, caches.stats),
    wipe: () => caches.wipe(),
    staging: () => caches.staging(),
  };
  const servers: ControlServer[] = [];
  if (config.metricsAddress !== null) servers.push(openMetrics(config.metricsAddress, target, log));
  const open = (what: string, pathOf: () => string): string | null => {
    try {
      const path = pathOf();
      servers.push(serveControl(path, target, { log, describe: failureOf }));
      return path;
    } catch (error) {
      log.warn({ err: error }, `there is no control socket ${what}`);
      return null;
    }
  };
  // Two: what is in the pool goes with its folder, if somebody deletes that, and a mount can be without a pool.
  const inPool = pool === null ? null : open("in the pool: kiseki stage does not find this mount", () => join(pool.path, CONTROL_SOCKET));
  const socket = open("in the runtime folder", () => runtimeSocketPath(config.mountpoint)) ?? inPool;
  return {
    socket,
    close: async () => {
      for (const server of servers.splice(0)) await server.close();
    },
  };
}

function openMetrics(address: Address, target: ControlTarget, log: Logger): ControlServer {
  try {
    return serveMetrics(address, target, log);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === "EADDRINUSE" ? "is in use already" : `can't be listened on (${message})`;
    throw new CommandError(ExitStatus.failure, `metrics: ${formatAddress(address)} ${why}; choose another HOST:PORT`, { cause: error });
  }
}
