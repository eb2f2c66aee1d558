/** Numbers as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** "0 B", "12.3 MiB": three digits are enough to compare by eye. */
export function humanBytes(bytes: number): string {
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), UNITS.length - 1);
  const value = bytes / 1_024 ** power;
  return `${value.toFixed(power === 0 || value >= 100 ? 0 : 1)} ${UNITS[power]}`;
}

/** "850 us", "3.2 ms", "12 s", "4:05" (minutes), "1:02:03" (hours). */
export function humanSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "longer";
  if (seconds < 1e-3) return `${short(seconds * 1e6)} us`;
  if (seconds < 1) return `${short(seconds * 1e3)} ms`;
  if (seconds < 60) return `${short(seconds)} s`;
  const [hours, minutes, rest] = [Math.floor(seconds / 3_600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  const two = (value: number): string => String(value).padStart(2, "0");
  return hours === 0 ? `${minutes}:${two(rest)}` : `${hours}:${two(minutes)}:${two(rest)}`;
}

function short(value: number): string {
  return value.toFixed(value >= 10 ? 0 : 1);
}

/** "12,345,678". */
export function humanCount(count: number): string {
  return count.toLocaleString("en-US");
}

/** "12.3 %"; "-" of nothing. */
export function humanShare(part: number, whole: number): string {
  return whole === 0 ? "-" : `${((100 * part) / whole).toFixed(1)} %`;
}
