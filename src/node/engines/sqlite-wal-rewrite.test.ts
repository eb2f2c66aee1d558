import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { rewriteWal } from "./sqlite-wal-rewrite.ts";

let folder: string;
let wal: string;
let db: Database;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-wal-"));
  wal = join(folder, "db-wal");
  db = new Database(join(folder, "db"));
  db.run("PRAGMA journal_mode=WAL");
  db.run("CREATE TABLE t(value BLOB)");
  for (let i = 0; i < 5; i++) db.run("INSERT INTO t VALUES(randomblob(5000))");
});
afterEach(() => {
  db.close();
  rmSync(folder, { recursive: true });
});

function frames(): number {
  using count = db.prepare<{ log: number }, []>("PRAGMA wal_checkpoint(NOOP)");
  return count.get()?.log ?? 0;
}

function rewrite(count: number): void {
  const fd = openSync(wal, "r+");
  try {
    rewriteWal(fd, count);
  } finally {
    closeSync(fd);
  }
}

test("a WAL that is whole stays as it is", () => {
  const before = readFileSync(wal);
  expect(frames()).toBeGreaterThan(5);
  rewrite(frames());
  expect(readFileSync(wal).equals(before)).toBeTrue();
  rewrite(0);
});

test("one of which something is missing is damaged, wherever it is", () => {
  const before = readFileSync(wal);
  const damaged = expect.objectContaining({ code: "damaged" });
  for (const at of [0, 10, 20, 40, 60, 5_000, before.length - 1]) {
    const changed = Buffer.from(before);
    changed[at] = (changed[at] ?? 0) ^ 1;
    writeFileSync(wal, changed);
    expect(() => rewrite(frames())).toThrow(damaged);
  }
  writeFileSync(wal, before);
  expect(() => rewrite(frames() + 1)).toThrow(damaged);
});
