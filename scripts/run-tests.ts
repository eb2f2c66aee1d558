/**
 * Runs the checks and every test file, each file in a bun process and a temporary folder of its own, one after the other: a file
 * that hangs, crashes or leaves a mount behind fails by itself and harms no other. See scripts/test for the arguments.
 */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseJunit } from "./junit.ts";

const REPO = join(import.meta.dir, "..");
/** One test file at most; the longest suite (programs on a mount) takes about two minutes. */
const FILE_TIMEOUT_MS = 6 * 60_000;
/** The environment variable that marks what a test file started, so that it can be ended with the file. */
const MARK = "KISEKI_TEST_FILE_RUN";

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
}

const total: Outcome = { passed: 0, failed: 0, skipped: 0 };
const complaints: string[] = [];

function add(name: string, outcome: Outcome, seconds: number): void {
  total.passed += outcome.passed;
  total.failed += outcome.failed;
  total.skipped += outcome.skipped;
  const bad = outcome.failed + outcome.skipped > 0;
  if (bad) complaints.push(`${name}: ${outcome.failed} failed, ${outcome.skipped} skipped`);
  console.log(`${bad ? "FAIL" : "ok  "} ${name}  (${outcome.passed} passed, ${seconds.toFixed(1)} s)`);
}

/** One command that counts as one test. */
function check(name: string, command: string[]): boolean {
  const begin = performance.now();
  const result = Bun.spawnSync(command, { cwd: REPO, stdout: "pipe", stderr: "pipe", env: { ...process.env, NO_COLOR: "1" } });
  if (!result.success) process.stdout.write(`${result.stdout.toString()}${result.stderr.toString()}`);
  add(name, { passed: result.success ? 1 : 0, failed: result.success ? 0 : 1, skipped: 0 }, (performance.now() - begin) / 1000);
  return result.success;
}

/** Pids of living processes, other than this one, whose environment holds `mark`. */
function markedProcesses(mark: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return pid !== process.pid && readFileSync(`/proc/${pid}/environ`, "latin1").split("\0").includes(mark);
      } catch {
        return false; // ended meanwhile, or another user's
      }
    });
}

/** The mountpoints below `folder`, innermost first. */
function mountsBelow(folder: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) =>
      (line.split(" ")[4] ?? "").replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    )
    .filter((path) => path.startsWith(`${folder}/`))
    .reverse();
}

/** Unmounts what is mounted below `folder`. Returns the mountpoints. */
function unmountBelow(folder: string): string[] {
  const mountpoints = mountsBelow(folder);
  for (const path of mountpoints) {
    const command = process.getuid?.() === 0 ? ["umount", "-l", path] : ["fusermount3", "-u", "-z", path];
    Bun.spawnSync(command, { stdout: "ignore", stderr: "ignore" });
  }
  return mountpoints;
}

/** Content over a fabric, which needs no hardware: the suites about data, crashes and faults run once more so. */
const OVER_FABRIC = { KISEKI_TEST_SERVE_ARGS: "--transports libfabric:net", KISEKI_TEST_MOUNT_OPTIONS: "transport=libfabric:net" };
const FABRIC_SUITES = ["crash", "data", "model", "node-faults", "power-failure", "read-write", "restart-node", "two-mounts"].map(
  (name) => `test/${name}.test.ts`,
);

