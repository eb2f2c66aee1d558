/** Wall-clock times for inodes, finer than Date.now()'s milliseconds. */

/** A moment: seconds since the epoch (may be negative) and nanoseconds, as in struct timespec. */
export interface Timestamp {
  sec: number;
  nsec: number;
}

/** The monotonic clock is set against the wall clock anew when they have drifted apart by this much (a stepped or slewed clock). */
const DRIFT_MAX_MS = 2;
let wallMinusMonotonicMs = Date.now() - performance.now();

/** The time now, with sub-millisecond digits from the monotonic clock, so that two changes in one millisecond differ. */
export function now(): Timestamp {
  const monotonicMs = performance.now();
  const wallMs = Date.now();
  if (Math.abs(wallMs - (monotonicMs + wallMinusMonotonicMs)) > DRIFT_MAX_MS) wallMinusMonotonicMs = wallMs - monotonicMs;
  const ms = monotonicMs + wallMinusMonotonicMs;
  const sec = Math.floor(ms / 1000);
  return { sec, nsec: Math.floor((ms - sec * 1000) * 1e6) };
}

/** Whether `a` is later than `b`. */
export function isLater(aSec: number, aNsec: number, bSec: number, bNsec: number): boolean {
  return aSec !== bSec ? aSec > bSec : aNsec > bNsec;
}
