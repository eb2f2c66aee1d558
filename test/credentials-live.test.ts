/** Credentials live: they are renewed and revoked, a passphrase comes and goes, the node renews its own certificate. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { chmodSync, copyFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { issueNode, issueTenant } from "../src/pki/certificates.ts";
import { cleanUp, isMounted, KISEKI, run, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

const PATIENCE_MS = 15_000;
const DAY_MS = 86_400_000;

async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await what())) {
    if (performance.now() > deadline) throw new Error(`waited for too long: ${what}`);
    await Bun.sleep(50);
  }
}

const pki = (node: TestNode) => join(node.dataDir, "pki");
const list = (node: TestNode, file: string) => run(KISEKI, ["namespace", "list", "--data-addr", node.addr, "--credentials", file]);
const serialIn = (file: string) => new X509Certificate(JSON.parse(readFileSync(file, "utf8")).cert).serialNumber.toLowerCase();

/** A copy of a tenant's credentials file with some fields replaced. */
function copyWith(file: string, fields: object): string {
  const copy = join(tempFolder("copy-"), "credentials.json");
  writeFileSync(copy, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...fields }), { mode: 0o600 });
  return copy;
}

test("renewed credentials open the same data; those before hold until they are revoked, and running mounts of them end within seconds", async () => {
  const node = await TestNode.start();
  const file = await node.credentials("t");
  const stolen = join(tempFolder("stolen-"), "old.json");
  copyFileSync(file, stolen);
  chmodSync(stolen, 0o600);
  const old = serialIn(stolen);
  const mount = await TestMount.mount(node);
  await runOk("bash", ["-c", "echo before > a && sync a"], { cwd: mount.path });

  const renewed = await run(KISEKI, ["tenant", "renew", "t", "--ca", pki(node), "--credentials", file, "--days", "100"]);
  expect(renewed).toMatchObject({ status: 0, stderr: "" });
  expect(renewed.stdout).toContain(`serial ${serialIn(file)}, expires `);
  expect(renewed.stdout).toContain(`kiseki tenant revoke t --serial ${old}`);
  expect(serialIn(file)).not.toBe(old);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  for (const either of [file, stolen]) expect(await list(node, either)).toMatchObject({ status: 0, stdout: "default\n" });
  const fresh = await TestMount.mount(node);
  expect(await runOk("cat", ["a"], { cwd: fresh.path })).toBe("before\n");

  expect(await run(KISEKI, ["tenant", "revoke", "t", "--ca", pki(node), "--serial", "abcdef"])).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^kiseki: serial abcdef is none of tenant t's[^\n]*\n$/),
  });
  await runOk(KISEKI, ["tenant", "revoke", "t", "--ca", pki(node), "--serial", old.toUpperCase()]);
  await until(() => mount.log().includes("the certificate was revoked"));
  // It is cut off, with one errno and no waiting; it can be unmounted; the other one goes on.
  const cut = await run("bash", ["-c", "echo more > b"], { cwd: mount.path });
  expect(cut.stderr).toContain("Input/output error");
  expect((await run(KISEKI, ["umount", mount.path])).status).toBe(0);
  expect(isMounted(mount.path)).toBe(false);
  expect(await list(node, stolen)).toMatchObject({ status: 4, stderr: expect.stringMatching(/^kiseki: [^\n]*revoked[^\n]*\n$/) });
  expect(await list(node, file)).toMatchObject({ status: 0 });
  await runOk("bash", ["-c", "echo more >> a && sync a"], { cwd: fresh.path });
  const lines = (await runOk(KISEKI, ["tenant", "list", "--ca", pki(node)])).trim().split("\n");
  expect(lines.map((line) => [line.includes(old), line.endsWith("revoked")])).toEqual([
    [true, true],
    [false, false],
  ]);
  // It stays so over a restart.
  await node.restart();
  expect(await list(node, stolen)).toMatchObject({ status: 4 });
  await fresh.unmount();
  await node.stop();
});

test("a passphrase is set, changed and removed; the data stays the same", async () => {
  const node = await TestNode.start();
  const file = await node.credentials("t");
  const folder = tempFolder("passphrases-");
  const passphrase = (name: string) => {
    writeFileSync(join(folder, name), `${name} words\n`, { mode: 0o600 });
    return join(folder, name);
  };
  const change = (...args: string[]) => run(KISEKI, ["tenant", "passphrase", file, ...args]);
  const first = await TestMount.mount(node);
  await runOk("bash", ["-c", "echo kept > a && sync a"], { cwd: first.path });
  await first.unmount();
  const read = async (...args: string[]) => {
    const mount = await TestMount.mount(node, { args });
    const text = await runOk("cat", ["a"], { cwd: mount.path });
    await mount.unmount();
    return text;
  };
  expect(await change("--new-passphrase-file", passphrase("one"))).toMatchObject({ status: 0 });
  expect(readFileSync(file, "utf8")).not.toContain('"kek"');
  expect(await read("--passphrase-file", passphrase("one"))).toBe("kept\n");
  expect(await change("--passphrase-file", passphrase("two"), "--new-passphrase-file", passphrase("two"))).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("wrong passphrase"),
  });
  expect(await change("--passphrase-file", passphrase("one"), "--new-passphrase-file", passphrase("two"))).toMatchObject({ status: 0 });
  expect(await read("--passphrase-file", passphrase("two"))).toBe("kept\n");
  // A new certificate needs no passphrase, and keeps the one that there is.
  await runOk(KISEKI, ["tenant", "renew", "t", "--ca", pki(node), "--credentials", file]);
  expect(await read("--passphrase-file", passphrase("two"))).toBe("kept\n");
  expect(await change("--passphrase-file", passphrase("two"), "--remove")).toMatchObject({ status: 0 });
  expect(await read()).toBe("kept\n");
  expect(statSync(file).mode & 0o777).toBe(0o600);
  await node.stop();
});

