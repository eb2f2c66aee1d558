/** The pools in a cache folder, as kiseki stage sees them from outside. */
import { join } from "node:path";
import { ControlClient, ControlUnreachable } from "../../cache/control/client.ts";
import { CONTROL_SOCKET, type PoolStatus } from "../../cache/control/control.ts";
import { CacheFolder, type PoolPlace } from "../../cache/pool/cache-folder.ts";
import { lockPath, readPoolRecord } from "../../cache/pool/pool-record.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";

/** A pool whose process answers. */
export interface LivingPool {
  readonly place: PoolPlace;
  readonly client: ControlClient;
  readonly status: PoolStatus;
}

export interface PoolFilter {
  /** null: of all tenants. */
  readonly tenant: string | null;
  /** undefined: all. */
  readonly id: string | undefined;
}

/** Places in a cache folder that fit. @throws CacheFolderError */
export function poolPlaces(cacheDir: string, { tenant, id }: PoolFilter): PoolPlace[] {
  const folder = CacheFolder.openExisting(cacheDir);
  const places = folder === null ? [] : folder.pools();
  return places.filter((place) => (tenant === null || place.tenant === tenant) && (id === undefined || place.id === id));
}

export function controlOf(place: PoolPlace): ControlClient {
  return new ControlClient(join(place.path, CONTROL_SOCKET));
}

/** Those whose process answers. One that is being deleted counts as dead. */
export async function livingPools(places: readonly PoolPlace[]): Promise<LivingPool[]> {
  const asked = await Promise.all(
    places.map(async (place) => {
      const client = controlOf(place);
      try {
        return { place, client, status: await client.status() };
      } catch (error) {
        if (error instanceof ControlUnreachable) return null;
        throw error;
      }
    }),
  );
  return asked.filter((pool) => pool !== null);
}

/** For messages: "by process 17 on /mnt". */
export function userOf(place: PoolPlace): string {
  const record = readPoolRecord(lockPath(place.path));
  if (record === null) return "";
  return record.kind === "stage" ? `staging daemon ${record.pid}` : `process ${record.pid}, mounted on ${record.mountpoint}`;
}

/** The one that is meant. @throws CommandError: none, or several */
export async function chosenPool(cacheDir: string, filter: PoolFilter): Promise<LivingPool> {
  const places = poolPlaces(cacheDir, filter);
  const living = await livingPools(places);
  const [pool, ...more] = living;
  if (pool !== undefined && more.length === 0) return pool;
  if (pool !== undefined) {
    const choices = living.map(({ place }) => `${place.id} (${userOf(place)})`).join(", ");
    throw new CommandError(ExitStatus.failure, `several pools are in use in ${cacheDir}: choose one with --pool: ${choices}`);
  }
  const dead = places[0];
  if (filter.id !== undefined && dead !== undefined) {
    throw new CommandError(
      ExitStatus.failure,
      `pool ${filter.id}: its process does not answer; if it has died, kiseki scrub deletes the pool`,
    );
  }
  const what = filter.id === undefined ? "no mount or staging daemon has a pool" : `no pool ${filter.id}`;
  throw new CommandError(ExitStatus.failure, `${what} in ${cacheDir}; mount first, or use --daemon`);
}
