/** What a user of dist/kiseki sees when something is wrong: one line with the remedy, and the exit status. No mount is made here. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VERSION } from "../src/version.ts";

const KISEKI = join(import.meta.dir, "../dist/kiseki");
const folder = mkdtempSync(join(tmpdir(), "cli-"));
const path = (name: string) => join(folder, name);
/** Nothing listens on the discard port of a test machine. */
const NOBODY = "127.0.0.1:9";

/** Runs without a terminal and without the caller's KISEKI_ variables. */
function run(command: string[], env: Record<string, string> = {}) {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("KISEKI_"));
  // setsid: else /dev/tty would be the terminal of whoever runs the tests.
  const result = Bun.spawnSync(["setsid", "--wait", ...command], {
    env: { ...Object.fromEntries(inherited), HOME: folder, XDG_CONFIG_HOME: path("config"), ...env },
    stdin: "ignore",
  });
  return { status: result.exitCode, out: result.stdout.toString(), err: result.stderr.toString() };
}
const kiseki = (...args: string[]) => run([KISEKI, ...args]);

let node: Bun.Subprocess;
let address = "";

async function startNode(): Promise<void> {
  const data = path("node");
  node = Bun.spawn([KISEKI, "serve", "--data-dir", data, "--listen", "127.0.0.1:0"], { stdout: "ignore", stderr: "ignore" });
  while (!existsSync(join(data, "listen"))) {
    if (node.exitCode !== null) throw new Error(`kiseki serve ended with ${node.exitCode}`);
    await Bun.sleep(20);
  }
  address = readFileSync(join(data, "listen"), "utf8").trim();
}

beforeAll(async () => {
  await startNode();
  writeFileSync(path("passphrase"), "open sesame\n", { mode: 0o600 });
  mkdirSync(path("mnt"));
  expect(kiseki("tenant", "create", "acme", "--ca", path("node/pki"), "--out", path("acme.json")).status).toBe(0);
  const sealed = ["--out", path("sealed.json"), "--passphrase-file", path("passphrase")];
  expect(kiseki("tenant", "create", "sealed", "--ca", path("node/pki"), ...sealed).status).toBe(0);
});

afterAll(async () => {
  node.kill();
  await node.exited;
});

test("--version and --help", () => {
  expect(kiseki("--version")).toEqual({ status: 0, out: `${VERSION}\n`, err: "" });
  expect(kiseki("mount", "--help")).toMatchObject({ status: 0, err: "" });
  expect(kiseki().status).toBe(2);
});

test("wrong usage: exit status 2, one line", () => {
  for (const args of [["nosuch"], ["mount"], ["mount", path("mnt"), "--nosuch"], ["serve"], ["tenant", "create", "x"]]) {
    const { status, err } = kiseki(...args);
    expect(status, args.join(" ")).toBe(2);
    expect(err).toMatch(/^kiseki: .+\n$/);
  }
});

const MOUNT = ["--data-addr", NOBODY, "--tenant", "acme", "--credentials", path("acme.json")];

const CASES: [string[], number, RegExp][] = [
  [["mount", path("missing"), ...MOUNT], 1, /missing: no such folder; create it with: mkdir -p /],
  [["mount", path("passphrase"), ...MOUNT], 1, /passphrase: not a folder/],
  [["mount", path("mnt"), ...MOUNT, "-o", "cache_mode=some"], 2, /-o cache_mode: expected pinned, organic or bypass, got "some"/],
  [["mount", path("mnt"), ...MOUNT, "--cache-l1-max", "lots"], 2, /--cache-l1-max: expected a size from 16M .*got "lots"/],
  [["mount", path("mnt"), ...MOUNT, "-o", "colour=red"], 2, /-o colour=red: unknown mount option/],
  [["mount", path("mnt"), ...MOUNT, "--cache-dir", path("mnt/cache")], 2, /lies inside the mountpoint/],
  [["mount", path("mnt"), "--tenant", "acme"], 2, /KISEKI_DATA_ADDR/],
  [["mount", path("mnt"), "--data-addr", NOBODY], 2, /KISEKI_TENANT/],
  [["mount", path("mnt"), "--data-addr", NOBODY, "--tenant", "other"], 2, /no credentials of tenant other .* use --credentials/],
  [["mount", path("mnt"), ...MOUNT, "--tenant", "other"], 4, /credentials of tenant acme, not of other/],
  [["mount", path("mnt"), "--data-addr", NOBODY, "--credentials", path("nosuch.json")], 1, /nosuch.json: no such file/],
  [["mount", path("mnt"), "--data-addr", NOBODY, "--credentials", path("sealed.json")], 2, /no terminal to ask on: use --passphrase-file/],
  [["umount", path("mnt")], 1, /no kiseki mount/],
  [["namespace", "list", "--data-addr", NOBODY, "--credentials", path("acme.json")], 3, /connection refused; is the storage node running/],
  [["tenant", "create", "acme", "--ca", path("node/pki"), "--out", path("again.json")], 1, /tenant acme exists already/],
  [["tenant", "create", "x", "--ca", path("node/pki"), "--out", path("acme.json")], 1, /exists already/],
  [["tenant", "list", "--ca", path("mnt")], 1, /no such file/],
  [["serve", "--data-dir", path("node")], 1, /in use by another kiseki serve/],
];
for (const [args, status, message] of CASES) {
  test(`${args[0]}: exit status ${status}, ${message.source}`, () => {
    const result = kiseki(...args);
    expect(result.err).toMatch(message);
    expect(result.err).toMatch(/^kiseki: .+\n$/);
    expect(result.status).toBe(status);
  });
}

