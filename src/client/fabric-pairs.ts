/** From where to where a fabric is tried: ports of this machine, each with those of the node that it may reach. */
import type { FabricProvider } from "../protocol/fabric-providers.ts";
import type { FabricOffer } from "../protocol/messages.ts";
import { fabricPlaces } from "../transport/fabric-libraries.ts";

/** Ports of the node that are tried from one of ours: one that can't be reached costs seconds. */
const DOMAINS_TRIED = 2;
/** Ports of one provider come before those of the next; a provider has fewer. */
const RANKS_PER_PROVIDER = 100;

export interface FabricPair {
  /** An address or device of this machine; null: the provider chooses. */
  readonly source: string | null;
  /** As in FabricCandidate. */
  readonly rank: number;
  /** The node's, in the order in which they are tried; none: it does not offer this provider. */
  readonly domains: readonly string[];
}

/** @param order the provider's, among those that are tried @param source what is named of this machine; null: nothing */
export function fabricPairs(provider: FabricProvider, order: number, source: string | null, offers: readonly FabricOffer[]): FabricPair[] {
  const offered = offers.filter((offer) => offer.provider === provider.name).map(({ domain }) => domain);
  return fabricPlaces(provider, source).map((place, i) => ({
    source: place.source,
    rank: order * RANKS_PER_PROVIDER + place.order,
    // Adapters of the same number are often wired to the same switch.
    domains: offered.map((_, k) => offered[(i + k) % offered.length] as string).slice(0, DOMAINS_TRIED),
  }));
}
