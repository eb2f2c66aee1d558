/** sqlite3 on a mount: rollback journals, locks between processes, a killed writer, and the same rows after mounting elsewhere. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cleanEnvironment, cleanUp, run, runOk, TestMount, TestNode } from "./support/harness.ts";

setDefaultTimeout(120_000);

const TRANSACTIONS = 300;
const BLOB_BYTES = 3_000_000;
const BUSY_MS = 30_000;

let node: TestNode;
let mount: TestMount;

beforeAll(async () => {
  node = await TestNode.start();
  mount = await TestMount.mount(node);
});
afterAll(cleanUp);

const sql = (database: string, script: string) => runOk("sqlite3", ["-batch", "-bail", join(mount.path, database)], { stdin: script });

async function mountElsewhere(): Promise<void> {
  await mount.unmount();
  mount = await TestMount.mount(node);
}

/** Many small transactions, one large, updates, deletes, a rollback, an index. */
function workload(journal: string): string {
  const lines = [
    `PRAGMA journal_mode=${journal};`,
    "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, s TEXT, b BLOB);",
    "CREATE INDEX i ON t(n, s);",
  ];
  for (let i = 1; i <= TRANSACTIONS; i++) {
    lines.push(
      `BEGIN; INSERT INTO t(id, n, s) VALUES(${i}, ${(i * 7919) % 1000}, 'row ${i}'); UPDATE t SET n = n + 1 WHERE id % 10 = ${i % 10}; COMMIT;`,
    );
    if (i % 50 === 0) lines.push(`BEGIN; DELETE FROM t; ROLLBACK; DELETE FROM t WHERE id = ${i - 1};`);
  }
  lines.push(`INSERT INTO t(n, b) VALUES(-1, zeroblob(${BLOB_BYTES}));`);
  lines.push(
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) INSERT INTO t(n, s) SELECT x, 'many ' || x FROM c;",
  );
  lines.push("DELETE FROM t WHERE n % 3 = 0;");
  return lines.join("\n");
}

const SUMMARY =
  "PRAGMA integrity_check; SELECT count(*), sum(n), total(length(s)), total(length(b)) FROM t; SELECT count(*) FROM t INDEXED BY i WHERE n > 5;";

for (const journal of ["DELETE", "TRUNCATE", "PERSIST"]) {
  test(`journal_mode=${journal}: many transactions, the same rows as in memory, also after mounting elsewhere and VACUUM`, async () => {
    const expected = await runOk("sqlite3", ["-batch", "-bail", ":memory:"], { stdin: `${workload("MEMORY")}\n${SUMMARY}` });
    const rows = expected.replace(/^memory\n/, "");
    expect(rows).toMatch(/^ok\n/);
    const database = `${journal}.db`;
    expect(await sql(database, workload(journal))).toBe(`${journal.toLowerCase()}\n`);
    expect(await sql(database, SUMMARY)).toBe(rows);
    await mountElsewhere();
    expect(await sql(database, SUMMARY)).toBe(rows);
    await sql(database, "VACUUM;");
    expect(await sql(database, SUMMARY)).toBe(rows);
  });
}

test("processes that write to one database at the same time wait for each other's locks", async () => {
  await sql("shared.db", "CREATE TABLE t(who INT, n INT);");
  const writer = (who: number) => {
    const lines = [`.timeout ${BUSY_MS}`];
    for (let i = 0; i < 40; i++) lines.push(`BEGIN IMMEDIATE; INSERT INTO t VALUES(${who}, (SELECT count(*) FROM t)); COMMIT;`);
    return sql("shared.db", lines.join("\n"));
  };
  await Promise.all([writer(1), writer(2), writer(3)]);
  // Had one not seen another's row, a number would be there twice.
  expect(await sql("shared.db", "PRAGMA integrity_check; SELECT count(*), count(DISTINCT n), max(n) FROM t;")).toBe("ok\n120|120|119\n");
});

test("a program that is killed within a transaction: the next one rolls it back", async () => {
  await sql("killed.db", "PRAGMA journal_mode=DELETE; CREATE TABLE t(a); INSERT INTO t VALUES('kept');");
  const child = Bun.spawn(["sqlite3", "-batch", join(mount.path, "killed.db")], { stdin: "pipe", stdout: "pipe", env: cleanEnvironment() });
  // A small cache spills changed pages into the database itself before the commit.
  child.stdin.write(
    "PRAGMA cache_size=5; BEGIN; WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<20000) INSERT INTO t SELECT 'lost' || x FROM c; UPDATE t SET a = 'lost'; SELECT 'done';\n",
  );
  await child.stdin.flush();
  const reader = child.stdout.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toContain("done");
  child.kill("SIGKILL");
  await child.exited;
  expect((await run("stat", [join(mount.path, "killed.db-journal")])).status).toBe(0);
  expect(await sql("killed.db", "PRAGMA integrity_check; SELECT a FROM t;")).toBe("ok\nkept\n");
  expect((await run("stat", [join(mount.path, "killed.db-journal")])).status).toBe(1);
});

test("a write-ahead log works for one process, which needs no shared mapping; else sqlite3 says that it can't", async () => {
  const script =
    "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1); SELECT count(*) FROM t;";
  expect(await sql("wal.db", script)).toBe("exclusive\nwal\n1\n");
  await sql("wal.db", "PRAGMA locking_mode=EXCLUSIVE; SELECT * FROM t; PRAGMA journal_mode=DELETE;");
  expect(await sql("wal.db", "PRAGMA integrity_check; SELECT a FROM t;")).toBe("ok\n1\n");
});
