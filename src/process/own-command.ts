/** How this program starts itself again, and with which settings of its JavaScript engine. */

/** How to start this program again: the binary, or bun and the script when it runs from source. */
export function ownCommand(): [string, ...string[]] {
  return Bun.main.startsWith("/$bunfs/") ? [process.execPath] : [process.execPath, Bun.main];
}

/**
 * JavaScriptCore takes options from the environment alone, as the process starts. Its slowest compiler (FTL) is turned off: on few cores
 * it competes with the requests that it is to make faster, and what is hot here is native code. Measured on two cores: 4,000 files
 * created by a fresh client in 2.9 s instead of 3.4, and by one that had been running in 2.4 instead of 2.9.
 */
const ENGINE_OPTIONS: Readonly<Record<string, string>> = { BUN_JSC_useFTLJIT: "0" };

/** The environment for a process that serves requests. What the user has set stays. */
export function servingEnvironment(): Record<string, string> {
  const own = Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return { ...ENGINE_OPTIONS, ...Object.fromEntries(own) };
}

/** Makes sure that this process runs with the environment above: where it does not, execve(2) starts it again under the same pid. */
export function enterServingEnvironment(): void {
  if (Object.keys(ENGINE_OPTIONS).every((name) => process.env[name] !== undefined)) return;
  const [program, ...before] = ownCommand();
  try {
    process.execve?.(program, [program, ...before, ...process.argv.slice(2)], servingEnvironment());
  } catch {
    // The program's file is gone, or may not be executed again: all works without the options, a little slower.
  }
}
