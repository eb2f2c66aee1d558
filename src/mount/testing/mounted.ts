/** Starts testing/server.ts in a child process and talks to it. */
import { dlopen, ptr, read } from "bun:ffi";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "./server.ts";

const START_PATIENCE_MS = 20_000;

type Line = Record<string, unknown>;

/** A mount for one test: `await using mount = await Mounted.start()`. */
export class Mounted implements AsyncDisposable {
  readonly path: string;
  readonly child: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #lines: AsyncGenerator<Line>;
  readonly #stderr: Promise<string>;

  private constructor(path: string, child: Mounted["child"]) {
    this.path = path;
    this.child = child;
    this.#lines = lines(child.stdout);
    this.#stderr = new Response(child.stderr).text();
  }

  /** `wrapper`: a command before the server's. Throws the server's own failure line as an Error. */
  static async start(
    options: Record<string, unknown> = {},
    path = mkdtempSync(join(tmpdir(), "kiseki-mount-")),
    env: Record<string, string> = {},
    wrapper: readonly string[] = [],
  ): Promise<Mounted> {
    const mounted = new Mounted(path, spawn(path, options, env, wrapper));
    const line = await Promise.race([mounted.line(), Bun.sleep(START_PATIENCE_MS).then(() => ({}))]);
    if ("ready" in line) return mounted;
    await mounted[Symbol.asyncDispose]();
    throw new Error(JSON.stringify(line));
  }

  /** The next line that the server prints. */
  async line(): Promise<Line> {
    return (await this.#lines.next()).value ?? {};
  }

  async ask(command: Command): Promise<Line> {
    this.child.stdin.write(`${JSON.stringify(command)}\n`);
    await this.child.stdin.flush();
    return this.line();
  }

  async calls(operation: string): Promise<number> {
    return Number((await this.ask({ do: "calls" }))[operation] ?? 0);
  }

  at(...names: string[]): string {
    return join(this.path, ...names);
  }

  /** umount(8); resolves to its exit status. */
  async unmount(...flags: string[]): Promise<number> {
    return await Bun.spawn(["umount", ...flags, this.path], { stdio: ["ignore", "ignore", "ignore"] }).exited;
  }

  /** What the server logged; resolves when it has ended. */
  get log(): Promise<string> {
    return this.#stderr;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount("-l", "-f", "-q");
    this.child.kill("SIGKILL");
    await this.child.exited;
    await this.unmount("-l", "-q");
    rmSync(this.path, { recursive: true, force: true });
  }
}

function spawn(path: string, options: Record<string, unknown>, env: Record<string, string>, wrapper: readonly string[]): Mounted["child"] {
  const server = join(import.meta.dir, "./server.ts");
  const command = [...wrapper, process.execPath, server, path, JSON.stringify(options)];
  return Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "pipe", env: { ...process.env, ...env } });
}

async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<Line> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    rest += decoder.decode(chunk, { stream: true });
    let end = rest.indexOf("\n");
    while (end >= 0) {
      yield JSON.parse(rest.slice(0, end));
      rest = rest.slice(end + 1);
      end = rest.indexOf("\n");
    }
  }
}

const libc = dlopen("libc.so.6", {
  setxattr: { args: ["ptr", "ptr", "ptr", "u64", "int"], returns: "int" },
  getxattr: { args: ["ptr", "ptr", "ptr", "u64"], returns: "i64" },
  listxattr: { args: ["ptr", "ptr", "u64"], returns: "i64" },
  removexattr: { args: ["ptr", "ptr"], returns: "int" },
  renameat2: { args: ["int", "ptr", "int", "ptr", "u32"], returns: "int" },
  lseek: { args: ["int", "i64", "int"], returns: "i64" },
  copy_file_range: { args: ["int", "ptr", "int", "ptr", "u64", "u32"], returns: "i64" },
  posix_fallocate: { args: ["int", "i64", "i64"], returns: "int" },
  ftruncate: { args: ["int", "i64"], returns: "int" },
  mknod: { args: ["ptr", "u32", "u64"], returns: "int" },
  mmap: { args: ["ptr", "u64", "int", "int", "int", "i64"], returns: "i64" },
  munmap: { args: ["u64", "u64"], returns: "int" },
  __errno_location: { args: [], returns: "ptr" },
});

/** The value, or -errno. */
function result(value: number | bigint): number {
  if (value >= 0) return Number(value);
  const errno = libc.symbols.__errno_location();
  return errno === null ? Number.NaN : -read.i32(errno, 0);
}

const c = (text: string) => ptr(Buffer.from(`${text}\0`, "latin1"));

/** System calls that node:fs has no functions for. Each returns its result, or -errno. */
export const sys = {
  setxattr: (path: string, name: string, value: Uint8Array, flags = 0) =>
    result(libc.symbols.setxattr(c(path), c(name), value.length === 0 ? null : ptr(value), value.length, flags)),
  getxattr: (path: string, name: string, into: Uint8Array) =>
    result(libc.symbols.getxattr(c(path), c(name), into.length === 0 ? null : ptr(into), into.length)),
  listxattr: (path: string, into: Uint8Array) => result(libc.symbols.listxattr(c(path), into.length === 0 ? null : ptr(into), into.length)),
  removexattr: (path: string, name: string) => result(libc.symbols.removexattr(c(path), c(name))),
  rename: (from: string, to: string, flags: number) => result(libc.symbols.renameat2(-100, c(from), -100, c(to), flags)),
  lseek: (fd: number, offset: number, whence: number) => result(libc.symbols.lseek(fd, offset, whence)),
  copyFileRange: (from: number, to: number, length: number) => result(libc.symbols.copy_file_range(from, null, to, null, length, 0)),
  ftruncate: (fd: number, size: bigint) => result(libc.symbols.ftruncate(fd, size)),
  fallocate: (fd: number, offset: number, length: number) => libc.symbols.posix_fallocate(fd, offset, length),
  /** Returns the address. Protection: 1 to read, 2 to write; flags: 1 shared, 2 private. */
  mmap: (fd: number, length: number, protection: number, flags: number) =>
    result(libc.symbols.mmap(null, length, protection, flags, fd, 0)),
  munmap: (address: number, length: number) => result(libc.symbols.munmap(address, length)),
  mknod: (path: string, mode: number, device: number) => result(libc.symbols.mknod(c(path), mode, device)),
};
