/** A mount for tests: `kiseki mount --foreground` on a folder of its own. Touch its files only from child processes: see run.ts. */
import { existsSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { KISEKI, onCleanUp, tempFolder } from "./resources.ts";
import { cleanEnvironment, run } from "./run.ts";
import type { TestNode } from "./test-node.ts";

const MOUNT_PATIENCE_MS = 20_000;
const MOUNT_POLL_MS = 10;
/** To run the suites with other options: KISEKI_TEST_MOUNT_OPTIONS=writeback_cache. */
const MORE_OPTIONS = process.env.KISEKI_TEST_MOUNT_OPTIONS === undefined ? [] : ["-o", process.env.KISEKI_TEST_MOUNT_OPTIONS];
/** Unmounting writes out what is buffered. */
const UNMOUNT_PATIENCE_MS = 60_000;

export interface TestMountOptions {
  /** Default: t. */
  tenant?: string;
  /** Default: default. */
  namespace?: string;
  /** More arguments of kiseki mount, such as ["-o", "allow_other"]. */
  args?: string[];
  env?: Record<string, string>;
  /** Where to mount. Default: a new folder. */
  path?: string;
  /** Default: a new folder of this mount's own. */
  cacheDir?: string;
}

export class TestMount implements AsyncDisposable {
  readonly path: string;
  readonly logFile: string;
  readonly cacheDir: string;
  readonly #process: Bun.Subprocess;

  private constructor(path: string, logFile: string, cacheDir: string, process: Bun.Subprocess) {
    this.path = path;
    this.logFile = logFile;
    this.cacheDir = cacheDir;
    this.#process = process;
  }

  /** Mounts, and waits until the mount answers. @throws Error with the client's messages. */
  static async mount(node: Pick<TestNode, "addr" | "credentials">, options: TestMountOptions = {}): Promise<TestMount> {
    const tenant = options.tenant ?? "t";
    const credentials = await node.credentials(tenant);
    const folder = tempFolder("mount-");
    const path = options.path ?? join(folder, "mnt");
    mkdirSync(path, { recursive: true });
    const logFile = join(folder, "mount.log");
    const terminal = join(folder, "mount.out");
    const out = openSync(terminal, "a");
    const where = [
      "--data-addr",
      node.addr,
      "--tenant",
      tenant,
      "--namespace",
      options.namespace ?? "default",
      "--credentials",
      credentials,
    ];
    const cacheDir = options.cacheDir ?? join(folder, "cache");
    const files = ["--cache-dir", cacheDir, "--log-file", logFile];
    const args = ["--foreground", ...(options.args ?? []), ...MORE_OPTIONS];
    const child = Bun.spawn([KISEKI, "mount", path, ...where, ...files, ...args], {
      env: cleanEnvironment(options.env),
      stdio: ["ignore", out, out],
    });
    const mount = new TestMount(path, logFile, cacheDir, child);
    onCleanUp({ end: () => mount.kill(), endNow: () => mount.#endNow() });
    const deadline = performance.now() + MOUNT_PATIENCE_MS;
    while (!isMounted(path)) {
      if (child.exitCode !== null || performance.now() > deadline) {
        await mount.kill();
        throw new Error(`kiseki mount failed (exit status ${child.exitCode}):\n${readFileSync(terminal, "utf8")}${mount.log()}`);
      }
      await Bun.sleep(MOUNT_POLL_MS);
    }
    const { status, stderr } = await run("stat", ["-f", path], { timeoutMs: MOUNT_PATIENCE_MS });
    if (status !== 0) {
      await mount.kill();
      throw new Error(`the mount does not answer: ${stderr}${mount.log()}`);
    }
    return mount;
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Whether the client's process has not ended. */
  get isRunning(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  log(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, "utf8") : "";
  }

  /** Freezes the client: nothing is answered, by anybody, until resume(). */
  freeze(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  resume(): void {
    process.kill(this.pid, "SIGCONT");
  }

  /** kiseki umount: everything is written out, the client's process has ended. @throws Error when that fails. */
  async unmount(): Promise<void> {
    const { status, stdout, stderr } = await run(KISEKI, ["umount", this.path], { timeoutMs: UNMOUNT_PATIENCE_MS });
    if (status !== 0) throw new Error(`kiseki umount: exit status ${status}\n${stdout}${stderr}${this.log()}`);
    await this.#process.exited;
  }

  /** kill -9 of the client, as in a crash, and removal of the dead mount. */
  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
    for (let i = 0; i < 4 && isMounted(this.path); i++) await run("umount", ["-l", this.path]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #endNow(): void {
    this.#process.kill("SIGKILL");
    if (isMounted(this.path)) Bun.spawnSync(["umount", "-l", this.path], { stdio: ["ignore", "ignore", "ignore"] });
  }
}

/** Whether something is mounted at exactly this path (which must have no spaces). */
export function isMounted(path: string): boolean {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .some((line) => line.split(" ")[4] === path);
}
