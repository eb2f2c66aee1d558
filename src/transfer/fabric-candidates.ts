/** The ways that a fabric may take, best first: what chooseFabric() found, and what each chunk Worker goes by. */

export interface FabricCandidate {
  /** As in FABRIC_PROVIDERS. */
  readonly provider: string;
  /** An address or device of this machine; null: nothing is named. */
  readonly source: string | null;
  /** Of the node's, where it offers several; empty: its first. */
  readonly domain: string;
  /** Smaller is better. */
  readonly rank: number;
}

/** For the Worker of this number: of those that are as good as the best each Worker begins with another, so that all adapters are used. */
export function inTurn(candidates: readonly FabricCandidate[], worker: number): FabricCandidate[] {
  const best = candidates.filter(({ rank }) => rank === candidates[0]?.rank);
  if (best.length === 0) return [];
  const first = worker % best.length;
  return [...best.slice(first), ...best.slice(0, first), ...candidates.slice(best.length)];
}
