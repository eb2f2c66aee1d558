/**
 * What an error means to a user: all errors that a user can cause, in whatever layer, become one line with a remedy and an exit status here
 * and nowhere else. Only an error that nobody foresaw shows its stack.
 *
 * Errors of other layers are told apart by their `name`, not by instanceof: importing their classes would load TLS,
 * cryptography and libfuse for `kiseki --version`.
 */
import type { PoolError } from "../cache/pool/cache-error.ts";
import type { MountError } from "../mount/mount-error.ts";
import { type CommandError, ExitStatus, type Failure } from "../process/failure.ts";
import type { NodeError, TransportError } from "../protocol/errors.ts";

/** Codes of the system in messages about connections, in words. */
const CONNECTION_CODES = new Map([
  ["ECONNREFUSED", "connection refused"],
  ["ECONNRESET", "connection reset"],
  ["EHOSTUNREACH", "no route to host"],
  ["ENETUNREACH", "network is unreachable"],
  ["ENOTFOUND", "no such host"],
]);

function transportFailure(error: TransportError): Failure {
  const said = error.message.replace(/\bE[A-Z]{4,}\b/g, (code) => CONNECTION_CODES.get(code) ?? code);
  switch (error.kind) {
    case "unreachable":
    case "timeout":
    case "closed":
    case "aborted":
      return { exitStatus: ExitStatus.unreachable, message: `${said}; is the storage node running, and is --data-addr right?` };
    case "refused":
      return { exitStatus: ExitStatus.failure, message: said };
    case "untrue":
      return { exitStatus: ExitStatus.failure, message: `${said}; do not use this storage node before its operator has looked into it` };
    case "tls":
      return {
        exitStatus: ExitStatus.notAuthorized,
        message: `${said}; do the credentials belong to this cluster, and are they still valid?`,
      };
    case "not_authorized":
      return {
        exitStatus: ExitStatus.notAuthorized,
        message: `${said}; ask the operator of the storage node for valid credentials`,
      };
  }
}

function nodeFailure(error: NodeError): Failure {
  const failed = (remedy: string): Failure => ({ exitStatus: ExitStatus.failure, message: `${error.message}${remedy}` });
  switch (error.code) {
    case "not_authorized":
      return { exitStatus: ExitStatus.notAuthorized, message: `${error.message}; the credentials do not allow this` };
    case "key_revoked":
      return { exitStatus: ExitStatus.notAuthorized, message: error.message };
    case "fabric":
      return failed("; -o transport=tcp does without the fabric");
    case "shutting_down":
    case "session_lost":
      return { exitStatus: ExitStatus.unreachable, message: `${error.message}; try again when the storage node is back` };
    case "no_space":
      return failed("; the storage node's disk is full: make room there, or delete files");
    case "not_found":
      return failed("; see: kiseki namespace list");
    case "not_empty":
      return failed("; delete what is in it first, or use --force");
    case "io":
    case "damaged":
      return failed("; look into the storage node's log, and run: kiseki serve --verify");
    case "exists":
    case "bad_request":
    case "missing_chunk":
    case "too_many":
    case "over_quota":
      return failed("");
  }
}

function isSystemError(error: Error): error is NodeJS.ErrnoException {
  return "code" in error && typeof error.code === "string" && /^E[A-Z0-9]+$/.test(error.code);
}

/** Bun's message is "ENOENT: no such file or directory, open '/x'": the sentence first, then where. */
function systemFailure(error: NodeJS.ErrnoException): Failure {
  return { exitStatus: ExitStatus.failure, message: error.message.replace(/^E[A-Z0-9]+: /, "") };
}

/** What to tell the user about `error`, whatever it is. An empty message: all has been said. */
export function failureOf(error: unknown): Failure {
  if (!(error instanceof Error)) return { exitStatus: ExitStatus.failure, message: `internal error: ${String(error)}` };
  switch (error.name) {
    case "CommandError":
      return { exitStatus: (error as CommandError).exitStatus, message: error.message };
    case "ConfigError":
      return { exitStatus: ExitStatus.usage, message: error.message };
    case "TransportError":
      return transportFailure(error as TransportError);
    case "NodeError":
      return nodeFailure(error as NodeError);
    case "MountError":
      return { exitStatus: (error as MountError).kind === "option" ? ExitStatus.usage : ExitStatus.failure, message: error.message };
    case "PoolError":
      return {
        exitStatus: (error as PoolError).code === "not_yours" ? ExitStatus.notAuthorized : ExitStatus.failure,
        message: error.message,
      };
    case "CacheFolderError":
    case "StagingError":
    case "CacheCapacityExceeded":
    case "ControlError":
    case "ControlUnreachable":
    case "CredentialsError":
    case "PkiError":
      return { exitStatus: ExitStatus.failure, message: error.message };
  }
  if (isSystemError(error)) return systemFailure(error);
  // A plain Error was thrown on purpose and says what is wrong; a TypeError or the like was not.
  if (error.constructor === Error) return { exitStatus: ExitStatus.failure, message: error.message };
  return { exitStatus: ExitStatus.failure, message: `internal error: ${error.message}`, stack: error.stack ?? "" };
}
