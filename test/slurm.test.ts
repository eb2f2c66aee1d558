/** contrib/slurm, with a stand-in for Slurm: its environment, and who it runs the scripts as. */
import { afterAll, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { mountpoint } from "./support/cli.ts";
import { cleanUp, KISEKI, onCleanUp, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";
import type { RunResult } from "./support/run.ts";
import { poolsIn } from "./support/staging.ts";

setDefaultTimeout(90_000);

const SCRIPTS = join(import.meta.dir, "../contrib/slurm");
/** A user that every Debian has, without a home. */
const USER = "nobody";
const UID = 65_534;

let node: TestNode;
/** What is installed on a compute node. */
let installed: string;
let root: string;
/** sha256 of /data/large. */
let sum: string;
let jobs = 0;
let jobId: string;

beforeAll(async () => {
  node = await TestNode.start();
  await using mount = await TestMount.mount(node);
  const script = 'chmod 755 "$1"; mkdir "$1/data" "$1/more"; head -c 30000000 /dev/urandom > "$1/data/large"; echo small > "$1/more/small"';
  await runOk("sh", ["-ec", script, "sh", mount.path]);
  sum = (await runOk("sha256sum", [join(mount.path, "data/large")])).slice(0, 64);
  await mount.unmount();
  installed = tempFolder("slurm-");
  chmodSync(installed, 0o755);
  cpSync(SCRIPTS, installed, { recursive: true });
  root = join(installed, "root");
  const credentials = join(installed, "t.json");
  copyFileSync(await node.credentials("t"), credentials);
  chownSync(credentials, UID, UID);
  copyFileSync(KISEKI, join(installed, "kiseki"));
  configure("no");
  // Whatever a failing test leaves running.
  const end = () => {
    for (const folder of left()) for (const pool of poolsIn(join(root, folder))) if (existsSync(pool)) killOwner(pool);
  };
  onCleanUp({ end, endNow: end });
});
afterAll(cleanUp);

beforeEach(() => {
  jobId = String(++jobs);
});

function configure(required: "yes" | "no"): void {
  const settings = {
    KISEKI: join(installed, "kiseki"),
    KISEKI_DATA_ADDR: node.addr,
    KISEKI_TENANT: "t",
    KISEKI_CREDENTIALS: join(installed, "t.json"),
    KISEKI_SLURM_ROOT: root,
    KISEKI_STAGE_TIMEOUT: "60",
    KISEKI_STAGE_REQUIRED: required,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(join(installed, "slurm.conf"), lines.join(""));
}

/** As slurmd runs a script: without a PATH, with what Slurm says of the job. */
function slurm(script: string, job: Record<string, string> = {}): Promise<RunResult> {
  const environment = { SLURM_JOB_ID: jobId, SLURM_JOB_USER: USER, KISEKI_SLURM_CONF: join(installed, "slurm.conf"), ...job };
  const assignments = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  return run("env", ["-i", ...assignments, join(installed, script)], { cwd: "/" });
}

/** What the TaskProlog adds to the environment of a job's tasks. */
async function taskEnvironment(job: Record<string, string> = {}): Promise<Record<string, string>> {
  const { status, stdout } = await slurm("task-prolog.sh", job);
  expect(status).toBe(0);
  return Object.fromEntries(stdout.split("\n").map((line) => /^export (\w+)=(.*)$/.exec(line)?.slice(1, 3) ?? ["", ""]));
}

/** The job's script, as its user; /dev/fuse is as on Debian. */
async function job(script: string, environment: Record<string, string>): Promise<RunResult> {
  const home = join(installed, `home-${jobId}`);
  for (const folder of [home, join(home, "mnt")]) {
    mkdirSync(folder, { recursive: true });
    chownSync(folder, UID, UID);
  }
  const more = { ...environment, KISEKI_DATA_ADDR: node.addr, KISEKI_CREDENTIALS: join(installed, "t.json"), HOME: home };
  const assignments = Object.entries(more).map(([name, value]) => `${name}=${value}`);
  const prepare = `set -e
mount -t tmpfs -o mode=755 none /dev
mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/zero c 1 5; mknod -m 444 /dev/urandom c 1 9; mknod -m 444 /dev/random c 1 8
mknod -m 666 /dev/fuse c 10 229
exec setpriv --reuid=${UID} --regid=${UID} --clear-groups env -i PATH="$PATH" "$@" bash -c '${script}' job ${installed}/kiseki ${home}/mnt`;
  return await run("unshare", ["--mount", "bash", "-c", prepare, "bash", ...assignments], { cwd: "/" });
}

/** kill -9 of the process that has a pool. */
function killOwner(pool: string): void {
  const { pid } = JSON.parse(readFileSync(join(pool, "pool.lock"), "utf8")) as { pid: number };
  if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
}

/** What there is in the folder of all jobs. */
const left = (): string[] => (existsSync(root) ? readdirSync(root) : []);

test("what the job's comment names is staged; the job mounts and reads it with the storage node stopped; nothing is left", async () => {
  const prolog = await slurm("prolog.sh", { SLURM_JOB_COMMENT: "training kiseki:/data,/more" });
  expect(`${prolog.status} ${prolog.stderr}`).toMatch(/^0 /);
  expect(statSync(join(root, `job-${jobId}`))).toMatchObject({ uid: UID });
  const environment = await taskEnvironment();
  expect(environment.KISEKI_CACHE_DIR).toBe(join(root, `job-${jobId}`));
  expect(environment.KISEKI_CACHE_POOL_ID).toMatch(/^[0-9a-f]{32}$/);
  await node.stop();
  try {
    const read = await job('"$1" mount "$2" && sha256sum < "$2/data/large" && cat "$2/more/small" && "$1" umount "$2"', environment);
    expect(`${read.status} ${read.stderr}`).toBe("0 ");
    expect(read.stdout).toContain(`${sum}  -\nsmall\n`);
  } finally {
    await node.restart();
  }
  expect(await slurm("epilog.sh")).toMatchObject({ status: 0 });
  expect(left()).toEqual([]);
});

test("a job that never mounts: the epilog lets go of what was staged", async () => {
  expect(await slurm("prolog.sh", { SLURM_JOB_COMMENT: "kiseki:/data" })).toMatchObject({ status: 0 });
  const epilog = await slurm("epilog.sh");
  expect(epilog.status).toBe(0);
  expect(epilog.stdout + epilog.stderr).toContain("released 1 dataset");
  expect(left()).toEqual([]);
});

test("what Slurm kills with the job is scrubbed by the epilog", async () => {
  expect(await slurm("prolog.sh", { SLURM_JOB_COMMENT: "kiseki:/data" })).toMatchObject({ status: 0 });
  const killed = await job(
    '"$1" mount "$2" && head -c 1000000 "$2/data/large" > /dev/null && kill -9 $(pgrep -f "mount-process $2")',
    await taskEnvironment(),
  );
  expect(killed.status).toBe(0);
  expect(left()).toContain(`job-${jobId}`);
  expect(await slurm("epilog.sh")).toMatchObject({ status: 0 });
  expect(left()).toEqual([]);
});

test("what a job has left mounted is unmounted by the epilog", async () => {
  const own = { SLURM_JOB_USER: "root", SLURM_JOB_COMMENT: "kiseki:/data" };
  expect(await slurm("prolog.sh", own)).toMatchObject({ status: 0 });
  const path = mountpoint();
  await runOk(join(installed, "kiseki"), ["mount", path], {
    env: { ...(await taskEnvironment(own)), KISEKI_DATA_ADDR: node.addr, KISEKI_CREDENTIALS: join(installed, "t.json") },
  });
  const epilog = await slurm("epilog.sh", own);
  expect(epilog.stderr).toContain(`job ${jobId} has left ${path} mounted`);
  expect(epilog.status).toBe(0);
  expect(left()).toEqual([]);
});

test("a job that asks for nothing gets nothing", async () => {
  expect(await slurm("prolog.sh", { SLURM_JOB_COMMENT: "just a comment" })).toMatchObject({ status: 0 });
  expect((await slurm("task-prolog.sh")).stdout).toBe("");
  expect(await slurm("epilog.sh")).toMatchObject({ status: 0 });
  expect(left()).toEqual([]);
});

test("a job's comment is a name and nothing else, whatever is in it", async () => {
  const folder = tempFolder("comments-");
  const trap = join(folder, "owned");
  writeFileSync(join(folder, "kiseki:"), "");
  const hostile = [
    `kiseki:/data$(touch ${trap})`,
    `kiseki:\`touch\t${trap}\`,/data;touch ${trap}`,
    `kiseki:'"$(id)"'\\;|&<>${trap}`,
    "kiseki:*",
    `kiseki:${folder}/*`,
    "kiseki:--daemon",
    "kiseki:--help,-x",
    "kiseki:\u001b[2J\u001b]0;x\u0007",
    `kiseki:${"/a".repeat(3_000)}`,
    `* ? [a-z] kiseki:/none\n\nrm -rf ${folder}`,
  ];
  for (const SLURM_JOB_COMMENT of hostile) {
    const { status, stderr } = await slurm("prolog.sh", { SLURM_JOB_COMMENT });
    expect([status, stderr.includes(`job ${jobId} starts without staged data`)]).toEqual([0, true]);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(stderr).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f]/);
    expect((await slurm("task-prolog.sh")).stdout).toBe("");
    expect(readdirSync(folder)).toEqual(["kiseki:"]);
    expect(left()).toEqual([]);
  }
});

test("what can't be staged: the job starts without, or not at all, as the operator wants it", async () => {
  const missing = { SLURM_JOB_COMMENT: "kiseki:/data,/none" };
  const without = await slurm("prolog.sh", missing);
  expect(without.status).toBe(0);
  expect(without.stderr).toContain("kiseki: /none: no such file or folder");
  expect(without.stderr).toContain(`job ${jobId} starts without staged data`);
  expect((await slurm("task-prolog.sh")).stdout).toBe("");
  expect(left()).toEqual([]);
  configure("yes");
  expect(await slurm("prolog.sh", missing)).toMatchObject({ status: 1 });
  configure("no");
  expect(left()).toEqual([]);
});

test("the next prolog clears what jobs of a crashed machine have left", async () => {
  expect(await slurm("prolog.sh", { SLURM_JOB_COMMENT: "kiseki:/data" })).toMatchObject({ status: 0 });
  for (const pool of poolsIn(join(root, `job-${jobId}`))) killOwner(pool);
  jobId = String(++jobs);
  expect(await slurm("prolog.sh")).toMatchObject({ status: 0 });
  expect(left()).toEqual([]);
});

test("shellcheck has nothing to say", async () => {
  const scripts = readdirSync(SCRIPTS).filter((name) => name.endsWith(".sh"));
  expect(
    await run("shellcheck", ["-x", ...scripts.map((name) => join("contrib/slurm", name))], { cwd: join(SCRIPTS, "../..") }),
  ).toMatchObject({
    status: 0,
    stdout: "",
  });
});