test("on a terminal the present passphrase is asked for first, and the new one, twice, only when that was right", async () => {
  const node = await TestNode.start();
  const file = await node.credentials("t");
  const old = join(tempFolder("passphrases-"), "old");
  writeFileSync(old, "old words\n", { mode: 0o600 });
  await runOk(KISEKI, ["tenant", "passphrase", file, "--new-passphrase-file", old]);
  // Types each line when it has been asked for it.
  const dialog = `
import os, pty, sys
pid, fd = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:4] + [sys.argv[4]])
shown = b""
def until(question):
    global shown
    while question not in shown: shown += os.read(fd, 4096)
    shown = shown[shown.index(question) + len(question):]
for question, typed in [part.split("=") for part in sys.argv[5:]]:
    until(question.encode()); os.write(fd, typed.encode() + b"\\n")
try:
    while part := os.read(fd, 4096): shown += part
except OSError: pass
print(shown.decode().strip(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`;
  const typing = (...lines: string[]) => runOk("python3", ["-c", dialog, KISEKI, "tenant", "passphrase", file, ...lines]);
  expect(await typing("Passphrase of=wrong words")).toMatch(/^[^\n]*\s*kiseki: [^\n]*wrong passphrase[^\n]* 1\n$/);
  expect(await typing("Passphrase of=old words", "New passphrase:=a", "Once more:=b")).toEndWith("kiseki: the passphrases differ 2\n");
  expect(await typing("Passphrase of=old words", "New passphrase:=new words", "Once more:=new words")).toEndWith(
    "has a new passphrase 0\n",
  );
  expect(await typing("Passphrase of=old words")).toContain("wrong passphrase");
  await node.stop();
});

test("credentials that were put together by hand are refused", async () => {
  const node = await TestNode.start();
  const [t, other] = [await node.credentials("t"), await node.credentials("other")];
  const { cert, key } = JSON.parse(readFileSync(other, "utf8"));
  for (const fields of [{ tenant: "other" }, { cluster: "kiseki-0000000000000000" }, { cert, key }, { cert }, { key }]) {
    const result = await list(node, copyWith(t, fields));
    expect(result.stderr).toMatch(/^kiseki: [^\n]*was changed by hand[^\n]*\n$/);
    expect([result.status, result.stdout]).toEqual([1, ""]);
  }
  await node.stop();
});

test("from 30 days before their end, mount, log and metrics say when credentials expire", async () => {
  const node = await TestNode.start();
  const file = await node.credentials("t");
  const ca = { cert: readFileSync(join(pki(node), "ca.crt"), "utf8"), key: readFileSync(join(pki(node), "ca.key"), "utf8") };
  const cluster = readFileSync(join(pki(node), "cluster"), "utf8").trim();
  const path = tempFolder("expires-");
  const logFile = join(tempFolder("log-"), "mount.log");
  const mount = async (days: number) => {
    const credentials = copyWith(file, await issueTenant(ca, cluster, "t", days));
    return await run(KISEKI, ["mount", path, "--data-addr", node.addr, "--credentials", credentials, "--log-file", logFile]);
  };
  expect(await mount(40)).toMatchObject({ status: 0, stderr: "" });
  const stats = JSON.parse((await runOk(KISEKI, ["cache", "stats", "--json", path])).trim());
  expect((Date.parse(stats.node.credentialsExpire) - Date.now()) / DAY_MS).toBeWithin(39.9, 40.1);
  await runOk(KISEKI, ["umount", path]);
  expect(readFileSync(logFile, "utf8")).not.toContain("expire in");
  expect(await mount(20)).toMatchObject({
    status: 0,
    stderr: expect.stringMatching(
      /^kiseki: warning: the credentials of tenant t expire in 20 days, on [^\n]*kiseki tenant renew t [^\n]*\n$/,
    ),
  });
  expect(readFileSync(logFile, "utf8")).toContain("expire in 20 days");
  await runOk(KISEKI, ["umount", path]);
  await node.stop();
});

test("the node renews its own certificate before its end, also one that was made when the clock was wrong", async () => {
  const node = await TestNode.start();
  await node.credentials("t");
  const folder = pki(node);
  const ca = { cert: readFileSync(join(folder, "ca.crt"), "utf8"), key: readFileSync(join(folder, "ca.key"), "utf8") };
  const cluster = readFileSync(join(folder, "cluster"), "utf8").trim();
  const left = () => (new X509Certificate(readFileSync(join(folder, "node.crt"))).validToDate.getTime() - Date.now()) / DAY_MS;
  await node.stop();
  const place = async (days: number) => {
    const { cert, key } = await issueNode(ca, cluster, "n", ["localhost", "127.0.0.1"], days);
    writeFileSync(join(folder, "node.crt"), cert);
    writeFileSync(join(folder, "node.key"), key);
  };
  await place(10);
  await node.restart();
  expect(left()).toBeGreaterThan(800);
  await node.stop();
  // Begins in two years.
  const { now } = Date;
  Date.now = () => now() + 730 * DAY_MS;
  await place(825);
  Date.now = now;
  expect(left()).toBeGreaterThan(1_500);
  await node.restart();
  expect(left()).toBeWithin(800, 830);
  expect(await list(node, await node.credentials("t"))).toMatchObject({ status: 0, stdout: "default\n" });
  await node.stop();
});
