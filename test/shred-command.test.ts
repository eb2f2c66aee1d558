/** kiseki tenant shred, as an operator or the tenant itself uses it: what it says, its exit statuses, and what is left of the keys. */
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { kiseki, mountpoint } from "./support/cli.ts";
import { cleanUp, KISEKI, runOk, TestMount, TestNode, tempFolder } from "./support/harness.ts";

setDefaultTimeout(60_000);
afterAll(cleanUp);

let node: TestNode;
let pki: string;
beforeAll(async () => {
  node = await TestNode.start();
  pki = join(node.dataDir, "pki");
});

const shred = (name: string, ...more: string[]) => kiseki(["tenant", "shred", name, "--data-addr", node.addr, ...more]);

/** A tenant with a file on the node. */
async function tenantWithFile(tenant: string): Promise<string> {
  const mount = await TestMount.mount(node, { tenant });
  await runOk("cp", ["/etc/services", join(mount.path, "f")]);
  await mount.unmount();
  return await node.credentials(tenant);
}

/** The files under a folder, which may change meanwhile, that hold these bytes. */
function filesWith(folder: string, bytes: Uint8Array): string[] {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => join(folder, name));
  return files.filter((file) => {
    try {
      return statSync(file).isFile() && readFileSync(file).includes(bytes);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
      throw error;
    }
  });
}

async function mounting(tenant: string, credentials: string): Promise<{ status: number; stderr: string }> {
  return await kiseki(["mount", mountpoint(), "--data-addr", node.addr, "--tenant", tenant, "--credentials", credentials]);
}

test("with the CA: the name has to be typed or --yes given; then nothing opens the tenant any more, and its name is not given again", async () => {
  const credentials = await tenantWithFile("acme");
  const copy = join(tempFolder("copy-"), "stolen.json");
  copyFileSync(credentials, copy);
  expect(await shred("acme", "--ca", pki)).toMatchObject({ status: 2, stderr: expect.stringContaining("use --yes") });
  expect(await shred("nobody", "--ca", pki, "--yes")).toMatchObject({ status: 1, stderr: expect.stringContaining("no tenant nobody") });
  expect(await shred("acme", "--yes")).toMatchObject({ status: 2, stderr: expect.stringContaining("--ca") });
  expect(await mounting("acme", credentials)).toMatchObject({ status: 0 });

  const done = await shred("acme", "--ca", pki, "--yes");
  expect(done).toMatchObject({ status: 0, stderr: "" });
  expect(done.stdout).toBe("kiseki: tenant acme is shredded: its key is destroyed, and nobody can open its data any more\n");
  const again = await shred("acme", "--ca", pki, "--yes");
  expect(again).toMatchObject({ status: 0, stdout: expect.stringContaining("was shredded before") });

  for (const restart of [false, true]) {
    if (restart) await node.restart("SIGKILL");
    for (const file of [credentials, copy]) {
      const { status, stderr } = await mounting("acme", file);
      expect(status).toBe(4);
      expect(stderr).toBe("kiseki: tenant acme was shredded: its keys are destroyed\n");
    }
  }
  const create = await kiseki(["tenant", "create", "acme", "--ca", pki, "--out", join(tempFolder("new-"), "acme.json")]);
  expect(create).toMatchObject({ status: 1, stderr: expect.stringContaining("acme was shredded, and its name is not given again") });
  expect(await runOk(KISEKI, ["tenant", "list", "--ca", pki])).toMatch(/^acme\t.*\tshredded \d{4}-/m);
});

test("with the tenant's own credentials, without the passphrase of its KEK; with another tenant's it is refused", async () => {
  const passphrase = join(tempFolder("passphrase-"), "p");
  await Bun.write(passphrase, "a passphrase\n");
  await runOk("chmod", ["600", passphrase]);
  const sealed = join(tempFolder("sealed-"), "sealed.json");
  await runOk(KISEKI, [..."tenant create sealed --ca".split(" "), ...[pki, "--out", sealed, "--passphrase-file", passphrase]]);
  const other = await tenantWithFile("other");
  expect(await shred("sealed", "--credentials", other, "--yes")).toMatchObject({
    status: 4,
    stderr: expect.stringContaining("not of sealed"),
  });
  expect(await shred("sealed", "--credentials", sealed, "--yes")).toMatchObject({
    status: 0,
    stdout: expect.stringContaining("is shredded"),
  });
  expect(await mounting("other", other)).toMatchObject({ status: 0 });
});

test("the wrapped keys are in no file of the node's data folder afterwards, running or stopped", async () => {
  await tenantWithFile("gone");
  await node.stop();
  const database = new Database(join(node.dataDir, "node.db"));
  const row = database.query<{ wrapped: Uint8Array }, []>("SELECT wrapped FROM keys WHERE tenant = 'gone'").get();
  database.close();
  const key = row?.wrapped ?? new Uint8Array(1);
  expect(key.length).toBe(48);
  const holders = () => filesWith(node.dataDir, key);
  await node.restart();
  expect(holders()).not.toEqual([]);
  expect(await shred("gone", "--ca", pki, "--yes")).toMatchObject({ status: 0 });
  expect(holders()).toEqual([]);
  await node.stop();
  expect(holders()).toEqual([]);
  await node.restart();
  expect(holders()).toEqual([]);
});

test("no node: exit status 3, and nothing is destroyed", async () => {
  const credentials = await tenantWithFile("later");
  await node.stop();
  const { status, stderr } = await shred("later", "--ca", pki, "--yes");
  expect(status).toBe(3);
  expect(stderr).toMatch(/^kiseki: .*is the storage node running/);
  await node.restart();
  expect(await mounting("later", credentials)).toMatchObject({ status: 0 });
});
