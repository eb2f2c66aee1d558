/** How long to wait before the next attempt to connect: exponential, with full jitter, so that a node that comes back is not stormed. */

/** The first attempt comes within this: a restarted node is back in a blink. */
export const BACKOFF_FIRST_MS = 50;
/** No wait is longer: an application hangs meanwhile. */
export const BACKOFF_MAX_MS = 2_000;

/** Milliseconds before attempt number `attempt` (0: the first), between 0 and the step's limit; `random` gives 0 to 1. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
}
