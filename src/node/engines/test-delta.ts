/** Deltas for tests of the node. */
import type { Delta } from "../../protocol/messages.ts";

/** A delta with what is not given left empty. */
export function makeDelta(id: number, parts: Partial<Delta> = {}): Delta {
  return {
    id,
    answeredBelow: 0,
    checks: [],
    puts: [],
    deletes: [],
    deletePrefixes: [],
    bumps: [],
    leases: [],
    durable: false,
    ...parts,
  };
}
