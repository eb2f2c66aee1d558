/** Asks the process behind a pool to stage: over its control socket, as `kiseki stage` does. */
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { ControlClient } from "../../src/cache/control/client.ts";
import type { StagedDataset } from "../../src/cache/control/stats.ts";
import type { TestMount } from "./test-mount.ts";

/** The folders of the pools in a cache_dir. */
export function poolsIn(cacheDir: string, tenant = "t"): string[] {
  try {
    return readdirSync(join(cacheDir, tenant)).map((id) => join(cacheDir, tenant, id));
  } catch {
    return [];
  }
}

/** cache_dir of a mount that was given none. */
export function cacheDirOf(mount: TestMount): string {
  return join(dirname(mount.logFile), "cache");
}

/** The pool of a mount that is the only one in its cache_dir. @throws Error when there is none */
export function poolOf(mount: TestMount): string {
  const [pool, ...others] = poolsIn(cacheDirOf(mount));
  if (pool === undefined || others.length > 0) throw new Error(`expected one pool, got ${others.length + (pool === undefined ? 0 : 1)}`);
  return pool;
}

export function controlOf(pool: string): ControlClient {
  return new ControlClient(join(pool, "control.sock"));
}

/** Stages a path to the end. @throws Error with the message of the failure */
export async function stage(pool: string, path: string, timeoutSeconds?: number): Promise<StagedDataset> {
  const request = timeoutSeconds === undefined ? { path } : { path, timeoutSeconds };
  for await (const event of controlOf(pool).stage(request, AbortSignal.timeout(120_000))) {
    if (event.type === "done") return event.dataset;
    if (event.type === "failed") throw new Error(event.error.message);
  }
  throw new Error("the connection ended before staging did");
}
