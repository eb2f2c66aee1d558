/**
 * Every example of README and docs, as it is written: with its own paths, names and port, in a mount and a network namespace of its own, where the
 * folders that they name are empty. An example that is in no list here fails the test.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { cleanUp, KISEKI, onCleanUp, tempFolder } from "./support/resources.ts";
import { run } from "./support/run.ts";

setDefaultTimeout(300_000);
afterAll(cleanUp);

const REPO = join(import.meta.dir, "..");
const DOCUMENTS = ["README.md", "docs/CACHE.md", "docs/FABRICS.md", "docs/PERFORMANCE.md", "docs/SECURITY.md", "docs/SEMANTICS.md"];
const COMMAND_PATIENCE_MS = 60_000;

interface How {
  /** Run before and after, by the same shell; must succeed. */
  readonly before?: string;
  readonly after?: string;
  /** What is typed on its terminal, a line each second. */
  readonly types?: readonly string[];
  /** It stays: until this command succeeds, then it gets SIGTERM, and ends with 0. */
  readonly until?: string;
  /** For what stands for something of the reader's: a pattern and the shell's words in its place. */
  readonly instead?: readonly [string, string];
  /** Not a command: a line of /etc/fstab. */
  readonly isFstab?: boolean;
}

const PLAIN: How = {};
const LISTENS = "(exec 3<>/dev/tcp/127.0.0.1/9100) 2>/dev/null";
const UMOUNT = "kiseki umount /mnt/data";
const NEW_TENANT =
  "stop_node; rm -rf /srv/kiseki acme.json; start_node; kiseki tenant create acme --ca /srv/kiseki/pki --out acme.json; cp acme.json /etc/kiseki/";
const MOUNTED =
  "kiseki mount /mnt/data --cache-dir /nvme/kiseki --data-addr node1:9100 --tenant acme; mkdir -p /mnt/data/train; seq 1000 > /mnt/data/train/f; sync /mnt/data/train/f";
const NO_POLICY = "rm -f /srv/kiseki/policy.json; sleep 1";

