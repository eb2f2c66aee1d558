/** libfabric, with what the providers that are wanted need of the environment. */
import { Libfabric } from "../../ffi/libfabric/libfabric.ts";
import type { FabricProvider } from "../protocol/fabric-providers.ts";

/**
 * Loads it. The variables must be there before anything is asked of it: the first question starts all providers, which read them once.
 * @throws Error when it is not installed, or too old
 */
export function openLibfabric(wanted: readonly FabricProvider[]): Libfabric {
  const lib = new Libfabric();
  for (const { environment } of wanted) lib.setEnvironment(environment);
  return lib;
}
