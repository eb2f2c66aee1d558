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
/** Where randomness starts from; printed, so that it can be given again. */
export const SEED = integer("KISEKI_TEST_SEED", Math.floor(Math.random() * 2 ** 31));
/** How long the two-mount soak takes, in seconds. */
export const SOAK_S = integer("KISEKI_TEST_SOAK_S", 30);

/** What a failing test prints first. */
export function howToRepeat(file: string): string {
  return `repeat with KISEKI_TEST_SEED=${SEED} scripts/test ${file}`;
}