/** `variant`: variables that make it another test, named in what is printed. */
async function runFile(path: string, variant: Record<string, string> = {}): Promise<void> {
  const name = [path, ...Object.values(variant)].join("  ");
  const begin = performance.now();
  const folder = mkdtempSync(join(tmpdir(), "kiseki-test-"));
  // Some tests become another user, who must get to their mounts.
  chmodSync(folder, 0o755);
  const report = join(folder, "report.xml");
  const mark = `${MARK}=${folder}`;
  const child = Bun.spawn([process.execPath, "test", "--reporter=junit", `--reporter-outfile=${report}`, `./${path}`], {
    cwd: REPO,
    env: { ...process.env, ...variant, TMPDIR: folder, [MARK]: folder, NO_COLOR: "1" },
    stdin: "ignore",
    stdout: Bun.file(join(folder, "output")),
    stderr: Bun.file(join(folder, "output.err")),
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), FILE_TIMEOUT_MS);
  const status = await child.exited;
  clearTimeout(timer);

  const notes: string[] = [];
  const outcome = parseJunit(await readText(report)) ?? { passed: 0, failed: 0, skipped: 0 };
  if (child.signalCode !== null) {
    notes.push(`ended by ${child.signalCode} after ${((performance.now() - begin) / 1000).toFixed(0)} s`);
  } else if (outcome.passed + outcome.failed + outcome.skipped === 0) {
    notes.push(`exit status ${status} and no test was run`);
  } else if (status !== 0 && outcome.failed === 0 && outcome.skipped === 0) {
    notes.push(`exit status ${status} though no test failed`);
  }
  const leftMounts = unmountBelow(folder);
  if (leftMounts.length > 0) notes.push(`left mounted: ${leftMounts.join(", ")}`);
  const leftProcesses = markedProcesses(mark);
  for (const pid of leftProcesses) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // ended meanwhile
    }
  }
  if (leftProcesses.length > 0) notes.push(`left running: ${leftProcesses.length} processes`);

  if (notes.length > 0) outcome.failed += 1;
  if (outcome.failed + outcome.skipped > 0) {
    process.stdout.write(`${await readText(join(folder, "output"))}${await readText(join(folder, "output.err"))}`);
    for (const note of notes) console.log(`${name}: ${note}`);
  }
  add(name, outcome, (performance.now() - begin) / 1000);
  // Never into a mount that could not be taken away.
  if (mountsBelow(folder).length === 0) rmSync(folder, { recursive: true, force: true });
}

async function readText(path: string): Promise<string> {
  const file = Bun.file(path);
  return (await file.exists()) ? file.text() : "";
}

function testFiles(): string[] {
  const found = ["src", "ffi", "scripts", "test"].flatMap((folder) =>
    [...new Bun.Glob(`${folder}/**/*.test.ts`).scanSync({ cwd: REPO })].sort(),
  );
  const words = process.argv.slice(2);
  return words.length === 0 ? found : found.filter((path) => words.some((word) => path.includes(word)));
}

const tool = (name: string) => join(REPO, "node_modules/.bin", name);
const whole = process.argv.length <= 2;
if (whole) {
  check("format and lint (biome)", [tool("biome"), "ci", "--colors=off", "--error-on-warnings", "."]);
  check("types (tsc)", [tool("tsc"), "-p", "."]);
  check("unused code (knip)", [process.execPath, tool("knip")]);
}
const files = testFiles();
if (files.length === 0) add("no test file matches", { passed: 0, failed: 1, skipped: 0 }, 0);
const built = check("build", [process.execPath, "scripts/build.ts"]);
async function runLane(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    // Without the binary every suite in test/ would only repeat that it is missing.
    if (!built && isSuite(path)) add(path, { passed: 0, failed: 1, skipped: 0 }, 0);
    else await runFile(path);
  }
}

const isSuite = (path: string): boolean => path.startsWith("test/");
// Both wait more than they work: side by side they take three quarters of the time.
await Promise.all([
  runLane(files.filter((path) => !isSuite(path))).then(async () => {
    if (whole && built) for (const path of FABRIC_SUITES) await runFile(path, OVER_FABRIC);
  }),
  runLane(files.filter(isSuite)),
]);

for (const complaint of complaints) console.log(complaint);
// A skipped test is one that nobody ran: it counts as failed.
const failed = total.failed + total.skipped;
console.log(`${total.passed} passed, ${failed} failed`);
process.exit(failed > 0 || total.passed === 0 ? 1 : 0);
