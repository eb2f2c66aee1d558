/** serve, tenant and namespace as a user runs them: their output, messages and exit statuses. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MAIN = join(import.meta.dir, "../../main.ts");
const folder = mkdtempSync(join(tmpdir(), "kiseki-cli-"));
const dataDir = join(folder, "data");
const pki = join(dataDir, "pki");
const credentials = join(folder, "acme.json");
let node: ReturnType<typeof Bun.spawn>;
let address: string;

async function kiseki(...args: string[]): Promise<{ exitCode: number; out: string; err: string }> {
  const child = Bun.spawn([process.execPath, MAIN, ...args], { stdout: "pipe", stderr: "pipe", env: { PATH: process.env.PATH ?? "" } });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { exitCode: await child.exited, out, err };
}
const namespace = (...args: string[]) => kiseki("namespace", ...args, "--data-addr", address, "--credentials", credentials);

beforeAll(async () => {
  node = Bun.spawn([process.execPath, MAIN, "serve", "--data-dir", dataDir, "--listen", "127.0.0.1:0", "--log-level", "error"], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = (node.stdout as ReadableStream<Uint8Array>).getReader();
  const line = new TextDecoder().decode((await reader.read()).value);
  address = /^kiseki: serving on (127\.0\.0\.1:\d+), data in /.exec(line)?.[1] ?? line;
});
afterAll(async () => {
  node.kill("SIGTERM");
  await node.exited;
  rmSync(folder, { recursive: true });
});

test("serve says where it listens, on standard output and in DIR/listen", () => {
  expect(readFileSync(join(dataDir, "listen"), "utf8")).toBe(`${address}\n`);
});

describe("serve refuses, in one line", () => {
  test("an address in use", async () => {
    const { exitCode, err } = await kiseki("serve", "--data-dir", join(folder, "second"), "--listen", address);
    expect([exitCode, err]).toEqual([1, `kiseki: ${address}: another program listens there; give another --listen\n`]);
  });
  test("a folder that holds something else", async () => {
    const { exitCode, err } = await kiseki("serve", "--data-dir", folder, "--listen", "127.0.0.1:0");
    expect([exitCode, err]).toEqual([1, `kiseki: ${folder}: holds files that are not kiseki's; give an empty or a new folder\n`]);
  });
  test.each([
    ["--listen", "nowhere:99999"],
    ["--gc-grace", "soon"],
    ["--log-level", "loud"],
  ])("%s %s", async (option, value) => {
    const { exitCode, err } = await kiseki("serve", "--data-dir", join(folder, "third"), option, value);
    expect(exitCode).toBe(2);
    expect(err).toMatch(new RegExp(`^kiseki: .*${option}.*\\n$`));
    expect(existsSync(join(folder, "third"))).toBeFalse();
  });
  test("to verify what is no data folder, or one that is in use", async () => {
    expect(await kiseki("serve", "--data-dir", join(folder, "none"), "--verify")).toMatchObject({
      exitCode: 1,
      err: expect.stringContaining("not a storage node"),
    });
    expect(await kiseki("serve", "--data-dir", dataDir, "--verify")).toMatchObject({
      exitCode: 1,
      err: expect.stringContaining("in use by another"),
    });
  });
});

describe("tenant", () => {
  test("create makes credentials for the owner's eyes, once; list shows them", async () => {
    expect(await kiseki("tenant", "create", "acme", "--ca", pki, "--out", credentials)).toMatchObject({ exitCode: 0, err: "" });
    expect(statSync(credentials).mode & 0o777).toBe(0o600);
    const list = await kiseki("tenant", "list", "--ca", pki);
    expect([list.exitCode, list.out]).toEqual([0, expect.stringMatching(/^acme\t/)]);
    const again = await kiseki("tenant", "create", "acme", "--ca", pki, "--out", join(folder, "again.json"));
    expect(again).toMatchObject({ exitCode: 1, err: expect.stringContaining("acme exists already") });
    expect(existsSync(join(folder, "again.json"))).toBeFalse();
    const over = await kiseki("tenant", "create", "other", "--ca", pki, "--out", credentials);
    expect(over).toMatchObject({ exitCode: 1, err: expect.stringContaining("exists already") });
  });

  test("create takes a passphrase from a file", async () => {
    const file = join(folder, "passphrase");
    writeFileSync(file, "correct horse\n", { mode: 0o600 });
    const sealed = join(folder, "sealed.json");
    expect((await kiseki("tenant", "create", "sealed", "--ca", pki, "--out", sealed, "--passphrase-file", file)).exitCode).toBe(0);
    expect(readFileSync(sealed, "utf8")).toContain("sealedKek");
    const listed = await kiseki("namespace", "list", "--data-addr", address, "--credentials", sealed, "--passphrase-file", file);
    expect(listed).toEqual({ exitCode: 0, out: "default\n", err: "" });
  });

  test.each([
    [["create", "Bad Name", "--ca", pki, "--out", join(folder, "x.json")], 1, "not a tenant name"],
    [["create", "x", "--ca", pki, "--out", join(folder, "x.json"), "--days", "0"], 2, "--days"],
    [["create", "x", "--ca", join(folder, "none"), "--out", join(folder, "x.json")], 1, "no such file"],
    [["list", "--ca", join(folder, "none")], 1, "no such file"],
    [["create", "x", "--ca", pki], 2, "--out"],
  ] as const)("%p fails", async (args, status, message) => {
    const { exitCode, err } = await kiseki("tenant", ...args);
    expect([exitCode, err.split("\n").length]).toEqual([status, 2]);
    expect(err).toContain(message);
    expect(existsSync(join(folder, "x.json"))).toBeFalse();
  });
});

describe("namespace", () => {
  test("create, list, delete", async () => {
    expect(await namespace("list")).toEqual({ exitCode: 0, out: "default\n", err: "" });
    expect(await namespace("create", "data")).toEqual({ exitCode: 0, out: "", err: "" });
    expect((await namespace("list")).out).toBe("data\ndefault\n");
    expect(await namespace("create", "data")).toMatchObject({ exitCode: 1, err: "kiseki: namespace data exists\n" });
    expect(await namespace("delete", "data")).toEqual({ exitCode: 0, out: "", err: "" });
    expect((await namespace("delete", "data")).exitCode).toBe(1);
    expect((await namespace("create", "../data")).exitCode).toBe(2);
  });

  test("a node that is not there, and credentials of another cluster", async () => {
    expect((await kiseki("namespace", "list", "--data-addr", "127.0.0.1:1", "--credentials", credentials)).exitCode).toBe(3);
    expect((await kiseki("namespace", "list", "--data-addr", address)).exitCode).toBe(2);
    const elsewhere = join(folder, "elsewhere");
    const other = Bun.spawn([process.execPath, MAIN, "serve", "--data-dir", elsewhere, "--listen", "127.0.0.1:0"], { stderr: "ignore" });
    while (!existsSync(join(elsewhere, "listen"))) await Bun.sleep(20);
    const foreign = join(folder, "foreign.json");
    await kiseki("tenant", "create", "acme", "--ca", join(elsewhere, "pki"), "--out", foreign);
    const result = await kiseki("namespace", "list", "--data-addr", address, "--credentials", foreign);
    other.kill("SIGTERM");
    await other.exited;
    expect(result.exitCode).toBe(4);
  });
});
