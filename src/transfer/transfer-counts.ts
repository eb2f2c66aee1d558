/** What has been moved, and how: counted by the thread that moves it, in memory that the main thread reads without asking. */

const FIELDS = ["fabricTransfers", "fabricBytes", "fallbacks", "tlsTransfers", "tlsBytes", "openPaths"] as const;
type Field = (typeof FIELDS)[number];

/** Bodies of chunks. fallbacks: sent again by TLS. openPaths: 1 while a fabric is in use. */
export type TransferTotals = Record<Field, number>;

export class TransferCounts {
  readonly memory: SharedArrayBuffer;
  readonly #values: Float64Array;

  constructor(memory = new SharedArrayBuffer(FIELDS.length * Float64Array.BYTES_PER_ELEMENT)) {
    this.memory = memory;
    this.#values = new Float64Array(memory);
  }

  byFabric(bytes: number): void {
    this.#add("fabricTransfers", 1);
    this.#add("fabricBytes", bytes);
  }

  byTls(bytes: number): void {
    this.#add("tlsTransfers", 1);
    this.#add("tlsBytes", bytes);
  }

  fellBack(): void {
    this.#add("fallbacks", 1);
  }

  set isOpen(isOpen: boolean) {
    this.#values[FIELDS.indexOf("openPaths")] = isOpen ? 1 : 0;
  }

  #add(field: Field, count: number): void {
    const at = FIELDS.indexOf(field);
    this.#values[at] = (this.#values[at] ?? 0) + count;
  }

  get(field: Field): number {
    return this.#values[FIELDS.indexOf(field)] ?? 0;
  }
}

export function sumCounts(all: Iterable<TransferCounts>): TransferTotals {
  const totals = Object.fromEntries(FIELDS.map((field) => [field, 0])) as TransferTotals;
  for (const counts of all) for (const field of FIELDS) totals[field] += counts.get(field);
  return totals;
}
