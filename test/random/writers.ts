/** Several processes that write at once while something goes wrong (crasher.py says how). */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { KISEKI, run, type TestMount, type TestNode, tempFolder } from "../support/harness.ts";
import { Driver } from "./driver.ts";
import { SEED } from "./settings.ts";

const LARGE_MIB = 48;
/** A request's deadline is 30 s; a call may need a few of them. */
const GIVE_UP_MS = 150_000;
/** How often, and how long between, a process that sleeps uninterruptibly is looked at again: some do for a moment. */
const STUCK_TRIES = 20;
const STUCK_POLL_MS = 100;

/** A call's failure, as in "fsync EIO", or null. */
export type Failure = string | null;

export class Writers {
  readonly #drivers: Driver[];
  readonly #journals = tempFolder("journals-");

  private constructor(count: number) {
    this.#drivers = Array.from({ length: count }, () => new Driver("crasher.py"));
  }

  static async start(count: number): Promise<Writers> {
    const writers = new Writers(count);
    await writers.#all((one) => one.call("ready", []));
    return writers;
  }

  #all<T>(call: (one: Driver, i: number) => Promise<T>): Promise<T[]> {
    const all = Promise.all(this.#drivers.map(call));
    // Awaited by the test, which may fail before.
    all.catch(() => undefined);
    return all;
  }

  #journal(i: number): string {
    return join(this.#journals, `w${i}`);
  }

  /** Files of all sizes, renames, links, appends for so long; what failed, by writer: null is success. */
  async work(mount: TestMount, seconds: number, first = 0): Promise<Failure[]> {
    const ended = await this.#all((one, i) =>
      one.call<{ error: Failure }>("work", [mount.path, `w${i}`, this.#journal(i), SEED + i, first, seconds], GIVE_UP_MS),
    );
    return ended.map(({ error }) => error);
  }

  /** What was acknowledged to work() is there. */
  async expectWork(mount: TestMount): Promise<void> {
    const found = await this.#all((one, i) => one.call<{ wrong: string[] }>("verify", [mount.path, `w${i}`, this.#journal(i)]));
    expect(found.flatMap(({ wrong }) => wrong)).toEqual([]);
  }

  /** Each writes one large file and fsyncs it; what failed, by writer. */
  writeLarge(mount: TestMount, mib = LARGE_MIB): Promise<Failure[]> {
    return this.#all((one, i) => one.call<Failure>("write_large", [join(mount.path, `large-${i}`), SEED + i, mib, 1], GIVE_UP_MS));
  }

  async expectLarge(mount: TestMount, mib = LARGE_MIB): Promise<void> {
    const wrong = await this.#all((one, i) => one.call<Failure>("check_large", [join(mount.path, `large-${i}`), SEED + i, mib, 1]));
    expect(wrong).toEqual(this.#drivers.map(() => null));
  }

  /** Each appends records to a log and fsyncs after each one, for so long, whatever fails. */
  appendLogs(mount: TestMount, seconds: number): Promise<Appended[]> {
    return this.#all((one, i) => one.call<Appended>("append_log", [join(mount.path, `log-${i}`), `w${i}`, seconds], GIVE_UP_MS));
  }

  /** The logs have at least so many records, all of them right. */
  async expectLogs(mount: TestMount, synced: readonly number[]): Promise<void> {
    const wrong = await this.#all((one, i) => one.call<Failure>("check_log", [join(mount.path, `log-${i}`), `w${i}`, synced[i]]));
    expect(wrong).toEqual(this.#drivers.map(() => null));
  }

  /** None of the writers and of these processes sleeps where not even SIGKILL reaches it. */
  async expectNobodyStuck(...pids: number[]): Promise<void> {
    for (let tries = 0; ; tries++) {
      const stuck = [...this.#drivers.map(({ pid }) => pid), ...pids].filter((pid) => stateOf(pid) === "D");
      if (stuck.length === 0) return;
      if (tries === STUCK_TRIES) expect(stuck).toEqual([]);
      await Bun.sleep(STUCK_POLL_MS);
    }
  }
}

export interface Appended {
  /** How many records the log has according to the last fsync that succeeded. */
  readonly synced: number;
  /** Of this call. */
  readonly syncs: number;
  /** Calls that failed, as in "fsync EIO", each once. */
  readonly failures: string[];
}

function stateOf(pid: number): string {
  try {
    return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
  } catch {
    return "";
  }
}

/** Stops the node; nothing in its data folder is damaged. */
export async function expectUndamaged(node: TestNode): Promise<void> {
  await node.stop();
  const { status, stdout, stderr } = await run(KISEKI, ["serve", "--verify", "--data-dir", node.dataDir]);
  expect({ status, said: stdout + stderr }).toEqual({ status: 0, said: expect.stringContaining(" 0 damages") });
}