test("credentials that others may read are refused", () => {
  writeFileSync(path("open.json"), readFileSync(path("acme.json")));
  chmodSync(path("open.json"), 0o644);
  const result = kiseki("mount", path("mnt"), "--data-addr", NOBODY, "--credentials", path("open.json"));
  expect(result).toMatchObject({ status: 1, err: expect.stringContaining("chmod 600") });
});

test("the environment gives options, and messages name its variables", () => {
  const env = { KISEKI_DATA_ADDR: NOBODY, KISEKI_CREDENTIALS: path("acme.json"), KISEKI_CACHE_META_TTL_MS: "soon" };
  expect(run([KISEKI, "mount", path("mnt")], env)).toMatchObject({
    status: 2,
    err: expect.stringMatching(/^kiseki: KISEKI_CACHE_META_TTL_MS: /),
  });
});

test("a tenant has the namespace default, and can make and delete others", () => {
  const namespace = (...args: string[]) => kiseki("namespace", ...args, "--data-addr", address, "--credentials", path("acme.json"));
  expect(namespace("list")).toMatchObject({ status: 0, out: "default\n" });
  expect(namespace("create", "photos").status).toBe(0);
  expect(namespace("create", "photos")).toMatchObject({ status: 1, err: expect.stringContaining("photos") });
  expect(namespace("list").out).toBe("default\nphotos\n");
  expect(namespace("delete", "photos").status).toBe(0);
  expect(namespace("delete", "photos")).toMatchObject({ status: 1, err: expect.stringContaining("kiseki namespace list") });
});

test("a tenant of another cluster is not let in: exit status 4", async () => {
  const other = Bun.spawn([KISEKI, "serve", "--data-dir", path("other"), "--listen", "127.0.0.1:0"], {
    stdout: "ignore",
    stderr: "ignore",
  });
  while (!existsSync(path("other/listen"))) await Bun.sleep(20);
  other.kill();
  expect(await other.exited).toBe(0);
  expect(kiseki("tenant", "create", "acme", "--ca", path("other/pki"), "--out", path("foreign.json")).status).toBe(0);
  const result = kiseki("namespace", "list", "--data-addr", address, "--credentials", path("foreign.json"));
  expect(result).toMatchObject({ status: 4, err: expect.stringContaining("do the credentials belong to this cluster") });
});

test("credentials are made with mode 0600, and the node never sees the key that seals the data", () => {
  expect(statSync(path("acme.json")).mode & 0o777).toBe(0o600);
  const { kek } = JSON.parse(readFileSync(path("acme.json"), "utf8"));
  const found = Bun.spawnSync(["grep", "-rlF", kek, path("node")]);
  expect(found.stdout.toString()).toBe("");
  expect(JSON.parse(readFileSync(path("sealed.json"), "utf8"))).not.toHaveProperty("kek");
});

test("as mount.kiseki it takes the arguments of mount(8) and answers with its statuses", () => {
  symlinkSync(KISEKI, path("mount.kiseki"));
  const mount = (...args: string[]) => run([path("mount.kiseki"), ...args]);
  expect(mount()).toMatchObject({ status: 1, err: expect.stringContaining("usage: mount -t kiseki") });
  expect(mount("node", path("mnt"))).toMatchObject({ status: 1, err: expect.stringContaining("HOST:PORT[,HOST:PORT]/TENANT[/NAMESPACE]") });
  const options = `rw,_netdev,nofail,x-systemd.automount,credentials=${path("acme.json")}`;
  expect(mount(`${NOBODY}/acme`, path("mnt"), "-o", `${options},colour=red`).status).toBe(1);
  expect(mount(`${NOBODY}/acme`, path("mnt"), "-s", "-f", "-o", `${options},colour=red`)).toEqual({ status: 0, out: "", err: "" });
  expect(mount(`${NOBODY}/acme`, path("missing"), "-o", options).status).toBe(32);
});
