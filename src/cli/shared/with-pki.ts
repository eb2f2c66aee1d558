import { PkiError } from "../../pki/cluster.ts";
import { CommandError, ExitStatus } from "../../process/failure.ts";

/** Rethrows; what is wrong with a pki folder as a failure of the command. */
export function withPki<T>(error: unknown): T {
  if (error instanceof PkiError) throw new CommandError(ExitStatus.failure, error.message, { cause: error });
  throw error;
}
