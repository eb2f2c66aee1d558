/** Sizes and times as people write them. */

const SIZE_UNITS: Record<string, number> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40, P: 2 ** 50 };

/**
 * Bytes of "512", "64K", "256M", "1.5G", "50GiB": units are powers of 1024, in either case. null where it is not a size or
 * not below 2^53.
 */
export function parseSize(text: string): number | null {
  const match = /^(\d{1,16}(?:\.\d{1,6})?)\s*([KMGTP]?)(?:iB|B)?$/i.exec(text.trim());
  if (match === null) return null;
  const bytes = Math.round(Number(match[1]) * (SIZE_UNITS[(match[2] ?? "").toUpperCase()] ?? Number.NaN));
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** "256M": the largest unit that divides it, as parseSize reads it back. */
export function formatSize(bytes: number): string {
  const unit = ["P", "T", "G", "M", "K"].find((name) => bytes > 0 && bytes % (SIZE_UNITS[name] ?? 1) === 0) ?? "";
  return `${bytes / (SIZE_UNITS[unit] ?? 1)}${unit}`;
}

const TIME_UNITS_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** Milliseconds of "5" (seconds, as in libfuse's attr_timeout), "0.5", "250ms", "5s", "2m", "1h". null where it is not a time. */
export function parseSeconds(text: string): number | null {
  const match = /^(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|h)?$/.exec(text.trim());
  if (match === null) return null;
  return Math.round(Number(match[1]) * (TIME_UNITS_MS[match[2] ?? "s"] ?? Number.NaN));
}
