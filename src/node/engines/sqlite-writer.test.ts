/** What a shard keeps when its process ends, its disk fails or SQLite refuses: everything that was answered, and nothing else. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Delta } from "../../protocol/messages.ts";
import { inodeKey, regionKey } from "../../protocol/record-keys.ts";
import type { CommitOutcome } from "./engine.ts";
import { SqliteShard } from "./sqlite-shard.ts";
import { ShardWriter } from "./sqlite-writer.ts";

const SESSION = new Uint8Array(16).fill(1);
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiseki-writer-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

function chunk(n: number): Uint8Array {
  return new Uint8Array(32).fill(n & 0xff);
}
function makeDelta(id: number, valueBytes: number): Delta {
  return {
    id,
    answeredBelow: Math.max(0, id - 50),
    checks: [{ kind: "absent", key: inodeKey(10 + id) }],
    puts: [
      { key: inodeKey(10 + id), link: 0, chunks: [], value: new Uint8Array(valueBytes).fill(id & 0xff) },
      // Takes the place of the one before: chunk references go up and down.
      { key: regionKey(5, id % 7), link: 0, chunks: [chunk(id), chunk(id + 1)], value: new Uint8Array(10) },
    ],
    deletes: [],
    deletePrefixes: [],
    bumps: [{ ino: 1, links: 0, entries: 1, mtimeSec: id, mtimeNsec: 0 }],
    leases: [],
    durable: id % 50 === 0,
  };
}

/** Opens a copy of the folder as it is now, which is what a process finds that starts after kill -9. */
async function reopened(check: (shard: SqliteShard) => Promise<void>): Promise<void> {
  const copy = mkdtempSync(join(tmpdir(), "kiseki-copy-"));
  try {
    for (const name of readdirSync(folder)) cpSync(join(folder, name), join(copy, name));
    const shard = new SqliteShard(join(copy, "shard.db"));
    await check(shard);
    const damages: string[] = [];
    for await (const line of shard.verify(() => {})) damages.push(line);
    expect(damages).toEqual([]);
    await shard.close();
  } finally {
    rmSync(copy, { recursive: true });
  }
}

function counted(shard: SqliteShard): number {
  return shard.list(1, new Uint8Array(0), 1, 1_000, null).counters.bumps;
}

test("whenever the process ends: what was answered is there once, over commits and turns of the journal", async () => {
  const shard = new SqliteShard(join(folder, "shard.db"));
  const answered = new Map<number, number>();
  let id = 0;
  const files = new Set<string>();
  for (let round = 0; round < 25; round++) {
    // Some 1.5 MiB a round: the journal's files take turns every third.
    const batch = Array.from({ length: 60 }, () => {
      const delta = makeDelta(++id, 25_000);
      return shard.commit({ session: SESSION, delta }).then((outcome) => {
        if (outcome.ok) answered.set(delta.id, outcome.seq);
      });
    });
    await Promise.all(batch.slice(0, 1 + (round % 60)));
    // The others of the batch are applied, or on their way.
    await reopened(async (copy) => {
      for (const name of readdirSync(folder)) files.add(name);
      for (const [each, seq] of answered) {
        expect(copy.get([inodeKey(10 + each)])?.[0]).toMatchObject({ version: seq, value: { length: 25_000 } });
      }
      expect(counted(copy)).toBe(copy.usage().inodes);
      expect(copy.usage().inodes).toBeGreaterThanOrEqual(answered.size);
      // Sent again by its client, a delta that was applied is not applied again.
      const last = makeDelta([...answered.keys()].at(-1) ?? 0, 25_000);
      expect(await copy.commit({ session: SESSION, delta: last })).toMatchObject({ ok: true, replayed: true });
      const fresh = await copy.commit({ session: SESSION, delta: makeDelta(100_000, 10) });
      expect(fresh.ok && fresh.seq > Math.max(...answered.values())).toBeTrue();
    });
    await Promise.all(batch);
    if (round % 10 === 9) await Bun.sleep(120);
  }
  expect([...files].filter((name) => name.includes("journal")).length).toBe(2);
  await shard.close();
}, 60_000);

