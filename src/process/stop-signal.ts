/** Ctrl-C, `kill` and a closed terminal, as one AbortSignal. */

/** Aborts at the first SIGINT, SIGTERM or SIGHUP. A second one within the shut-down ends the process at once. */
export function untilStopped(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(130);
      controller.abort(signal);
    });
  }
  return controller.signal;
}
