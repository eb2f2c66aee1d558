/** Runs Python snippets (see posix_lab.py) on a mount and on a local folder, and expects the same from both. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, tempFolder } from "./resources.ts";
import { run, runOk } from "./run.ts";
import { TestMount, type TestMountOptions } from "./test-mount.ts";
import { TestNode, type TestNodeOptions } from "./test-node.ts";

const SNIPPET_TIMEOUT_MS = 60_000;

export interface LabOptions {
  node?: TestNodeOptions;
  /** Default: -o allow_other, so that snippets can act as other users. */
  mount?: TestMountOptions;
}

export interface SnippetOptions {
  /** Lines that must be among the output: where the local filesystem alone would be a weak witness. */
  shows?: readonly string[];
  timeoutMs?: number;
}

/** Python source: backslashes are kept, and the common indentation is taken away. */
export function py(strings: TemplateStringsArray, ...values: readonly (string | number)[]): string {
  const text = String.raw({ raw: strings.raw }, ...values);
  const indents = text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => line.length - line.trimStart().length);
  const common = Math.min(...indents);
  return text
    .split("\n")
    .map((line) => line.slice(common))
    .join("\n");
}

/** One node, one mount and one local folder for the tests of a file. */
export class PosixLab {
  readonly #options: LabOptions;
  #node: TestNode | null = null;
  #mount: TestMount | null = null;
  #local = "";
  #python = "python3";
  #count = 0;

  /** Registers the hooks that start and end it: call it at the top of a test file. */
  constructor(options: LabOptions = {}) {
    this.#options = options;
    beforeAll(async () => {
      // Where python3 is a wrapper that looks for the interpreter, it takes longer than a snippet does.
      this.#python = (await runOk("python3", ["-c", "import sys; print(sys.executable)"])).trim();
      this.#local = tempFolder("local-");
      this.#node = await TestNode.start(options.node);
      await this.remount();
    });
    afterAll(cleanUp);
  }

  get node(): TestNode {
    if (this.#node === null) throw new Error("the lab has not begun");
    return this.#node;
  }

  get mount(): TestMount {
    if (this.#mount === null) throw new Error("the lab has not begun");
    return this.#mount;
  }

  /** Unmounts (everything is written out) and mounts again. */
  async remount(): Promise<void> {
    await this.#mount?.unmount();
    this.#mount = await TestMount.mount(this.node, { args: ["-o", "allow_other"], ...this.#options.mount });
  }

  /** A test: the snippet does on the mount what it does on a local filesystem. */
  same(name: string, snippet: string, { shows = [], timeoutMs = SNIPPET_TIMEOUT_MS }: SnippetOptions = {}): void {
    test(
      name,
      async () => {
        const folder = `case-${this.#count++}`;
        const local = await this.python(this.#folder(this.#local, folder), snippet, timeoutMs);
        const mounted = await this.python(await this.#onMount(folder), snippet, timeoutMs);
        expect(local).not.toEqual([]);
        expect(mounted).toEqual(local);
        for (const line of shows) expect(mounted).toContain(line);
      },
      2 * timeoutMs,
    );
  }

  /** A test of what has no local counterpart: these are the lines that the snippet prints on the mount. */
  prints(name: string, snippet: string, lines: readonly string[], timeoutMs = SNIPPET_TIMEOUT_MS): void {
    test(
      name,
      async () => {
        const mounted = await this.python(await this.#onMount(`case-${this.#count++}`), snippet, timeoutMs);
        expect(mounted).toEqual([...lines]);
      },
      timeoutMs,
    );
  }

  /** Runs a snippet in a folder; returns its lines. @throws Error with its traceback. */
  async python(cwd: string, snippet: string, timeoutMs = SNIPPET_TIMEOUT_MS): Promise<string[]> {
    const source = `from posix_lab import *\n${snippet}\n`;
    const env = { PYTHONPATH: import.meta.dir, PYTHONDONTWRITEBYTECODE: "1", PYTHONIOENCODING: "utf-8:surrogateescape" };
    const { status, stdout, stderr } = await run(this.#python, ["-c", source], { cwd, env, timeoutMs });
    const lines = stdout.split("\n").slice(0, -1);
    if (status !== 0 || stderr !== "") {
      throw new Error(
        `the snippet ended with ${status} in ${cwd}\n${stderr}\n${lines.slice(-20).join("\n")}\n${this.mount.log().slice(-2_000)}`,
      );
    }
    return lines;
  }

  #folder(parent: string, name: string): string {
    const path = join(parent, name);
    mkdirSync(path, { mode: 0o755 });
    return path;
  }

  async #onMount(name: string): Promise<string> {
    const path = join(this.mount.path, name);
    await runOk("mkdir", [path]);
    return path;
  }
}
