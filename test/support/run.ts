/** Runs programs from a test without ever blocking it: a call into a mount whose server hangs sleeps until that server answers. */

/** A program that takes longer than this is ended with SIGKILL, unless the caller says otherwise. */
const RUN_TIMEOUT_MS = 60_000;

export interface RunOptions {
  cwd?: string;
  /** Added to the environment, which otherwise lacks the caller's KISEKI_ variables. */
  env?: Record<string, string>;
  stdin?: string | Uint8Array;
  timeoutMs?: number;
}

export interface RunResult {
  /** 128 plus the signal's number when a signal ended it, as a shell counts. */
  status: number;
  stdout: string;
  stderr: string;
}

/** The environment without KISEKI_ variables (those of the test's caller would change what a mount does). */
export function cleanEnvironment(more: Record<string, string> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(([name, value]) => value !== undefined && !name.startsWith("KISEKI_"));
  const mark = process.env.KISEKI_TEST_FILE_RUN; // by which scripts/test finds what a file left running
  return {
    ...(Object.fromEntries(kept) as Record<string, string>),
    ...(mark === undefined ? {} : { KISEKI_TEST_FILE_RUN: mark }),
    ...more,
  };
}

/** Runs a program to its end. @throws Error when it takes longer than `timeoutMs`, with what it had printed. */
export async function run(command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<RunResult> {
  const timeoutMs = options.timeoutMs ?? RUN_TIMEOUT_MS;
  const child = Bun.spawn([command, ...args], {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: cleanEnvironment(options.env),
    stdin: options.stdin === undefined ? "ignore" : Buffer.from(options.stdin as string),
    stdout: "pipe",
    stderr: "pipe",
  });
  const ended = Promise.all([child.exited, new Response(child.stdout).text(), new Response(child.stderr).text()]);
  let timer: Timer | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), timeoutMs);
  });
  const result = await Promise.race([ended, late]);
  clearTimeout(timer);
  if (result === null) {
    child.kill("SIGKILL");
    throw new Error(`${command} ${args.join(" ")}: not done after ${timeoutMs} ms`);
  }
  const [status, stdout, stderr] = result;
  return { status, stdout, stderr };
}

/** As run(), for what has to succeed: returns standard output. @throws Error with the program's messages. */
export async function runOk(command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<string> {
  const { status, stdout, stderr } = await run(command, args, options);
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: exit status ${status}\n${stdout}${stderr}`);
  return stdout;
}

/** A program that is talked to, a line at a time. */
export class Dialog {
  readonly #process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #output: AsyncIterator<Uint8Array>;
  #text = "";

  constructor(command: string, args: readonly string[]) {
    this.#process = Bun.spawn([command, ...args], { env: cleanEnvironment(), stdin: "pipe", stdout: "pipe", stderr: "pipe" });
    this.#output = this.#process.stdout[Symbol.asyncIterator]();
  }

  say(line: string): void {
    this.#process.stdin.write(`${line}\n`);
    this.#process.stdin.flush();
  }

  /** The next line of its output; null at the end. */
  async line(): Promise<string | null> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      const { value, done } = await this.#output.next();
      if (done) return null;
      this.#text += Buffer.from(value).toString();
    }
  }

  /** Ends its input and waits for its end. Returns what it said on standard error. */
  async end(): Promise<string> {
    this.#process.stdin.end();
    const stderr = await new Response(this.#process.stderr).text();
    await this.#process.exited;
    return stderr;
  }
}
