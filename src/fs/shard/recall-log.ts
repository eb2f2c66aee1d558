/**
 * Which leases were recalled lately. A recall may overtake the answer that granted the lease, so a lease counts only if none came since
 * it was asked for.
 */

/** Inodes remembered one by one; beyond it everything asked for so far counts as recalled. */
const INODES_MAX = 8_192;

export class RecallLog {
  #now = 0;
  /** Everything was recalled at this time. */
  #floor = 0;
  readonly #at = new Map<number, number>();

  /** A time to ask `allows` about; rises with each recall. */
  get now(): number {
    return this.#now;
  }

  add(numbers: readonly number[]): void {
    this.#now++;
    for (const number of numbers) this.#at.set(number, this.#now);
    if (this.#at.size > INODES_MAX) this.addAll();
  }

  addAll(): void {
    this.#now++;
    this.#floor = this.#now;
    this.#at.clear();
  }

  /** Whether a lease that was asked for at `askedAt` still holds when its answer is here. */
  allows(number: number, askedAt: number): boolean {
    return (this.#at.get(number) ?? this.#floor) <= askedAt;
  }
}
