/** The log: one JSON object a line (pino), on standard error or appended to a file, without secrets. */
import { pino } from "pino";
import type { LogLevel } from "./config/mount-config.ts";

export type { Logger } from "pino";

/** Fields that never reach the log, wherever an object with them is logged, up to two levels deep. */
const SECRET_FIELDS = ["kek", "key", "dataKey", "passphrase", "password", "secret", "privateKey", "plaintext"];
const REDACTED_PATHS = SECRET_FIELDS.flatMap((field) => [field, `*.${field}`, `*.*.${field}`]);

/**
 * Makes the program's logger. `file` is created with mode 0600 and appended to, so that logrotate's copytruncate works; null is
 * standard error. Lines are written at once: what was logged before a crash is there after it.
 */
export function createLogger(level: LogLevel, file: string | null = null) {
  const destination = pino.destination(
    file === null ? { dest: 2, sync: true } : { dest: file, append: true, mkdir: true, mode: 0o600, sync: true },
  );
  return pino({ level, redact: { paths: REDACTED_PATHS, censor: "[redacted]" }, timestamp: pino.stdTimeFunctions.isoTime }, destination);
}
