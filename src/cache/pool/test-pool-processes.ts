/** Starts test-pool-process.ts, and looks for what its pools have left. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { MARKER } from "./test-pool-process.ts";

const SCRIPT = join(import.meta.dir, "./test-pool-process.ts");

export interface Started {
  /** The next line that it prints; null: it has ended. */
  line(): Promise<string | null>;
  goOn(): void;
  kill(): Promise<void>;
  /** Its exit status. Throws with what it said where that is not 0. */
  end(): Promise<void>;
}

/** `prefix`: a command that runs it, such as strace. */
export function start(args: readonly string[], prefix: readonly string[] = []): Started {
  const child = Bun.spawn([...prefix, process.execPath, SCRIPT, ...args], { stdin: "pipe", stdout: "pipe", stderr: "pipe" });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return {
    line: async () => {
      for (;;) {
        const end = text.indexOf("\n");
        if (end >= 0) {
          const line = text.slice(0, end);
          text = text.slice(end + 1);
          return line;
        }
        const { value, done } = await reader.read();
        if (done) return null;
        text += value;
      }
    },
    goOn: () => {
      try {
        child.stdin.write("\n");
        child.stdin.flush();
      } catch {
        // It has ended.
      }
    },
    kill: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
    end: async () => {
      const said = await new Response(child.stderr).text();
      if ((await child.exited) !== 0) throw new Error(`${args.join(" ")}: ${child.signalCode ?? child.exitCode}: ${said}`);
    },
  };
}

export async function scrubOnce(cacheDir: string): Promise<{ state: string; id: string }[]> {
  const scrub = start(["scrub", cacheDir]);
  const answer = await scrub.line();
  await scrub.end();
  return JSON.parse(answer ?? "[]");
}

/** All paths below, and whether the marker is in any of the files. */
export function inspect(cacheDir: string): { paths: string[]; hasMarker: boolean } {
  if (!existsSync(cacheDir)) return { paths: [], hasMarker: false };
  const paths = (readdirSync(cacheDir, { recursive: true }) as string[]).toSorted();
  const files = paths.map((path) => join(cacheDir, path)).filter((path) => statSync(path).isFile());
  return { paths, hasMarker: files.some((path) => readFileSync(path).includes(MARKER)) };
}