/** Makes a prepared statement fail from its `nth` run on, until the result is called. */
function breakStatement(statement: { run(...args: never[]): unknown }, nth: number, code = "SQLITE_IOERR_WRITE"): () => void {
  const working = statement.run;
  let runs = 0;
  statement.run = (...args: never[]) => {
    if (++runs >= nth) throw Object.assign(new Error("disk I/O error"), { code });
    return working.apply(statement, args);
  };
  return () => {
    statement.run = working;
  };
}

function apply(writer: ShardWriter, ...ids: number[]): CommitOutcome[] {
  writer.makeRoom(100_000);
  return writer.apply(ids.map((id) => ({ session: SESSION, delta: makeDelta(id, 100) }))).filter((result) => "ok" in result);
}
function present(writer: ShardWriter): number[] {
  writer.checkReadable();
  return Array.from({ length: 20 }, (_, i) => i + 1).filter((id) => writer.sql.version.get(inodeKey(10 + id)) !== null);
}

test("a failure in the middle of a turn takes that turn's deltas, and no others", async () => {
  const writer = new ShardWriter(join(folder, "shard.db"));
  apply(writer, 1, 2);
  const mend = breakStatement(writer.sql.put, 4);
  expect(() => apply(writer, 3, 4)).toThrow("disk I/O error");
  mend();
  expect(present(writer)).toEqual([1, 2]);
  expect(writer.usage.inodes).toBe(2);
  const [third] = apply(writer, 3);
  expect(third).toMatchObject({ ok: true, replayed: false, counters: [{ entries: 3, bumps: 3 }] });
  await reopened(async (copy) => {
    expect(copy.usage().inodes).toBe(3);
    expect(counted(copy)).toBe(3);
  });
  await writer.close();
});

test("while nothing can be rebuilt nobody reads a lie, and afterwards everything is there", async () => {
  const writer = new ShardWriter(join(folder, "shard.db"));
  apply(writer, 1, 2);
  const mend = breakStatement(writer.sql.put, 1);
  expect(() => apply(writer, 3)).toThrow("disk I/O error");
  expect(() => writer.checkReadable()).toThrow(expect.objectContaining({ code: "io" }));
  expect(() => writer.makeRoom(100)).toThrow(expect.objectContaining({ code: "io" }));
  mend();
  expect(present(writer)).toEqual([1, 2]);
  apply(writer, 3);
  expect(present(writer)).toEqual([1, 2, 3]);
  await writer.close();
});

test("a database commit that fails loses nothing, in this process or the next", async () => {
  const writer = new ShardWriter(join(folder, "shard.db"));
  apply(writer, 1, 2);
  const mend = breakStatement(writer.sql.commit, 1, "SQLITE_FULL");
  await Bun.sleep(150);
  expect(present(writer)).toEqual([1, 2]);
  apply(writer, 3);
  expect(await writer.sync()).toBe(writer.lastSeq);
  await reopened(async (copy) => expect(copy.usage().inodes).toBe(3));
  expect(writer.runDurably(() => {})).rejects.toMatchObject({ code: "no_space" });
  expect(present(writer)).toEqual([1, 2, 3]);
  mend();
  apply(writer, 4);
  await writer.close();
  const next = new ShardWriter(join(folder, "shard.db"));
  expect(present(next)).toEqual([1, 2, 3, 4]);
  expect(next.usage.inodes).toBe(4);
  await next.close();
});

test("a close that cannot commit leaves it to the next start", async () => {
  const writer = new ShardWriter(join(folder, "shard.db"));
  apply(writer, 1, 2);
  breakStatement(writer.sql.commit, 1, "SQLITE_FULL");
  await writer.close();
  const next = new ShardWriter(join(folder, "shard.db"));
  expect(present(next)).toEqual([1, 2]);
  await next.close();
});
