import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { issueTenant, makeCa } from "../pki/certificates.ts";
import { CredentialsError, changePassphrase, makeCredentials, readCredentialsFile, writeCredentialsFile } from "./credentials.ts";

const cluster = "c1.example";
const ca = await makeCa(cluster);
const identityOf = async (tenant: string) => ({ cluster, tenant, ca: ca.cert, ...(await issueTenant(ca, cluster, tenant, 10)) });
const identity = await identityOf("acme");
const neverAsked = () => Promise.reject(new Error("asked for a passphrase"));

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-credentials-"));
  path = join(folder, "acme.json");
});
afterEach(() => rmSync(folder, { recursive: true }));

async function failure(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(CredentialsError);
  const message = (error as Error).message;
  expect(message).not.toContain("\n");
  return message;
}

describe("without a passphrase", () => {
  test("is written 0600 and read back", async () => {
    const file = await makeCredentials(identity);
    await writeCredentialsFile(path, file);
    expect(statSync(path).mode & 0o7777).toBe(0o600);
    const read = await readCredentialsFile(path, neverAsked);
    expect(read).toMatchObject(identity);
    expect(Buffer.from(read.kek).toString("base64")).toBe(file.kek ?? "");
    expect(read.kek.length).toBe(32);
  });

  test("each tenant gets its own KEK", async () => {
    expect((await makeCredentials(identity)).kek).not.toBe((await makeCredentials(identity)).kek);
  });

  test("never replaces a file", async () => {
    writeFileSync(path, "precious");
    expect(await failure(writeCredentialsFile(path, await makeCredentials(identity)))).toContain("exists already");
    expect(readFileSync(path, "utf8")).toBe("precious");
  });
});

describe("with a passphrase", () => {
  test("opens with it, not with another, and holds no KEK in clear", async () => {
    await writeCredentialsFile(path, await makeCredentials(identity, "correct horse"));
    expect(JSON.parse(readFileSync(path, "utf8")).kek).toBeUndefined();
    const read = await readCredentialsFile(path, async () => "correct horse");
    expect(read.kek.length).toBe(32);
    expect(await failure(readCredentialsFile(path, async () => "battery staple"))).toContain("wrong passphrase");
  });

  test("a KEK moved into another tenant's file does not open", async () => {
    const file = await makeCredentials(identity, "p");
    await writeCredentialsFile(path, { ...file, ...(await identityOf("other")) });
    expect(await failure(readCredentialsFile(path, async () => "p"))).toContain("wrong passphrase");
  });

  test("an empty one is refused", async () => {
    await expect(makeCredentials(identity, "")).rejects.toThrow(RangeError);
    await writeCredentialsFile(path, await makeCredentials(identity));
    await expect(changePassphrase(path, neverAsked, () => "")).rejects.toThrow(RangeError);
    expect((await readCredentialsFile(path, neverAsked)).kek.length).toBe(32);
  });

  test("the new one is asked for when the present one was right, and not before", async () => {
    await writeCredentialsFile(path, await makeCredentials(identity, "present"));
    expect(await failure(changePassphrase(path, async () => "wrong", neverAsked))).toContain("wrong passphrase");
    await changePassphrase(
      path,
      async () => "present",
      () => "new",
    );
    expect((await readCredentialsFile(path, async () => "new")).kek.length).toBe(32);
  });
});

describe("refuses", () => {
  test.each([0o640, 0o604, 0o620, 0o610, 0o644, 0o666])("mode %p, and names the remedy", async (mode) => {
    await writeCredentialsFile(path, await makeCredentials(identity));
    chmodSync(path, mode);
    expect(await failure(readCredentialsFile(path, neverAsked))).toEndWith(`chmod 600 ${path}`);
  });

  test("a missing file", async () => {
    expect(await failure(readCredentialsFile(path, neverAsked))).toContain("no such file");
  });

  test("a folder", async () => {
    chmodSync(folder, 0o700);
    expect(await failure(readCredentialsFile(folder, neverAsked))).toContain("not a regular file");
  });

  test("what is not JSON, without quoting it", async () => {
    writeFileSync(path, "secret-looking text", { mode: 0o600 });
    expect(await failure(readCredentialsFile(path, neverAsked))).not.toContain("secret");
  });

  const bad: [string, (file: Record<string, unknown>) => void, string][] = [
    ["an unknown version", (f) => (f.version = 2), "version"],
    ["a short KEK", (f) => (f.kek = "AAAA"), "kek"],
    ["no KEK", (f) => delete f.kek, "either kek or sealedKek"],
    ["a tenant name that isn't one", (f) => (f.tenant = "../up"), "tenant"],
    ["a key that isn't PEM", (f) => (f.key = "zzz"), "key"],
    ["an unknown field", (f) => (f.extra = 1), "extra"],
  ];
  test.each(bad)("%s", async (_what, change, named) => {
    const file: Record<string, unknown> = { ...(await makeCredentials(identity)) };
    change(file);
    writeFileSync(path, JSON.stringify(file), { mode: 0o600 });
    expect(await failure(readCredentialsFile(path, neverAsked))).toContain(named);
  });
});
