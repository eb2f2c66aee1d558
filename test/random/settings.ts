/** How long the randomized suites run, and how a failure is repeated. */

/** An integer from the environment. @throws RangeError when it is set to something else. */
function integer(name: string, otherwise: number): number {
  const text = process.env[name];
  if (text === undefined || text === "") return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${name}: expected a whole number, got ${text}`);
  return value;
}

/** Operations of the model test. */
export const OPERATIONS = integer("KISEKI_TEST_OPS", 20_000);
/**
 * Where randomness starts from; printed, so that it can be given again. In CI it stands still: what a change is judged by is then the change.
 * Everywhere else each run tries something new.
 */
export const SEED = integer("KISEKI_TEST_SEED", process.env.CI === undefined ? Math.floor(Math.random() * 2 ** 31) : 20_261_122);
/** How long the two-mount soak takes, in seconds. */
export const SOAK_S = integer("KISEKI_TEST_SOAK_S", 30);
/** Lies that are told to one mount. */
export const LIES_TOLD = integer("KISEKI_TEST_LIES", 100);
/** How often the crash test kills somebody. */
export const CRASHES = integer("KISEKI_TEST_CRASHES", 9);

/** What a failing test prints first. */
export function howToRepeat(file: string): string {
  return `repeat with KISEKI_TEST_SEED=${SEED} scripts/test ${file}`;
}

/** Random choices that a seed repeats (mulberry32). */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An integer from 0 to `limit` - 1. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}
