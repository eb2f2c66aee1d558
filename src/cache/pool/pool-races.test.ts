import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { FILLED_BYTES } from "./test-pool-process.ts";
import { inspect, scrubOnce, start } from "./test-pool-processes.ts";

setDefaultTimeout(60_000);
const ROUNDS = 8;

let base = "";
let cacheDir = "";
beforeEach(() => {
  base = mkdtempSync("/tmp/kiseki-races-");
  cacheDir = join(base, "cache");
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

test("scrubs never touch a pool that starts, lives or ends", async () => {
  const scrubbers = [1, 2].map(() => start(["scrub-often", cacheDir]));
  const makers = [1, 2].map(() => start(["create-often", cacheDir, "40"]));
  for (const maker of makers) await maker.end();
  for (const scrubber of scrubbers) {
    scrubber.goOn();
    expect(await scrubber.line()).toBe("0");
    await scrubber.end();
  }
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("scrubs never touch a pool that is handed over", async () => {
  const scrubbers = [1, 2].map(() => start(["scrub-often", cacheDir]));
  for (let round = 0; round < ROUNDS; round++) {
    const daemon = start(["stage", cacheDir]);
    const id = (await daemon.line()) ?? "";
    const adopter = start(["adopt", cacheDir, id]);
    expect(await adopter.line()).toBe(String(FILLED_BYTES));
    await daemon.end();
    adopter.goOn();
    await adopter.end();
  }
  for (const scrubber of scrubbers) {
    scrubber.goOn();
    expect(await scrubber.line()).toBe("0");
    await scrubber.end();
  }
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("a dead pool is wiped by one of many scrubs only, and completely", async () => {
  for (let round = 0; round < ROUNDS / 2; round++) {
    const holders = [1, 2, 3].map(() => start(["hold", cacheDir]));
    for (const holder of holders) await holder.line();
    for (const holder of holders) await holder.kill();
    expect(inspect(cacheDir).hasMarker).toBe(true);
    const scrubs = await Promise.all([1, 2, 3].map(() => scrubOnce(cacheDir)));
    expect(scrubs.flat().filter(({ state }) => state === "wiped")).toHaveLength(3);
    expect(scrubs.flat().filter(({ state }) => state === "failed")).toEqual([]);
    expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
  }
});

test("a dead pool goes to an adopter or to a scrub, never to both", async () => {
  const won = { adopter: 0, scrub: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    const holder = start(["hold", cacheDir]);
    const id = (await holder.line()) ?? "";
    await holder.kill();
    const adopter = start(["adopt", cacheDir, id]);
    const scrub = scrubOnce(cacheDir);
    const adopted = (await adopter.line()) !== null;
    adopter.goOn();
    if (adopted) await adopter.end();
    else await expect(adopter.end()).rejects.toThrow(/in use|no cache pool|being deleted|was deleted|ENOENT/);
    const [seen] = await scrub;
    expect(seen?.state ?? "gone").toBeOneOf(adopted ? ["live", "gone"] : ["wiped"]);
    won[adopted ? "adopter" : "scrub"]++;
    expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
  }
  expect(won.adopter + won.scrub).toBe(ROUNDS);
});
