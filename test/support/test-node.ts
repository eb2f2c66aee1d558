/** A storage node for tests: `kiseki serve` on a folder and port of its own. */
import { existsSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { KISEKI, onCleanUp, tempFolder } from "./resources.ts";
import { cleanEnvironment, runOk } from "./run.ts";

const START_PATIENCE_MS = 20_000;
const START_POLL_MS = 10;
/** To run the suites with other options: KISEKI_TEST_SERVE_ARGS="--transports libfabric:net". */
const MORE_ARGS = (process.env.KISEKI_TEST_SERVE_ARGS ?? "").split(" ").filter((word) => word !== "");
/** SIGTERM lets requests in flight finish. */
const STOP_PATIENCE_MS = 15_000;

export interface TestNodeOptions {
  /** More arguments of kiseki serve. */
  args?: string[];
  env?: Record<string, string>;
  /** RLIMIT_NOFILE, soft and hard. */
  openFiles?: number;
  /** Default: a new folder, removed at the end. */
  dataDir?: string;
}

export class TestNode implements AsyncDisposable {
  readonly dataDir: string;
  /** Standard error of kiseki serve. */
  readonly logFile: string;
  readonly #options: TestNodeOptions;
  readonly #credentials = new Map<string, Promise<string>>();
  readonly #folder: string;
  #process: Bun.Subprocess | null = null;
  #addr = "127.0.0.1:0";

  private constructor(options: TestNodeOptions) {
    this.#folder = tempFolder("node-");
    this.dataDir = options.dataDir ?? join(this.#folder, "data");
    this.logFile = join(this.#folder, "serve.log");
    this.#options = options;
  }

  static async start(options: TestNodeOptions = {}): Promise<TestNode> {
    const node = new TestNode(options);
    onCleanUp({ end: () => node.kill(), endNow: () => node.#process?.kill("SIGKILL") });
    await node.#start();
    return node;
  }

  /** HOST:PORT; stays the same over restarts. */
  get addr(): string {
    return this.#addr;
  }

  /** @throws Error when it is not running. */
  get pid(): number {
    if (this.#process === null) throw new Error("the node is not running");
    return this.#process.pid;
  }

  /** The credentials file of a tenant, which is created the first time. */
  credentials(tenant: string): Promise<string> {
    let made = this.#credentials.get(tenant);
    if (made === undefined) {
      const file = join(this.#folder, `${tenant}.json`);
      made = runOk(KISEKI, ["tenant", "create", tenant, "--ca", join(this.dataDir, "pki"), "--out", file]).then(() => file);
      this.#credentials.set(tenant, made);
    }
    return made;
  }

  /** Ends it with a signal and waits. @throws Error when it doesn't end (it is killed then). */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#process;
    if (child === null) return;
    child.kill(signal);
    const ended = await Promise.race([child.exited.then(() => true), Bun.sleep(STOP_PATIENCE_MS).then(() => false)]);
    if (!ended) {
      child.kill("SIGKILL");
      await child.exited;
    }
    this.#process = null;
    if (!ended) throw new Error(`kiseki serve did not end after ${signal}`);
  }

  async kill(): Promise<void> {
    await this.stop("SIGKILL");
  }

  /** Stops it (unless it is stopped) and starts it on the same folder and port. `args`: more of them, for this start. */
  async restart(signal: NodeJS.Signals = "SIGTERM", args: readonly string[] = []): Promise<void> {
    await this.stop(signal);
    await this.#start(args);
  }

  /** Freezes the process: nothing is answered until resume(). */
  freeze(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  resume(): void {
    process.kill(this.pid, "SIGCONT");
  }

  log(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, "utf8") : "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  async #start(more: readonly string[] = []): Promise<void> {
    const listen = join(this.dataDir, "listen");
    rmSync(listen, { force: true });
    const args = ["serve", "--data-dir", this.dataDir, "--listen", this.#addr, ...MORE_ARGS, ...(this.#options.args ?? []), ...more];
    const log = openSync(this.logFile, "a");
    const { openFiles } = this.#options;
    const limited = openFiles === undefined ? [] : ["prlimit", `--nofile=${openFiles}`];
    const child = Bun.spawn([...limited, KISEKI, ...args], { env: cleanEnvironment(this.#options.env), stdio: ["ignore", log, log] });
    this.#process = child;
    const deadline = performance.now() + START_PATIENCE_MS;
    for (;;) {
      const addr = existsSync(listen) ? readFileSync(listen, "utf8").trim() : "";
      if (addr !== "") {
        this.#addr = addr;
        return;
      }
      if (child.exitCode !== null || performance.now() > deadline) {
        child.kill("SIGKILL");
        this.#process = null;
        throw new Error(`kiseki serve did not start (exit status ${child.exitCode}):\n${this.log()}`);
      }
      await Bun.sleep(START_POLL_MS);
    }
  }
}
