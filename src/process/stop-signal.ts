/** Signals: those that end a process, as one AbortSignal, and those that make it open its log anew. */

/** Aborts at the first SIGINT, SIGTERM or SIGHUP. A second one within the shut-down ends the process at once. */
export function untilStopped(): AbortSignal {
  return abortsAt(["SIGINT", "SIGTERM", "SIGHUP"]);
}

/**
 * The same for a process that serves: SIGHUP, as of a terminal that closes, ends it only where it has a terminal. Else that signal and SIGUSR1 are
 * what logrotate and the like send: `reopenLog` is called.
 */
export function whileServing(reopenLog: () => void): AbortSignal {
  process.on("SIGUSR1", reopenLog);
  if (process.stdin.isTTY === true) return untilStopped();
  process.on("SIGHUP", reopenLog);
  return abortsAt(["SIGINT", "SIGTERM"]);
}

function abortsAt(signals: readonly NodeJS.Signals[]): AbortSignal {
  const controller = new AbortController();
  for (const signal of signals) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(130);
      controller.abort(signal);
    });
  }
  return controller.signal;
}
