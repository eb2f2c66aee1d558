/** Asks for a passphrase on the terminal, without showing it, or reads it from a file. */
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { CommandError, ExitStatus } from "./failure.ts";

/** Bytes of a passphrase file at most: a longer one is some other file. */
const PASSPHRASE_MAX_BYTES = 4096;

/**
 * The first line of the file, which only its owner may read.
 * @throws CommandError, or the system's error.
 */
export function readPassphraseFile(path: string): string {
  const fd = openSync(path, "r");
  try {
    const stat = fstatSync(fd);
    if (stat.isFile() && (stat.mode & 0o077) !== 0) {
      throw new CommandError(ExitStatus.failure, `${path}: group or others may use this file; run: chmod 600 ${path}`);
    }
    if (stat.size > PASSPHRASE_MAX_BYTES) throw new CommandError(ExitStatus.failure, `${path}: too long for a passphrase file`);
    const line = readFileSync(fd, "utf8").split("\n", 1)[0]?.replace(/\r$/, "") ?? "";
    if (line === "") throw new CommandError(ExitStatus.failure, `${path}: the first line is empty; it must be the passphrase`);
    return line;
  } finally {
    closeSync(fd);
  }
}

/** Bun can only set up a terminal that is its input; stty(1) is part of coreutils. */
function stty(terminal: number, ...settings: string[]): string | null {
  const result = Bun.spawnSync(["stty", ...settings], { stdin: terminal, stdout: "pipe", stderr: "ignore" });
  return result.success ? result.stdout.toString().trim() : null;
}

/**
 * Asks on /dev/tty, whatever standard input and output are.
 * @throws CommandError where there is no terminal, or nothing was typed.
 */
export function askPassphrase(prompt: string): string {
  let terminal: number;
  try {
    terminal = openSync("/dev/tty", "r+");
  } catch (error) {
    throw new CommandError(ExitStatus.usage, "a passphrase is needed and there is no terminal to ask on: use --passphrase-file FILE", {
      cause: error,
    });
  }
  const before = stty(terminal, "-g");
  try {
    // A Ctrl-C that killed us here would leave the terminal mute: it ends the line instead, and is looked for below.
    if (before === null || stty(terminal, "-echo", "-isig", "eol", "^C") === null) {
      throw new CommandError(ExitStatus.failure, "can't hide what is typed on this terminal: use --passphrase-file FILE");
    }
    writeSync(terminal, prompt);
    const typed = Buffer.alloc(PASSPHRASE_MAX_BYTES);
    // The terminal gives a whole line at once; its own line editing stays on.
    const length = readSync(terminal, typed, 0, typed.length, null);
    const passphrase = typed.toString("utf8", 0, length).replace(/\r?\n$/, "");
    typed.fill(0);
    if (passphrase.includes("\u0003")) throw new CommandError(ExitStatus.failure, "interrupted");
    if (passphrase === "") throw new CommandError(ExitStatus.failure, "no passphrase was typed");
    return passphrase;
  } finally {
    if (before !== null) {
      stty(terminal, before);
      writeSync(terminal, "\n");
    }
    closeSync(terminal);
  }
}

/** Asks twice, since nobody sees what is typed. @throws CommandError as askPassphrase does, and when the two differ */
export function askNewPassphrase(prompt: string): string {
  const passphrase = askPassphrase(prompt);
  if (passphrase !== askPassphrase("Once more: ")) throw new CommandError(ExitStatus.usage, "the passphrases differ");
  return passphrase;
}
