/** kiseki scrub: what it finds, wipes, leaves alone and says. The pools are those of processes of their own (src/cache/pool/test-pool-process.ts). */
import { afterAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MARKER } from "../src/cache/pool/test-pool-process.ts";
import { inspect, type Started, start } from "../src/cache/pool/test-pool-processes.ts";
import { kiseki } from "./support/cli.ts";
import { cleanUp, KISEKI, onCleanUp, runOk, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

/** A user that no machine has. */
const STRANGER = 61_234;
const WATCH_PATIENCE_MS = 20_000;
const POLL_MS = 20;

let cacheDir = "";
beforeEach(() => {
  cacheDir = join(tempFolder("scrub-"), "cache");
});
afterAll(cleanUp);

async function hold(prefix: string[] = []): Promise<{ process: Started; id: string }> {
  const process = start(["hold", cacheDir], prefix);
  const endNow = () => void process.kill();
  onCleanUp({ end: endNow, endNow });
  return { process, id: (await process.line()) ?? "" };
}

async function die(prefix: string[] = []): Promise<string> {
  const { process, id } = await hold(prefix);
  await process.kill();
  return id;
}

test("dead pools are wiped, living ones left alone", async () => {
  const living = await hold();
  const dead = await die();
  const dry = await kiseki(["scrub", "--cache-dir", cacheDir, "--dry-run"]);
  expect(dry).toEqual({
    status: 0,
    stdout: expect.stringMatching(new RegExp(`^${cacheDir}/acme/${dead}: at most .* has died\\n$`)),
    stderr: "",
  });
  expect(existsSync(join(cacheDir, "acme", dead))).toBe(true);

  const real = await kiseki(["scrub", "--cache-dir", cacheDir]);
  expect(real).toEqual({
    status: 0,
    stdout: expect.stringMatching(new RegExp(`^${cacheDir}/acme/${dead}: wiped 4 files .*\\n$`)),
    stderr: "",
  });
  expect(existsSync(join(cacheDir, "acme", dead))).toBe(false);
  expect(await kiseki(["scrub", "--cache-dir", cacheDir])).toEqual({
    status: 0,
    stdout: `${cacheDir}: nothing to scrub, 1 in use\n`,
    stderr: "",
  });
  living.process.goOn();
  await living.process.end();
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("--json tells each pool", async () => {
  const living = await hold();
  const dead = await die();
  const { status, stdout } = await kiseki(["scrub", "--cache-dir", cacheDir, "--json"]);
  expect(status).toBe(0);
  const { pools, ...rest } = JSON.parse(stdout);
  expect(rest).toEqual({ cacheDir, dryRun: false, wiped: 1, dead: 0, live: 1, failed: 0 });
  expect(pools).toContainEqual(expect.objectContaining({ tenant: "acme", id: dead, state: "wiped", files: 4, faults: [] }));
  expect(pools).toContainEqual(expect.objectContaining({ tenant: "acme", id: living.id, state: "live" }));
  await living.process.kill();
});

test("--watch wipes what dies while it runs, until it is stopped", async () => {
  mkdirSync(cacheDir, { mode: 0o700 });
  const watch = Bun.spawn([KISEKI, "scrub", "--cache-dir", cacheDir, "--watch", "0.2"], { stdout: "pipe", stderr: "pipe" });
  const endNow = () => watch.kill("SIGKILL");
  onCleanUp({ end: endNow, endNow });
  const id = await die();
  const deadline = performance.now() + WATCH_PATIENCE_MS;
  while (existsSync(join(cacheDir, "acme", id)) && performance.now() < deadline) await Bun.sleep(POLL_MS);
  expect(inspect(cacheDir).hasMarker).toBe(false);
  watch.kill("SIGTERM");
  expect(await watch.exited).toBe(0);
  expect(await new Response(watch.stdout).text()).toContain(`${id}: wiped 4 files`);
});

test("a folder that others can write into is refused, one that is not there has nothing to scrub", async () => {
  expect(await kiseki(["scrub", "--cache-dir", cacheDir])).toEqual({ status: 0, stdout: `${cacheDir}: nothing to scrub\n`, stderr: "" });
  expect(existsSync(cacheDir)).toBe(false);
  mkdirSync(cacheDir);
  chmodSync(cacheDir, 0o777);
  const { status, stderr } = await kiseki(["scrub", "--cache-dir", cacheDir]);
  expect(status).toBe(1);
  expect(stderr).toBe(
    `kiseki: cache_dir ${cacheDir}: others can write into it (mode 0777); use a folder of your own with mode 0700 (-o cache_dir=DIR)\n`,
  );
  expect((await kiseki(["scrub", "--watch", "often"])).status).toBe(2);
});

test("what can't be deleted is told, with status 1, and tried again by the next scrub", async () => {
  const id = await die();
  const image = join(cacheDir, "acme", id, "files/7-1");
  await runOk("chattr", ["+i", image]);
  const refused = await kiseki(["scrub", "--cache-dir", cacheDir]);
  await runOk("chattr", ["-i", image]);
  expect(refused.status).toBe(1);
  expect(refused.stderr).toMatch(new RegExp(`^kiseki: 1 of 1 pools .* could not be wiped; the first: ${image}: .*\n$`));
  expect((await kiseki(["scrub", "--cache-dir", cacheDir])).status).toBe(0);
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
});

test("root scrubs another user's folder as that user: what a link in it names is safe", async () => {
  const parent = tempFolder("stranger-");
  chmodSync(parent, 0o755);
  cacheDir = join(parent, "cache");
  mkdirSync(cacheDir, { mode: 0o700 });
  chownSync(cacheDir, STRANGER, STRANGER);
  const id = await die(["setpriv", `--reuid=${STRANGER}`, `--regid=${STRANGER}`, "--clear-groups"]);
  const own = join(parent, "root-owned");
  writeFileSync(own, MARKER, { mode: 0o600 });
  symlinkSync(own, join(cacheDir, "acme", id, "files/link"));
  symlinkSync(parent, join(cacheDir, "acme", id, "chunks/folder-link"));
  const { status, stdout } = await kiseki(["scrub", "--cache-dir", cacheDir]);
  expect(stdout).toContain(`${id}: wiped`);
  expect(status).toBe(0);
  expect(inspect(cacheDir).paths).toEqual(["node.lock"]);
  expect(readFileSync(own, "utf8")).toBe(MARKER);
});
