/** The units in contrib/systemd: understood by systemd, and their commands do what they say. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mountArguments } from "./support/cli.ts";
import { cleanUp, isMounted, KISEKI, run, runOk, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const FOLDER = join(import.meta.dir, "../contrib/systemd");
const UNITS = readdirSync(FOLDER).toSorted();
const INSTALLED = "/usr/local/bin/kiseki";

let units = "";
beforeAll(() => {
  units = tempFolder("units-");
  // systemd-analyze wants the programs to be there; this one may not be installed.
  for (const name of UNITS) writeFileSync(join(units, name), readFileSync(join(FOLDER, name), "utf8").replaceAll(INSTALLED, KISEKI));
});
afterAll(cleanUp);

test("the units are those that the documentation names", () => {
  expect(UNITS).toEqual(["kiseki-cache-scrub.service", "kiseki-cache-scrub.timer", "kiseki@.service"]);
});

// systemd-analyze ends with 0 in spite of settings that it does not know: what counts is that it says nothing.
test.each(UNITS)("systemd-analyze verify has nothing to say about %s", async (name) => {
  const { status, stdout, stderr } = await run("systemd-analyze", ["verify", "--man=no", join(units, name)]);
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
});

test("the scrub runs at boot, and a minute after the last one", async () => {
  const timer = readFileSync(join(FOLDER, "kiseki-cache-scrub.timer"), "utf8");
  expect(timer).toMatch(/^OnBootSec=1s$/m);
  expect(timer).toMatch(/^OnUnitInactiveSec=60s$/m);
});

/** The command line of a setting, as systemd runs it: without a shell. */
function command(unit: string, setting: string, instance: string, variables: Record<string, string>): string[] {
  const line = new RegExp(`^${setting}=-?(.*)$`, "m").exec(readFileSync(join(units, unit), "utf8"))?.[1] ?? "";
  return line.split(" ").map((word) => word.replace("%f", instance).replace(/\$\{(\w+)\}/, (_, name: string) => variables[name] ?? ""));
}

test("the commands of kiseki@.service mount and unmount", async () => {
  const node = await TestNode.start();
  const path = join(tempFolder("mnt-"), "data");
  const args = await mountArguments(node);
  const value = (option: string) => args[args.indexOf(option) + 1] ?? "";
  const env = {
    KISEKI_DATA_ADDR: value("--data-addr"),
    KISEKI_CREDENTIALS: value("--credentials"),
    KISEKI_MOUNT_OPTIONS: "rw,cache_l1_max=64M",
    KISEKI_CACHE_DIR: tempFolder("cache-"),
  };
  for (const setting of ["ExecStartPre", "ExecStart"]) {
    const [program = "", ...rest] = command("kiseki@.service", setting, path, env);
    await runOk(program, rest, { env });
  }
  expect(isMounted(path)).toBe(true);
  for (const setting of ["ExecStop", "ExecStopPost"]) {
    const [program = "", ...rest] = command("kiseki@.service", setting, path, env);
    const { status } = await run(program, rest, { env });
    if (setting === "ExecStop") expect(status).toBe(0);
    expect(isMounted(path)).toBe(false);
  }
});

test("the command of kiseki-cache-scrub.service scrubs the folder that its environment names", async () => {
  const cacheDir = join(tempFolder("cache-"), "cache");
  mkdirSync(cacheDir, { mode: 0o700 });
  chmodSync(cacheDir, 0o700);
  const [program = "", ...rest] = command("kiseki-cache-scrub.service", "ExecStart", "", {});
  expect(await runOk(program, rest, { env: { KISEKI_CACHE_DIR: cacheDir } })).toBe(`${cacheDir}: nothing to scrub\n`);
});
