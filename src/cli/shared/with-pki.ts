import { CliError, ExitStatus } from "../../client/failure-of.ts";
import { PkiError } from "../../pki/cluster.ts";

/** Rethrows; what is wrong with a pki folder as a failure of the command. */
export function withPki<T>(error: unknown): T {
  if (error instanceof PkiError) throw new CliError(ExitStatus.failure, error.message, { cause: error });
  throw error;
}
