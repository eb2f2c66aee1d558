/** The log: one JSON object a line (pino), on standard error or appended to a file, without secrets. */
import { type Logger, pino } from "pino";
import type { LogLevel } from "./config/mount-config.ts";

export type { Logger };

/** Fields that never reach the log, wherever an object with them is logged, up to two levels deep. */
const SECRET_FIELDS = ["kek", "key", "dataKey", "passphrase", "password", "secret", "privateKey", "plaintext"];
const REDACTED_PATHS = SECRET_FIELDS.flatMap((field) => [field, `*.${field}`, `*.*.${field}`]);

/**
 * Makes the program's logger. `file` is created with mode 0600 and appended to, so that logrotate's copytruncate works; null is
 * standard error. Lines are written at once: what was logged before a crash is there after it. Where the disk takes none, the newest LOG_WAITING_MAX_BYTES
 * wait, and the process goes on.
 */
export function createLogger(level: LogLevel, file: string | null = null) {
  const destination = pino.destination(
    file === null
      ? { dest: 2, sync: true, maxLength: LOG_WAITING_MAX_BYTES }
      : { dest: file, append: true, mkdir: true, mode: 0o600, sync: true, maxLength: LOG_WAITING_MAX_BYTES },
  );
  // A full disk: nobody could be told of it.
  destination.on("error", () => {});
  const logger = pino(
    { level, redact: { paths: REDACTED_PATHS, censor: "[redacted]" }, timestamp: pino.stdTimeFunctions.isoTime },
    destination,
  );
  if (file !== null) reopeners.set(logger, () => destination.reopen());
  return logger;
}

/** Lines that wait for a disk that takes none. */
const LOG_WAITING_MAX_BYTES = 1024 * 1024;
const reopeners = new WeakMap<object, () => void>();

/** Opens the log's file again by its name: it was moved away. Standard error stays what it is. */
export function reopenLog(logger: Logger): void {
  reopeners.get(logger)?.();
}
