/** The Python process that does a randomized suite's file operations (driver.py says what it can do). */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cleanEnvironment, onCleanUp } from "../support/harness.ts";

/** A call that takes longer hangs: the process is ended, and the test fails with where it slept. */
const CALL_TIMEOUT_MS = 60_000;

export class Driver {
  readonly #process: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #lines: AsyncIterator<string>;
  #last: Promise<unknown> = Promise.resolve();

  constructor(script = "driver.py") {
    this.#process = Bun.spawn(["python3", "-B", join(import.meta.dir, script)], {
      env: cleanEnvironment(),
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = lines(this.#process.stdout);
    onCleanUp({ end: () => this.kill(), endNow: () => this.#process.kill("SIGKILL") });
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** One request; requests are answered in order. @throws Error when the call fails or hangs. */
  call<T>(what: string, args: readonly unknown[], timeoutMs = CALL_TIMEOUT_MS): Promise<T> {
    const answer = this.#last.catch(() => undefined).then(() => this.#call<T>(what, args, timeoutMs));
    this.#last = answer;
    return answer;
  }

  async #call<T>(what: string, args: readonly unknown[], timeoutMs: number): Promise<T> {
    this.#process.stdin.write(`${JSON.stringify({ do: what, args })}\n`);
    this.#process.stdin.flush();
    let timer: Timer | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const where = this.#whereItSleeps();
        this.#process.kill("SIGKILL");
        reject(new Error(`driver: ${what} not done after ${timeoutMs} ms${where}`));
      }, timeoutMs);
    });
    const line = await Promise.race([this.#lines.next(), late]).finally(() => clearTimeout(timer));
    if (line.done === true) throw new Error(`driver: it ended during ${what}`);
    const answer = JSON.parse(line.value) as { result: T; error?: string };
    if (answer.error !== undefined) throw new Error(`driver: ${what}: ${answer.error}`);
    return answer.result;
  }

  #whereItSleeps(): string {
    const stack = `/proc/${this.pid}/stack`;
    try {
      return existsSync(stack) ? `; it sleeps in\n${readFileSync(stack, "utf8")}` : "";
    } catch {
      return "";
    }
  }

  /** Lets it end by itself, at once. */
  async end(): Promise<void> {
    this.#process.stdin.end();
    await this.#process.exited;
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }
}

async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of stream as unknown as AsyncIterable<Uint8Array>) {
    rest += decoder.decode(bytes, { stream: true });
    const parts = rest.split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}
