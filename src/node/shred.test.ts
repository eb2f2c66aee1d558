/** Crypto-shred on the node: no key comes back, in whatever moment the process or the disk ends. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT_INO } from "../protocol/limits.ts";
import { NodeDatabase } from "./node-database.ts";
import { TestNode } from "./test-node.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-shred-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const wrappedKey = () => crypto.getRandomValues(new Uint8Array(48));

/** Whether any file under `path` holds these bytes. */
function isInFiles(path: string, bytes: Uint8Array): boolean {
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .map((name) => join(path, name))
    .some((file) => statSync(file).isFile() && readFileSync(file).includes(bytes));
}

/** A database with the keys of `t` in every place where SQLite may keep some of them, and those of others. */
function fill(path: string): { keys: Uint8Array[]; database: NodeDatabase } {
  const database = new NodeDatabase(path);
  const keys = Array.from({ length: 60 }, wrappedKey);
  keys.forEach((key, i) => {
    database.addKey("t", i + 1, key);
    database.addKey(`other-${i % 7}`, i + 1, wrappedKey());
    database.addSession(crypto.getRandomValues(new Uint8Array(16)), "t");
  });
  return { keys, database };
}

test("after a shred the tenant's key bytes are in no file, and other tenants' keys are unharmed", () => {
  const path = join(folder, "node.db");
  const { keys, database } = fill(path);
  const others = database.keys("other-3");
  expect(keys.every((key) => isInFiles(folder, key))).toBeTrue();
  expect(database.shred("t")).toBe(60);
  expect(keys.filter((key) => isInFiles(folder, key))).toEqual([]);
  expect(database.isShredded("t")).toBeTrue();
  expect(database.keys("t")).toEqual([]);
  expect(database.keys("other-3")).toEqual(others);
  database.close();
  const again = new NodeDatabase(path);
  expect([...again.shreddedTenants]).toEqual(["t"]);
  expect(again.keys("other-3")).toEqual(others);
  again.close();
});

test("a process that dies once the keys count as destroyed: the next one overwrites what is left of them", () => {
  const { keys, database } = fill(join(folder, "node.db"));
  database.close();
  // As a crash leaves it that comes right after the transaction: nothing is overwritten yet, the log is whole.
  const db = new Database(join(folder, "node.db"));
  db.run("PRAGMA journal_mode=WAL");
  db.run("PRAGMA wal_autocheckpoint=0");
  db.run("INSERT INTO shredded VALUES('t', 0)");
  db.run("DELETE FROM keys WHERE tenant = 't'");
  const crashed = join(folder, "crashed");
  for (const name of ["node.db", "node.db-wal"]) cpSync(join(folder, name), join(crashed, name));
  db.close();
  expect(keys.some((key) => isInFiles(crashed, key))).toBeTrue();
  const next = new NodeDatabase(join(crashed, "node.db"));
  expect(next.isShredded("t")).toBeTrue();
  expect(keys.filter((key) => isInFiles(crashed, key))).toEqual([]);
  next.close();
});

test("kill -9 at any moment of a shred leaves all keys or none", async () => {
  const path = join(folder, "node.db");
  const { keys, database } = fill(path);
  database.close();
  const script = `const { NodeDatabase } = await import(${JSON.stringify(join(import.meta.dir, "./node-database.ts"))});
    const database = new NodeDatabase(process.argv[1]); process.stdout.write("ready"); database.shred("t"); process.stdout.write("done"); await Bun.sleep(60_000);`;
  const ends = { whole: 0, shredded: 0 };
  for (let i = 0; i < 16; i++) {
    const copy = join(folder, `run-${i}`);
    cpSync(path, join(copy, "node.db"));
    const child = Bun.spawn([process.execPath, "-e", script, join(copy, "node.db")], { stdout: "pipe", stderr: "inherit" });
    const output = child.stdout.getReader();
    await output.read();
    // A shred takes some milliseconds.
    if (i > 0) await Bun.sleep(i);
    child.kill("SIGKILL");
    await child.exited;
    const next = new NodeDatabase(join(copy, "node.db"));
    const left = next.keys("t").length;
    if (next.isShredded("t")) {
      ends.shredded++;
      expect(left).toBe(0);
      expect(keys.filter((key) => isInFiles(copy, key))).toEqual([]);
    } else {
      ends.whole++;
      expect(left).toBe(keys.length);
    }
    next.close();
  }
  expect(ends.shredded).toBeGreaterThan(0);
}, 60_000);

test("a shredded tenant is refused everything, on connections old and new, also by a node that was started again", async () => {
  const node = await TestNode.start();
  try {
    const key = wrappedKey();
    const old = await node.client("t");
    const admin = await node.client("t");
    const other = await node.client("other");
    await old.call("keyPut", { epoch: 1, wrapped: key });
    await other.call("keyPut", { epoch: 1, wrapped: key });
    await old.call("inode", { ns: "default", ino: ROOT_INO, want: { lease: true, region0MaxBytes: 0 } });
    expect((await admin.call("keyShred", {})).answer).toEqual({ keys: 1 });
    const refused = async () => {
      await expect(old.call("keyList", {})).rejects.toMatchObject({ code: "key_revoked" });
      await expect(old.call("keyPut", { epoch: 1, wrapped: key })).rejects.toMatchObject({ code: "key_revoked" });
      await expect(old.call("keyShred", {})).rejects.toMatchObject({ code: "key_revoked" });
      await expect(old.call("namespaceList", {})).rejects.toMatchObject({ code: "key_revoked" });
      await expect(node.client("t")).rejects.toMatchObject({ code: "key_revoked" });
      expect((await other.call("keyList", {})).answer.keys).toHaveLength(1);
    };
    await refused();
    await node.restart();
    await refused();
    const data = join(node.dataDir, "tenants");
    for (let i = 0; i < 500 && existsSync(join(data, "t")); i++) await Bun.sleep(10);
    expect(readdirSync(data)).toEqual(["other"]);
  } finally {
    await node.stop();
  }
});
