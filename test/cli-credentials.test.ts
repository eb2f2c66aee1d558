/** Who may mount: wrong tenants, credentials that others may read, expired or foreign certificates, passphrases; and what never leaks. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { issueTenant } from "../src/pki/certificates.ts";
import { kiseki, mountArguments, mountProcesses, mountpoint } from "./support/cli.ts";
import { cleanUp, isMounted, run, runOk, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);

const PASSPHRASE = "correct horse battery staple 4711";

let node: TestNode;
let folder: string;
let path: string;
let logFile: string;

beforeAll(async () => {
  node = await TestNode.start();
  folder = tempFolder("credentials-");
  path = mountpoint();
  logFile = join(folder, "mount.log");
  await node.credentials("t");
});
afterAll(cleanUp);

/** Writes a credentials file like tenant t's, with some fields replaced. */
async function credentialsWith(name: string, fields: Record<string, string>, mode = 0o600): Promise<string> {
  const file = join(folder, name);
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(await node.credentials("t"), "utf8")), ...fields }));
  chmodSync(file, mode);
  return file;
}

async function expectRefused(credentials: string, status: number, message: RegExp, more: string[] = []): Promise<void> {
  const result = await kiseki(["mount", path, "--data-addr", node.addr, "--credentials", credentials, "--log-file", logFile, ...more]);
  expect(result.stderr).toMatch(message);
  expect(result.stderr).toMatch(/^kiseki: .+\n$/);
  expect(result).toMatchObject({ status, stdout: "" });
  expect(isMounted(path)).toBe(false);
  expect(mountProcesses(path)).toEqual([]);
}

test("another tenant than the credentials': 4", async () => {
  await expectRefused(await node.credentials("t"), 4, /credentials of tenant t, not of other/, ["--tenant", "other"]);
});

test("credentials that group or others may use: 1, with the chmod to run", async () => {
  for (const mode of [0o644, 0o640, 0o604]) {
    await expectRefused(await credentialsWith(`open-${mode}.json`, {}, mode), 1, /chmod 600/);
  }
});

test("a file that is missing, or no credentials: 1", async () => {
  await expectRefused(join(folder, "missing.json"), 1, /missing\.json/);
  writeFileSync(join(folder, "empty.json"), "", { mode: 0o600 });
  await expectRefused(join(folder, "empty.json"), 1, /empty\.json/);
  await expectRefused(await credentialsWith("bad.json", { kek: "AAAA" }), 1, /kek/);
});

async function certificate(days: number): Promise<{ cert: string; key: string }> {
  const pki = join(node.dataDir, "pki");
  const ca = { cert: readFileSync(join(pki, "ca.crt"), "utf8"), key: readFileSync(join(pki, "ca.key"), "utf8") };
  return await issueTenant(ca, readFileSync(join(pki, "cluster"), "utf8").trim(), "t", days);
}

test("an expired certificate: 4, and it says so", async () => {
  // It ended half an hour after it began, half an hour ago.
  const expired = await certificate(-1 / 48);
  await expectRefused(await credentialsWith("expired.json", expired), 4, /expired/);
  const valid = await credentialsWith("valid.json", await certificate(1));
  expect((await kiseki(["namespace", "list", "--data-addr", node.addr, "--credentials", valid])).status).toBe(0);
});

test("credentials of another cluster: 4", async () => {
  const other = await TestNode.start();
  await expectRefused(await other.credentials("t"), 4, /belong to this cluster/);
  await other.stop();
});

test("a KEK that is not the tenant's can't open its data: an error, and no mount", async () => {
  expect((await kiseki(["mount", path, ...(await mountArguments(node)), "--log-file", logFile])).status).toBe(0);
  expect((await kiseki(["umount", path])).status).toBe(0);
  const wrong = await credentialsWith("wrong-kek.json", { kek: Buffer.alloc(32, 7).toString("base64") });
  const result = await kiseki(["mount", path, "--data-addr", node.addr, "--credentials", wrong, "--log-file", logFile]);
  expect(result.stderr).toMatch(/^kiseki: .+\n$/);
  expect(result.status).not.toBe(0);
  expect(isMounted(path)).toBe(false);
});

