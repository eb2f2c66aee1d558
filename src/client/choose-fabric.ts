/** By what the bodies of chunks are moved: asked of the node, and tried, before the chunk Workers start. */
import type { Logger } from "../log.ts";
import { findEventLoopFd } from "../process/event-loop-fd.ts";
import { hasDevices } from "../process/kernel-devices.ts";
import { NodeError } from "../protocol/errors.ts";
import { fabricProvider, providersOf, sourceOf, type TransportChoice } from "../protocol/fabric-providers.ts";
import { MIB, RDMA_MEMORY_MAX_BYTES } from "../protocol/limits.ts";
import type { FabricCandidate } from "../transfer/fabric-candidates.ts";
import { SLOT_BYTES } from "../transfer/open-path.ts";
import { probeFabric, type RdmaSettings } from "../transfer/rdma-path.ts";
import type { NodeClient } from "../transport/node-client.ts";
import { type FabricPair, fabricPairs } from "./fabric-pairs.ts";

/** Memory that the node may write to, of all Workers together: it is pinned. */
const SLOTS_MAX_BYTES = 256 * MIB;
/** Of one Worker: as many as it has transfers of whole chunks at a time. */
const SLOTS_PER_WORKER = 20;

export interface FabricWish {
  readonly transport: TransportChoice;
  readonly fabricInterface: string | null;
}

/**
 * The fabrics that both sides have and that carry bytes, best first; null: bodies go by TLS.
 * @throws NodeError "fabric" when fabrics are named and none can be had
 */
export async function chooseFabric(
  client: NodeClient,
  { transport, fabricInterface }: FabricWish,
  workers: number,
  log: Logger,
): Promise<RdmaSettings | null> {
  const wanted = providersOf(transport, hasDevices);
  if (wanted.length === 0) return null;
  const isNamed = transport !== "auto";
  const reasons: string[] = [];
  const candidates: FabricCandidate[] = [];
  try {
    const { fabrics } = (await client.call("discover", {})).answer;
    for (const [order, provider] of wanted.entries()) {
      // Another way to the same adapters is no help while this one works, and libfabric is a lot to load for it.
      if (!isNamed && candidates.some((found) => fabricProvider(found.provider)?.devices === provider.devices)) continue;
      const pairs = fabricPairs(provider, order, sourceOf(provider, fabricInterface, null), fabrics);
      if (pairs.length === 0) reasons.push(`${provider.name}: no port is up`);
      else if (pairs[0]?.domains.length === 0) reasons.push(`${provider.name}: the storage node does not offer it`);
      for (const pair of pairs) {
        const found = await firstThatWorks(client, provider.name, pair, reasons);
        if (found !== null) candidates.push(found);
      }
    }
    const slots = Math.min(SLOTS_PER_WORKER, Math.floor(Math.min(SLOTS_MAX_BYTES / workers, RDMA_MEMORY_MAX_BYTES) / SLOT_BYTES));
    if (candidates.length > 0) return { candidates, slots };
  } catch (error) {
    if (!isNamed) log.warn({ err: error }, "no fabric could be tried: content goes by TLS");
    else throw error;
  }
  if (isNamed) throw new NodeError("fabric", `no fabric can be used: ${reasons.join("; ")}`);
  if (reasons.length > 0) log.info({ reasons }, "no fabric can be used: content goes by TLS");
  return null;
}

async function firstThatWorks(
  client: NodeClient,
  provider: string,
  { source, rank, domains }: FabricPair,
  reasons: string[],
): Promise<FabricCandidate | null> {
  for (const domain of domains) {
    const candidate = { provider, source, domain, rank };
    const problem = await probeFabric(client, { candidates: [candidate], slots: 1 }, findEventLoopFd());
    if (problem === null) return candidate;
    reasons.push(problem);
  }
  return null;
}