/** In the order in which they are run; the text is that of the document up to a comment. */
const EXAMPLES: readonly (readonly [string, How])[] = [
  ["kiseki serve --data-dir /srv/kiseki --listen 0.0.0.0:9100", { until: LISTENS }],
  ["kiseki serve --data-dir /srv/kiseki --listen 0.0.0.0:9100 --restored", { until: LISTENS, after: "start_node" }],
  ["kiseki tenant create acme --ca /srv/kiseki/pki --out acme.json", { after: "cp acme.json /etc/kiseki/" }],
  [
    "kiseki tenant create acme --ca /srv/kiseki/pki --out acme.json --passphrase",
    {
      before: "mv acme.json credentials; mv /srv/kiseki/pki/tenants/acme.json record",
      types: ["secret", "secret"],
      after: "grep -q sealedKek acme.json; mv credentials acme.json; mv record /srv/kiseki/pki/tenants/acme.json",
    },
  ],
  ["kiseki tenant list --ca /srv/kiseki/pki", PLAIN],
  ["kiseki tenant renew  acme --ca /srv/kiseki/pki --credentials acme.json", { after: "cp acme.json /etc/kiseki/" }],
  ["kiseki tenant revoke acme --ca /srv/kiseki/pki --serial 5c3f...", { instead: ["5c3f...", "$(earlier_serial)"] }],
  [
    "kiseki tenant rotate acme --data-addr node1:9100 --credentials acme.json",
    { before: `kiseki policy set key_health_interval_ms=1000 --data-dir /srv/kiseki; ${MOUNTED}` },
  ],
  ["kiseki tenant rotate acme --data-addr node1:9100 --credentials acme.json --rewrite --rate 50M", { after: `${UMOUNT}; ${NO_POLICY}` }],
  [
    "kiseki tenant passphrase acme.json",
    { types: ["secret", "secret"], after: "grep -q sealedKek acme.json; cp /etc/kiseki/acme.json acme.json" },
  ],
  ["kiseki tenant limit acme --bytes 10T --inodes 50M --namespaces 100 --data-dir /srv/kiseki", PLAIN],
  ["kiseki tenant limit acme --data-addr node1:9100 --ca /srv/kiseki/pki", PLAIN],
  ["kiseki namespace create photos --data-addr node1:9100 --credentials acme.json", PLAIN],
  ["kiseki namespace list          --data-addr node1:9100 --credentials acme.json", PLAIN],
  ["kiseki gc --data-addr node1:9100 --credentials acme.json --dry-run", PLAIN],
  ["kiseki gc --data-dir /srv/kiseki", { before: "stop_node", after: "start_node" }],
  ["kiseki mount /mnt/data --data-addr node1:9100 --tenant acme --credentials acme.json", { after: UMOUNT }],
  [
    "kiseki mount /mnt/all  --data-addr node1:9100 --tenant acme --namespace all",
    { after: "test -d /mnt/all/photos; kiseki umount /mnt/all" },
  ],
  ["kiseki mount /mnt/data --data-addr node1:9100 --tenant acme --foreground", { until: "mountpoint -q /mnt/data" }],
  ["kiseki umount /mnt/data", { before: MOUNTED }],
  ["kiseki mount /mnt/data --cache-mode pinned --cache-dir /nvme/kiseki --cache-l2-max 500G --data-addr node1:9100 --tenant acme", PLAIN],
  ["kiseki stage --dataset /train --cache-dir /nvme/kiseki", { after: "diff <(seq 1000) /mnt/data/train/f" }],
  ["kiseki cache stats /mnt/data", PLAIN],
  ["kiseki policy set max_cache_bytes=100G --data-dir /srv/kiseki", { after: `${UMOUNT}; ${NO_POLICY}` }],
  ["kiseki scrub --cache-dir /nvme/kiseki", PLAIN],
  [
    "kiseki serve --data-dir /srv/kiseki --listen 0.0.0.0:9100 --transports libfabric:net",
    { before: "stop_node", until: LISTENS, after: "start_node --transports libfabric:net" },
  ],
  ["kiseki transports --data-addr node1:9100 --tenant acme", PLAIN],
  [
    "kiseki mount /mnt/data --data-addr node1:9100 --tenant acme -o transport=libfabric:net",
    { after: `kiseki cache stats /mnt/data | grep "fabric net"; ${UMOUNT}; stop_node; start_node` },
  ],
  ["install -m 755 dist/kiseki /usr/local/bin/kiseki", PLAIN],
  ["ln -s /usr/local/bin/kiseki /sbin/mount.kiseki", PLAIN],
  ["ln -s /usr/local/bin/kiseki /sbin/mount.fuse.kiseki", PLAIN],
  [
    "mount -t kiseki node1:9100/acme/default /mnt/data -o credentials=/etc/kiseki/acme.json",
    { after: "mount -o remount,ro /mnt/data; ! touch /mnt/data/x 2>/dev/null; umount /mnt/data" },
  ],
  ["node1:9100/acme/default  /mnt/data  kiseki  _netdev,nofail,credentials=/etc/kiseki/acme.json  0  0", { isFstab: true }],
  // docs/CACHE.md
  ["kiseki scrub", PLAIN],
  ["kiseki scrub --cache-dir /nvme/kiseki --dry-run --json", PLAIN],
  ["kiseki scrub --watch 60", { until: "sleep 1" }],
  ["kiseki policy set max_cache_bytes=100G metadata_ttl_ms=1s --data-dir /srv/kiseki", PLAIN],
  ["kiseki policy set allowed_modes=organic,bypass --data-dir /srv/kiseki --tenant acme", PLAIN],
  ["kiseki policy set cache_enabled=false --data-dir /srv/kiseki --tenant acme --namespace photos --workload preview", PLAIN],
  ["kiseki policy unset allowed_modes --data-dir /srv/kiseki --tenant acme", PLAIN],
  ["kiseki policy get --data-dir /srv/kiseki", PLAIN],
  ["kiseki policy show-effective --data-dir /srv/kiseki --tenant acme --namespace photos", PLAIN],
  ["kiseki policy show-effective --data-addr node1:9100 --credentials acme.json", { after: NO_POLICY }],
  ["kiseki stage --dataset /train", { before: MOUNTED.replace(" --cache-dir /nvme/kiseki", "") }],
  ["kiseki stage --status", PLAIN],
  ["kiseki stage --release /train", PLAIN],
  ["kiseki cache stats", PLAIN],
  ["kiseki cache stats /mnt/data --watch", { until: "sleep 3" }],
  ["kiseki cache stats --json", PLAIN],
  ["kiseki cache wipe /mnt/data", { after: UMOUNT }],
  ["pool=$(kiseki stage --dataset /train --daemon --timeout 10m --data-addr node1:9100 --tenant acme)", PLAIN],
  [
    "kiseki mount /mnt/data -o pool_id=$pool --data-addr node1:9100 --tenant acme",
    { after: `diff <(seq 1000) /mnt/data/train/f; ${UMOUNT}` },
  ],
  // The end of a tenant.
  ["kiseki tenant shred acme --data-addr node1:9100 --ca /srv/kiseki/pki", { types: ["acme"] }],
  ["kiseki tenant shred acme --data-addr node1:9100 --credentials acme.json", { before: NEW_TENANT, types: ["acme"], after: "stop_node" }],
];

