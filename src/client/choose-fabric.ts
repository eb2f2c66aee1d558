/** By what the bodies of chunks are moved: asked of the node, and tried, before the chunk Workers start. */
import type { Logger } from "../log.ts";
import { findEventLoopFd } from "../process/event-loop-fd.ts";
import { hasDevices } from "../process/kernel-devices.ts";
import { NodeError } from "../protocol/errors.ts";
import { fabricProvider, providersOf, sourceOf, type TransportChoice } from "../protocol/fabric-providers.ts";
import { MIB, RDMA_MEMORY_MAX_BYTES } from "../protocol/limits.ts";
import type { FabricCandidate } from "../transfer/fabric-candidates.ts";
import { probeFabric, type RdmaSettings, SLOT_BYTES } from "../transfer/rdma-path.ts";
import { fabricPlaces } from "../transport/fabric-libraries.ts";
import type { NodeClient } from "../transport/node-client.ts";

/** Memory that the node may write to, of all Workers together: it is pinned. */
const SLOTS_MAX_BYTES = 256 * MIB;
/** Of one Worker: as many as it has transfers of whole chunks at a time. */
const SLOTS_PER_WORKER = 20;

/** Ports of one provider come before those of the next. */
const RANKS_PER_PROVIDER = 100;

/** Ports of the node that are tried from one of ours: one that can't be reached costs seconds. */
const DOMAINS_TRIED = 2;

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
  let ranks = 0;
  try {
    const { fabrics } = (await client.call("discover", {})).answer;
    for (const provider of wanted) {
      const { name } = provider;
      // Another way to the same adapters is no help while this one works, and libfabric is a lot to load for it.
      if (!isNamed && candidates.some((found) => fabricProvider(found.provider)?.devices === provider.devices)) continue;
      const domains = fabrics.filter((offer) => offer.provider === name).map(({ domain }) => domain);
      if (domains.length === 0) {
        reasons.push(`${name}: the storage node does not offer it`);
        continue;
      }
      const source = sourceOf(provider, fabricInterface, null);
      const places = fabricPlaces(provider, source);
      if (places.length === 0) reasons.push(`${name}: no port is up`);
      for (const [i, place] of places.entries()) {
        // Adapters of the same number are often wired to the same switch.
        for (let k = 0; k < Math.min(domains.length, DOMAINS_TRIED); k++) {
          const domain = domains[(i + k) % domains.length] ?? "";
          const candidate = { provider: name, source: place.source, domain, rank: ranks + place.order };
          const problem = await probeFabric(client, { candidates: [candidate], slots: 1 }, findEventLoopFd());
          if (problem !== null) {
            reasons.push(problem);
            continue;
          }
          candidates.push(candidate);
          break;
        }
      }
      ranks += RANKS_PER_PROVIDER;
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
