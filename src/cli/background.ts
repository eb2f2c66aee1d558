/**
 * Going to the background. JavaScript can't fork, so the program starts itself again as `kiseki mount-process`: detached, in a
 * session of its own, in /. Settings and keys go to it through its standard input, never through arguments or environment; it
 * answers with one line on its standard output, ready or failed, and from then on only logs. Both ends are in this file.
 */
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import type { MountConfig } from "../config/mount-config.ts";
import type { Credentials } from "../crypto/credentials.ts";
import { createLogger } from "../log.ts";
import { CliError, ExitStatus, type Failure, failureOf } from "./failure.ts";
import { isKisekiMount } from "./mountpoint.ts";
import { ownCommand, servingEnvironment } from "./own-command.ts";
import { untilStopped } from "./stop-signal.ts";

/** The kernel has answered the mount process already: its answer to us takes milliseconds. */
const READY_STAT_TIMEOUT_MS = 10_000;

/** What goes through standard input, as JSON. */
interface Handover {
  readonly config: MountConfig;
  readonly credentials: Omit<Credentials, "kek">;
  readonly kek: string;
}

/** The line that comes back, as JSON. */
type Answer = { readonly ready: true } | { readonly failure: Failure };

/** /var/log/kiseki (root) or $XDG_STATE_HOME/kiseki, and a file named after the mountpoint: /mnt/data logs to mnt-data.log. */
function defaultLogFile(mountpoint: string): string {
  const folder = process.getuid?.() === 0 ? "/var/log" : process.env.XDG_STATE_HOME || join(homedir(), ".local/state");
  return join(folder, "kiseki", `${mountpoint.replace(/^\//, "").replaceAll("/", "-") || "root"}.log`);
}

function openLog(path: string): number {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    return openSync(path, "a", 0o600);
  } catch (error) {
    throw new CliError(ExitStatus.failure, `can't write the log ${path} (${(error as Error).message}); choose another with --log-file`, {
      cause: error,
    });
  }
}

/**
 * Starts the mount process and returns when the mount answers.
 * @throws CliError with the mount process's own message and exit status.
 */
export async function startInBackground(config: MountConfig, credentials: Credentials): Promise<void> {
  const logFile = config.logFile ?? defaultLogFile(config.mountpoint);
  const log = openLog(logFile);
  const child = Bun.spawn([...ownCommand(), "mount-process", config.mountpoint], {
    cwd: "/",
    detached: true,
    env: servingEnvironment(),
    stdin: "pipe",
    stdout: "pipe",
    // What the runtime itself says when it dies.
    stderr: log,
  });
  closeSync(log);
  const stop = untilStopped();
  stop.addEventListener("abort", () => child.kill("SIGTERM"));

  const { kek, ...rest } = credentials;
  const handover: Handover = { config: { ...config, logFile }, credentials: rest, kek: Buffer.from(kek).toString("base64") };
  child.stdin.write(JSON.stringify(handover));
  await child.stdin.end();

  const answer = await readAnswer(child.stdout);
  if (answer === null) {
    await child.exited;
    if (stop.aborted) throw new CliError(ExitStatus.failure, "interrupted; nothing is mounted");
    const how = child.signalCode === null ? `status ${child.exitCode}` : child.signalCode;
    throw new CliError(ExitStatus.failure, `the mount process ended (${how}) before the mount was ready; see ${logFile}`);
  }
  if ("failure" in answer) {
    await child.exited;
    throw new CliError(answer.failure.exitStatus, answer.failure.message);
  }
  await confirm(config.mountpoint, logFile);
  child.unref();
}

/** The first line; null when the other end closed without one. */
async function readAnswer(stream: ReadableStream<Uint8Array>): Promise<Answer | null> {
  let received = "";
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  while (!received.includes("\n")) {
    const { done, value } = await reader.read();
    if (done) return null;
    received += decoder.decode(value, { stream: true });
  }
  return JSON.parse(received.slice(0, received.indexOf("\n"))) as Answer;
}

/** Asks the mount for its root folder, as its users will. */
async function confirm(mountpoint: string, logFile: string): Promise<void> {
  const late = Bun.sleep(READY_STAT_TIMEOUT_MS).then(() => {
    throw new CliError(
      ExitStatus.failure,
      `${mountpoint} is mounted but does not answer; see ${logFile}, or unmount it with: kiseki umount --lazy ${mountpoint}`,
    );
  });
  await Promise.race([stat(mountpoint), late]);
  if (!isKisekiMount(mountpoint)) throw new CliError(ExitStatus.failure, `${mountpoint} was unmounted at once; see ${logFile}`);
}

/** The other end: the body of `kiseki mount-process`. */
export async function runMountProcess(): Promise<void> {
  const handover = JSON.parse(await Bun.stdin.text()) as Handover;
  const { config } = handover;
  const log = createLogger(config.logLevel, config.logFile);
  let answered = false;
  const answer = (message: Answer): void => {
    if (answered) return;
    answered = true;
    writeSync(1, `${JSON.stringify(message)}\n`);
    detachFromTerminal();
  };
  try {
    const { mountMain } = await import("./mount-process.ts");
    await mountMain({
      config,
      credentials: { ...handover.credentials, kek: Uint8Array.from(Buffer.from(handover.kek, "base64")) },
      log,
      stop: untilStopped(),
      onReady: () => answer({ ready: true }),
    });
  } catch (error) {
    const failure = failureOf(error);
    log.fatal({ err: error }, failure.message);
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
