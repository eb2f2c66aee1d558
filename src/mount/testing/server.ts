/**
 * Mounts a MemoryVfs; run as a child process by the mount tests, which would otherwise wait for themselves. Arguments: the mountpoint and
 * options as JSON. Speaks lines of JSON: prints {"ready":true} when mounted, then answers each command that it reads, and {"ended":true}.
 */
import { createInterface } from "node:readline";
import type { ImageFile } from "../../cache/images/image-file.ts";
import { MountError } from "../mount-error.ts";
import { type MountOptions, runMount } from "../run.ts";
import { MemoryVfs } from "./memory-vfs.ts";

/** What a test may ask of the server. */
export type Command =
  | { do: "calls" }
  | { do: "change"; name: string; content: string; notify: boolean }
  | { do: "remove"; name: string; notify: boolean }
  /** Gives a file of the root folder a local image; null: takes it away. */
  | { do: "image"; name: string; path: string | null }
  /** Whether the image that was given last is unused. */
  | { do: "unused" }
  | { do: "stop" };

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

const [mountpoint = "", given = "{}"] = process.argv.slice(2);
const vfs = new MemoryVfs();
let image: ImageFile | null = null;
const stop = new AbortController();
const log = (level: string) => (fields: object, message: string) => {
  process.stderr.write(`${level}: ${message} ${Bun.inspect(fields)}\n`);
};

async function perform(
  command: Command,
  kernel: { invalidateInode(ino: number): Promise<void>; invalidateEntry(parent: number, name: string): Promise<void> },
): Promise<object> {
  switch (command.do) {
    case "calls": {
      const { killPriv, largestRead, largestWrite } = vfs;
      return { ...Object.fromEntries(vfs.calls), killPriv, largestRead, largestWrite };
    }
    case "change": {
      const ino = vfs.changeBehindKernel(command.name, Buffer.from(command.content));
      if (command.notify) await kernel.invalidateInode(ino);
      return {};
    }
    case "remove":
      vfs.removeBehindKernel(command.name);
      if (command.notify) await kernel.invalidateEntry(1, command.name);
      return {};
    case "image":
      image = vfs.setImage(command.name, command.path);
      return {};
    case "unused":
      return { unused: image?.isUnused };
    case "stop":
      stop.abort();
      return {};
  }
}

const options: MountOptions = {
  source: "memory:1/test",
  attrTimeoutSec: 60,
  entryTimeoutSec: 60,
  negativeTimeoutSec: 60,
  ...JSON.parse(given),
  mountpoint,
  log: { error: log("error"), warn: log("warn"), info: log("info"), debug: () => {} },
  stop: stop.signal,
  onReady: ({ kernelCache }) => {
    say({ ready: true });
    createInterface({ input: process.stdin }).on("line", async (line) => say(await perform(JSON.parse(line), kernelCache)));
  },
};

try {
  await runMount(vfs, options);
  say({ ended: true });
  process.exit(0);
} catch (error) {
  say({ failed: error instanceof MountError ? error.kind : String(error), message: error instanceof Error ? error.message : "" });
  process.exit(1);
}
