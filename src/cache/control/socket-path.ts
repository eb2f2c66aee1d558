/** Paths of Unix sockets: sockaddr_un holds 107 bytes (unix(7)), which a pool's folder alone can be longer than. */
import { closeSync, constants, openSync } from "node:fs";
import { basename, dirname } from "node:path";

/** Calls `use` with a short path of the same file, by way of a descriptor of its folder. */
export function withSocketPath<T>(path: string, use: (short: string) => T): T {
  const folder = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  let result: T;
  try {
    result = use(`/proc/self/fd/${folder}/${basename(path)}`);
  } catch (error) {
    closeSync(folder);
    throw error;
  }
  if (result instanceof Promise) {
    result.finally(() => closeSync(folder)).catch(() => undefined);
  } else {
    closeSync(folder);
  }
  return result;
}
