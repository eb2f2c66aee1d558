/**
 * Going to the background. JavaScript can't fork, so the program starts itself again: detached, in a session of its own, in /. Settings and
 * keys go to it through its standard input, never through arguments or environment; it answers with one line on its standard output,
 * ready or failed, and from then on only logs. Both ends are in this file.
 */
import { closeSync, mkdirSync, openSync, readSync, writeSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { createLogger, type Logger, reopenLog } from "../log.ts";
import { CommandError, ExitStatus, type Failure } from "./failure.ts";
import { ownCommand, servingEnvironment } from "./own-command.ts";
import { whileServing } from "./stop-signal.ts";

/** Between the settings, one line of JSON, and the secrets on standard input. */
const NEWLINE = 0x0a;
/** Settings and credentials have some 10 KiB. */
const INPUT_MAX_BYTES = 1 << 20;

/** The line that comes back, as JSON. */
type Answer<R> = { readonly ready: R } | { readonly failure: Failure };

/** /var/log/kiseki (root) or $XDG_STATE_HOME/kiseki, and a file of this name in it. */
export function defaultLogFile(name: string): string {
  const folder = process.getuid?.() === 0 ? "/var/log" : process.env.XDG_STATE_HOME || join(homedir(), ".local/state");
  return join(folder, "kiseki", `${name}.log`);
}

function openLog(path: string): number {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    return openSync(path, "a", 0o600);
  } catch (error) {
    throw new CommandError(
      ExitStatus.failure,
      `can't write the log ${path} (${(error as Error).message}); choose another with --log-file`,
      {
        cause: error,
      },
    );
  }
}

export interface BackgroundStart<C> {
  /** How this program is told to be the background process. */
  readonly command: readonly string[];
  /** What it is called in messages: "the mount process". */
  readonly name: string;
  readonly config: C;
  readonly logFile: string;
  /** Bytes that the other process gets as they are; overwritten when it has them. */
  readonly secrets: Uint8Array;
  /** Said when the user stops it before it is ready. */
  readonly interrupted: string;
}

/**
 * Starts the process and returns its answer when it is ready; it then stays, whatever becomes of this process.
 * @throws CommandError with the other process's own message and exit status
 */
export async function startBackground<C, R>(start: BackgroundStart<C>, stop: AbortSignal): Promise<R> {
  const { logFile, name } = start;
  const log = openLog(logFile);
  const child = Bun.spawn([...ownCommand(), ...start.command], {
    cwd: "/",
    detached: true,
    env: servingEnvironment(),
    stdin: "pipe",
    stdout: "pipe",
    // What the runtime itself says when it dies.
    stderr: log,
  });
  closeSync(log);
  const end = (): void => child.kill("SIGTERM");
  stop.addEventListener("abort", end);
  child.stdin.write(`${JSON.stringify(start.config)}\n`);
  child.stdin.write(start.secrets);
  await child.stdin.end();
  start.secrets.fill(0);

  const answer = await readAnswer<R>(child.stdout);
  stop.removeEventListener("abort", end);
  if (answer === null) {
    await child.exited;
    if (stop.aborted) throw new CommandError(ExitStatus.failure, start.interrupted);
    const how = child.signalCode === null ? `status ${child.exitCode}` : child.signalCode;
    throw new CommandError(ExitStatus.failure, `${name} ended (${how}) before it was ready; see ${logFile}`);
  }
  if ("failure" in answer) {
    await child.exited;
    throw new CommandError(answer.failure.exitStatus, answer.failure.message);
  }
  child.unref();
  return answer.ready;
}

/** The first line; null when the other end closed without one. */
async function readAnswer<R>(stream: ReadableStream<Uint8Array>): Promise<Answer<R> | null> {
  let received = "";
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  while (!received.includes("\n")) {
    const { done, value } = await reader.read();
    if (done) return null;
    received += decoder.decode(value, { stream: true });
  }
  return JSON.parse(received.slice(0, received.indexOf("\n"))) as Answer<R>;
}

/** Standard input to its end. Read here, and not by a stream, which would leave copies of the secrets behind. @throws Error: it is too long */
function readInput(): Uint8Array {
  const buffer = new Uint8Array(INPUT_MAX_BYTES);
  let length = 0;
  for (let got = -1; got !== 0; length += got) {
    if (length === buffer.length) throw new Error(`standard input: more than ${INPUT_MAX_BYTES} bytes`);
    got = readSync(0, buffer, length, buffer.length - length, null);
  }
  return buffer.subarray(0, length);
}

/** What the background process works with. */
export interface BackgroundJob<C, R> {
  readonly config: C;
  readonly secrets: Uint8Array;
  readonly log: Logger;
  readonly stop: AbortSignal;
  /** To be called once: lets the parent go. */
  readonly onReady: (answer: R) => void;
}

/** The other end. A failure of `main`, as `describe` puts it, is the answer while there was none; else, or where nobody foresaw it, it is logged. */
export async function runBackground<C extends { logLevel: Parameters<typeof createLogger>[0]; logFile: string | null }, R>(
  main: (job: BackgroundJob<C, R>) => Promise<void>,
  describe: (error: unknown) => Failure,
): Promise<void> {
  const input = readInput();
  const end = input.indexOf(NEWLINE);
  const config = JSON.parse(new TextDecoder().decode(input.subarray(0, end))) as C;
  const log = createLogger(config.logLevel, config.logFile);
  let answered = false;
  const answer = (message: Answer<R>): void => {
    if (answered) return;
    answered = true;
    writeSync(1, `${JSON.stringify(message)}\n`);
    detachFromTerminal();
  };
  try {
    await main({
      config,
      secrets: input.subarray(end + 1),
      log,
      stop: whileServing(() => reopenLog(log)),
      onReady: (ready) => answer({ ready }),
    });
  } catch (error) {
    const failure = describe(error);
    // What the parent says on the terminal is not for a log, which may be that of another process that runs: a mount's, at the same folder.
    if (answered || failure.stack !== undefined) log.fatal({ err: error }, failure.message);
    answer({ failure: { exitStatus: failure.exitStatus, message: failure.message } });
    process.exitCode = failure.exitStatus;
  }
}

/** Standard input and output become /dev/null: the parent's pipes are gone, and a number must not be used again for something else. */
function detachFromTerminal(): void {
  for (const fd of [0, 1]) {
    closeSync(fd);
    // The lowest free number is taken (open(2)).
    openSync("/dev/null", "r+");
  }
}