test("no node answers: 3, with what to check", async () => {
  const result = await kiseki([
    "mount",
    path,
    "--data-addr",
    "127.0.0.1:9",
    "--credentials",
    await node.credentials("t"),
    "--log-file",
    logFile,
  ]);
  expect(result.stderr).toMatch(/^kiseki: .*connection refused.*--data-addr.*\n$/);
  expect(result.status).toBe(3);
  const nobody = await kiseki([
    "mount",
    path,
    "--data-addr",
    "no-such-host.invalid:9100",
    "--credentials",
    await node.credentials("t"),
    "--log-file",
    logFile,
  ]);
  expect(nobody.stderr).toMatch(/^kiseki: .*no-such-host\.invalid.*\n$/);
  expect(nobody.status).toBe(3);
});

test("a passphrase: from a file of one's own, wrong ones refused; the second of two addresses is tried", async () => {
  const file = join(folder, "passphrase");
  const sealed = join(folder, "sealed.json");
  writeFileSync(file, `${PASSPHRASE}\n`, { mode: 0o600 });
  const made = ["tenant", "create", "sealed", "--ca", join(node.dataDir, "pki"), "--out", sealed, "--passphrase-file", file];
  expect((await kiseki(made)).status).toBe(0);
  expect(statSync(sealed).mode & 0o777).toBe(0o600);
  writeFileSync(join(folder, "wrong"), "wrong\n", { mode: 0o600 });
  await expectRefused(sealed, 1, /passphrase/, ["--passphrase-file", join(folder, "wrong")]);
  await expectRefused(sealed, 2, /no terminal.*--passphrase-file/);
  chmodSync(file, 0o644);
  await expectRefused(sealed, 1, /chmod 600/, ["--passphrase-file", file]);
  chmodSync(file, 0o600);
  const args = ["--data-addr", `127.0.0.1:9,${node.addr}`, "--credentials", sealed, "--log-file", logFile, "--log-level", "trace"];
  expect(await kiseki(["mount", path, ...args, "-o", `passphrase_file=${file}`])).toEqual({ status: 0, stdout: "", stderr: "" });
  await runOk("bash", ["-c", "echo sealed > file"], { cwd: path });
  const [pid] = mountProcesses(path);
  const told = `${readFileSync(`/proc/${pid}/cmdline`)}${readFileSync(`/proc/${pid}/environ`)}`;
  expect(told).not.toContain(PASSPHRASE);
  expect((await kiseki(["umount", path])).status).toBe(0);
});

test("a passphrase typed on a terminal is not shown", async () => {
  const sealed = join(folder, "sealed.json");
  // script(1) gives it a terminal, on which the passphrase is typed after the question.
  const command = `${process.env.KISEKI_BIN ?? join(import.meta.dir, "../dist/kiseki")} namespace list --data-addr ${node.addr} --credentials ${sealed}`;
  const typed = `(sleep 1; echo '${PASSPHRASE}'; sleep 1) | script -qec '${command}' /dev/null`;
  const { stdout } = await run("bash", ["-c", typed]);
  expect(stdout).toContain("Passphrase of");
  expect(stdout).toContain("default");
  expect(stdout).not.toContain(PASSPHRASE);
});

test("no log, and nothing on the node, has a KEK, a TLS key or a passphrase", async () => {
  const secrets = [PASSPHRASE, "BEGIN PRIVATE KEY"];
  for (const name of readdirSync(folder).filter((name) => /^(valid|wrong-kek|expired)\.json$/.test(name))) {
    const { kek, key } = JSON.parse(readFileSync(join(folder, name), "utf8")) as { kek: string; key: string };
    secrets.push(kek, key.split("\n")[1] ?? "");
  }
  const text = `${readFileSync(logFile, "utf8")}${node.log()}`;
  for (const secret of secrets) {
    expect(secret.length).toBeGreaterThan(15);
    expect(text).not.toContain(secret);
  }
  for (const secret of secrets.filter((text) => text !== "BEGIN PRIVATE KEY")) {
    expect((await run("grep", ["-rlF", "--", secret, node.dataDir])).stdout).toBe("");
  }
});
