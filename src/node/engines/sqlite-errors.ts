/** SQLite's and the system's failures as the node's own errors. */
import { NodeError } from "../../protocol/errors.ts";

/**
 * Maps an error of SQLite (sqlite3.h result codes) or of the file system to NodeError: no_space, damaged, else io.
 * A NodeError is returned as it is.
 */
export function toNodeError(error: unknown): NodeError {
  if (error instanceof NodeError) return error;
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  const message = error instanceof Error ? error.message : String(error);
  if (code === "SQLITE_FULL" || code === "ENOSPC" || code === "EDQUOT") {
    return new NodeError("no_space", "the node's disk is full", { cause: error });
  }
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB") return new NodeError("damaged", message, { cause: error });
  return new NodeError("io", message.startsWith(code) ? message : `${code}: ${message}`, { cause: error });
}

/** True where the disk, not the delta, is to blame: trying the deltas one by one would not help. */
export function isDiskFailure(error: unknown): boolean {
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  return code === "SQLITE_FULL" || code.startsWith("SQLITE_IOERR") || code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_READONLY";
}