/** Lines that are set in like examples and are not run here, and why. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [/^(scripts\/|with --cache)/, "quickstart is run below, scripts/test is what runs this; benchmarks take minutes and are run by hand"],
  [/^(ffi\/|src\/|scripts\/ test\/)/, "where things are"],
  [/^(<cache_dir>\/|chunks\/ |pool\.lock )/, "what is in a cache folder"],
  [/^(Prolog|TaskProlog|Epilog|sbatch)\b/, "Slurm: test/slurm.test.ts runs the scripts"],
  [/^# \/etc\/fstab$/, "a heading"],
];

/** The example in a line of a document, without its comment; null: none. */
function exampleIn(line: string): string | null {
  if (!/^ {4,}\S/.test(line)) return null;
  const text = line.trim();
  return text.startsWith("#") ? text : text.replace(/\s{2,}#.*$| # in job\.sh.*$/, "").trim();
}

/** bash in namespaces of its own. */
class Machine {
  readonly #folder = tempFolder("examples-");
  readonly #shell: Bun.Subprocess<"pipe", "ignore", "inherit">;
  #count = 0;

  constructor() {
    const work = join(this.#folder, "work");
    mkdirSync(work);
    symlinkSync(dirname(KISEKI), join(work, "dist"));
    this.#shell = Bun.spawn(["unshare", "-m", "-n", "--propagation", "private", "bash", "--norc", "--noprofile"], {
      cwd: work,
      stdin: "pipe",
      stdout: "ignore",
      stderr: "inherit",
      env: { ...process.env, PATH: `/usr/local/bin:${dirname(KISEKI)}:/usr/sbin:/usr/bin:/sbin:/bin`, HOME: "/root" },
    });
    onCleanUp({ end: () => this.end(), endNow: () => this.#shell.kill("SIGKILL") });
  }

  /** Runs a command by the shell. Returns its exit status and what it has printed. */
  async run(command: string): Promise<{ status: number; text: string }> {
    const base = join(this.#folder, String(this.#count++));
    this.#shell.stdin.write(`{\n${command}\n} > ${base}.out 2>&1 < /dev/null; echo $? > ${base}.new; mv ${base}.new ${base}.status\n`);
    this.#shell.stdin.flush();
    const deadline = performance.now() + COMMAND_PATIENCE_MS;
    while (!existsSync(`${base}.status`)) {
      if (performance.now() > deadline) throw new Error(`did not end: ${command}\n${readFileSync(`${base}.out`, "utf8")}`);
      await Bun.sleep(20);
    }
    return { status: Number(readFileSync(`${base}.status`, "utf8")), text: readFileSync(`${base}.out`, "utf8") };
  }

  /** @throws Error with what was printed */
  async ok(commands: string, of: string): Promise<void> {
    const { status, text } = await this.run(commands.split("; ").join(" && "));
    if (status !== 0) throw new Error(`${of}\n  around it: ${commands}\n  exit status ${status}\n${text}`);
  }

  async end(): Promise<void> {
    await this.run("umount -l /mnt/data /mnt/all 2>/dev/null; stop_node 2>/dev/null; true").catch(() => undefined);
    this.#shell.kill("SIGKILL");
    await this.#shell.exited;
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

const PRIVATE_ROOT = `
ip link set lo up &&
for folder in /srv /mnt /run /var/log /tmp/kiseki-cache /usr/local/bin; do mkdir -p $folder && mount -t tmpfs tmpfs $folder || exit 1; done &&
chmod 700 /tmp/kiseki-cache && mkdir -p /nvme /etc/kiseki /srv/kiseki /mnt/data /mnt/all && chmod 700 /srv/kiseki && rmdir /srv/kiseki &&
mount -t tmpfs tmpfs /nvme && mount -t tmpfs tmpfs /etc/kiseki && chmod 755 /nvme &&
mkdir /run/sbin && cp -a /usr/sbin/. /run/sbin/ && mount --bind /run/sbin /usr/sbin &&
printf '127.0.0.1 localhost node1\\n' > /run/hosts && mount --bind /run/hosts /etc/hosts &&
: > /run/fstab && { [ -e /etc/fstab ] || : > /etc/fstab; } && mount --bind /run/fstab /etc/fstab &&
start_node() {
  kiseki serve --data-dir /srv/kiseki --listen 0.0.0.0:9100 "$@" >> /run/node.log 2>&1 & node=$!
  for i in $(seq 100); do ${LISTENS} && return 0; sleep 0.1; done; return 1
} &&
stop_node() { kill $node && wait $node; } &&
earlier_serial() { kiseki tenant list --ca /srv/kiseki/pki | grep -o '[0-9a-f]\\{32\\}' | head -n 1; }
`;

function commandOf(text: string, { types, until, instead, isFstab }: How): string {
  if (isFstab === true) return `echo '${text}' > /etc/fstab && mount /mnt/data && mountpoint -q /mnt/data && umount /mnt/data`;
  const command = instead === undefined ? text : text.replace(...instead);
  if (until !== undefined) {
    return `${command} & child=$!; for i in $(seq 200); do ${until} && break; kill -0 $child || break; sleep 0.1; done; kill $child; wait $child`;
  }
  if (types === undefined) return command;
  const typed = types.map((line) => `sleep 1; echo '${line}'`).join("; ");
  return `{ sleep 1; ${typed}; sleep 1; } | script -qec '${command}' /dev/null`;
}

let machine: Machine;
beforeAll(async () => {
  machine = new Machine();
  const { status, text } = await machine.run(PRIVATE_ROOT);
  expect({ status, text }).toEqual({ status: 0, text: "" });
});

test("every example of the documents is known here, and each one here is in a document", () => {
  const found = DOCUMENTS.flatMap((path) =>
    readFileSync(join(REPO, path), "utf8")
      .split("\n")
      .flatMap((line) => exampleIn(line) ?? []),
  );
  const known = new Set(EXAMPLES.map(([text]) => text));
  expect(found.filter((text) => !known.has(text) && !OTHERS.some(([pattern]) => pattern.test(text)))).toEqual([]);
  expect([...known].filter((text) => !found.includes(text))).toEqual([]);
});

test("each example does what it says, as it is written", async () => {
  for (const [text, how] of EXAMPLES) {
    if (how.before !== undefined) await machine.ok(how.before, text);
    const { status, text: output } = await machine.run(commandOf(text, how));
    if (status !== 0) throw new Error(`${text}\n  exit status ${status}\n${output}`);
    if (how.after !== undefined) await machine.ok(how.after, text);
  }
});

test("scripts/quickstart installs, mounts, copies a tree and finds it again", async () => {
  const { status, stdout, stderr } = await run(join(REPO, "scripts/quickstart"), [], { timeoutMs: 240_000 });
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toContain("all the same");
});
