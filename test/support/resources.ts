/** What a test file has started, so that all of it ends with the file: `afterAll(cleanUp)`. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { limitClientMemory } from "./client-memory.ts";

const REPO = join(import.meta.dir, "../..");

interface Resource {
  /** Must not throw (but for what is a test's failure), must not wait for what hangs. */
  end(): void | Promise<void>;
  /** The same for a process that is about to exit. */
  endNow(): void;
}

const resources: Resource[] = [];

const BINARY = process.env.KISEKI_BIN ?? join(REPO, "dist/kiseki");
const limited = limitClientMemory(BINARY);
if (limited !== null) resources.push({ end: limited.end, endNow: limited.end });
/** The binary under test. */
export const KISEKI = limited?.path ?? BINARY;

export function onCleanUp(resource: Resource): void {
  resources.push(resource);
}

/** A new folder under the temporary folder, removed by cleanUp(). */
export function tempFolder(purpose = ""): string {
  const path = mkdtempSync(join(tmpdir(), `kiseki-test-${purpose}`));
  const remove = () => rmSync(path, { recursive: true, force: true });
  onCleanUp({ end: remove, endNow: remove });
  return path;
}

/** Ends everything that was started, the youngest first. */
export async function cleanUp(): Promise<void> {
  for (let resource = resources.pop(); resource !== undefined; resource = resources.pop()) await resource.end();
}

// When a test process ends without afterAll (a timeout of the runner, an exception outside of tests).
process.on("exit", () => {
  for (let resource = resources.pop(); resource !== undefined; resource = resources.pop()) {
    try {
      resource.endNow();
    } catch {
      // the others still have to end
    }
  }
});
