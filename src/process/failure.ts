/** How a command fails: a line on standard error, with the remedy, and an exit status. */
import { printable } from "./printable.ts";

/** Exit statuses, documented in README.md. */
export const ExitStatus = { ok: 0, failure: 1, usage: 2, unreachable: 3, notAuthorized: 4 } as const;
export type ExitStatus = (typeof ExitStatus)[keyof typeof ExitStatus];

/** A failure whose message is complete: one line that says what is wrong and what to do. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly exitStatus: ExitStatus;

  constructor(exitStatus: ExitStatus, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.exitStatus = exitStatus;
  }
}

/** What to print and return for an error. `stack` is there only for errors that nobody foresaw. */
export interface Failure {
  readonly exitStatus: ExitStatus;
  readonly message: string;
  readonly stack?: string;
}

/** Prints the failure on standard error, in one line, and returns the exit status. */
export function reportFailure(failure: Failure): ExitStatus {
  if (failure.message !== "") process.stderr.write(`kiseki: ${printable(failure.message.replaceAll("\n", " "))}\n`);
  if (failure.stack !== undefined) process.stderr.write(`${failure.stack}\n`);
  return failure.exitStatus;
}
