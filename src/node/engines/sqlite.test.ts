import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Delta } from "../../protocol/messages.ts";
import { inodeKey, inodePrefix, regionKey, xattrKey } from "../../protocol/record-keys.ts";
import { engineConformance } from "./conformance.ts";
import { SqliteEngine } from "./sqlite.ts";

function makeFolder(): string {
  return mkdtempSync(join(tmpdir(), "kiseki-sqlite-"));
}

engineConformance("sqlite", () => {
  const folder = makeFolder();
  return { open: () => new SqliteEngine(folder), destroy: () => rmSync(folder, { recursive: true }) };
});

const SESSION = new Uint8Array(16).fill(1);
function putDelta(id: number, key: Uint8Array, value: Uint8Array, chunks: Uint8Array[] = []): Delta {
  const puts = [{ key, link: 0, chunks, value }];
  return { id, answeredBelow: 0, checks: [], puts, deletes: [], deletePrefixes: [], bumps: [], leases: [], durable: false };
}

test("names that are no names never become paths", () => {
  const engine = new SqliteEngine(makeFolder());
  for (const name of ["..", "a/b", "", ".hidden", "a\0b", "A", "x".repeat(65)]) {
    expect(engine.open("tenant", name)).rejects.toMatchObject({ code: "bad_request" });
    expect(engine.open(name, "default")).rejects.toMatchObject({ code: "bad_request" });
  }
});

test("a record that was changed on disk is damaged, and verify names it", async () => {
  const folder = makeFolder();
  let engine = new SqliteEngine(folder);
  let shard = await engine.open("t", "default");
  const chunk = new Uint8Array(32).fill(3);
  await shard.commit({ session: SESSION, delta: putDelta(1, inodeKey(5), new Uint8Array([1, 2, 3])) });
  await shard.commit({ session: SESSION, delta: putDelta(2, inodeKey(6), new Uint8Array([1, 2, 3])) });
  await shard.commit({ session: SESSION, delta: putDelta(3, regionKey(6, 0), new Uint8Array(9), [chunk]) });
  await engine.close();
  const db = new Database(join(folder, "t/namespaces/default/shard.db"));
  db.run("UPDATE records SET value = x'010204' WHERE key = ?", [inodeKey(5)]);
  db.run("UPDATE chunk_refs SET refs = 2");
  db.close();
  const told: string[] = [];
  engine = new SqliteEngine(folder, { onDamaged: (tenant, namespace, record) => told.push(`${tenant}/${namespace}: ${record}`) });
  shard = await engine.open("t", "default");
  // Its value is left out, so that it costs nobody who asks for others with it anything.
  expect(await shard.get([inodeKey(5), inodeKey(6)])).toMatchObject([{ value: new Uint8Array() }, { value: new Uint8Array([1, 2, 3]) }]);
  expect(await shard.get([inodeKey(5)])).toMatchObject([{ version: 1 }]);
  expect(told).toEqual([`t/default: ${inodeKey(5).toHex()} (inode 5)`]);
  const lines: string[] = [];
  for await (const line of shard.verify(() => {})) lines.push(line);
  expect(lines).toEqual([
    `record ${inodeKey(5).toHex()} (inode 5): checksum differs`,
    `chunk ${chunk.toHex()}: counted 2 references, records declare 1`,
  ]);
  await engine.close();
  rmSync(folder, { recursive: true });
});

test("a delete of many references is done for every reader at once, and runs in slices, over a restart too", async () => {
  const folder = makeFolder();
  let engine = new SqliteEngine(folder);
  let shard = await engine.open("t", "default");
  const chunk = (n: number) => {
    const id = new Uint8Array(32).fill(9);
    new DataView(id.buffer).setUint32(0, n);
    return id;
  };
  const REFS = 4_000;
  const chunks = Array.from({ length: REFS }, (_, n) => chunk(n));
  let id = 0;
  const commit = (parts: Partial<Delta>) =>
    shard.commit({ session: SESSION, delta: { ...putDelta(++id, inodeKey(5), new Uint8Array(1)), puts: [], ...parts } });
  const putOf = (key: Uint8Array, refs: Uint8Array[] = []) => ({ key, link: 0, chunks: refs, value: new Uint8Array(3) });
  for (const region of [0, 1, 7]) await commit({ puts: [putOf(regionKey(5, region), chunks)] });
  await commit({ puts: [putOf(inodeKey(5)), putOf(xattrKey(5, new Uint8Array(16))), putOf(regionKey(6, 0), [chunk(1)])] });

  // A record, then the whole inode, of which one record is half counted down.
  await commit({ deletes: [regionKey(5, 1)] });
  expect(await shard.get([regionKey(5, 1), regionKey(5, 0)])).toMatchObject([null, { link: 0 }]);
  await commit({ deletePrefixes: [inodePrefix(5)] });
  const nothingLeft = async () => {
    expect(await shard.get([inodeKey(5), regionKey(5, 0), regionKey(5, 7)])).toEqual([null, null, null]);
    expect((await shard.range(inodePrefix(5), inodePrefix(6), 100, 1_000)).records).toEqual([]);
    expect((await shard.usage()).inodes).toBe(0);
  };
  await nothingLeft();
  expect(await shard.holdsChunk(chunk(REFS - 1), 0)).toBeTrue();
  await engine.close();
  engine = new SqliteEngine(folder);
  shard = await engine.open("t", "default");
  await nothingLeft();
  // Absent for checks. A record that is written anew is not what was deleted; an inode can't be.
  expect(commit({ puts: [putOf(regionKey(5, 7), [chunk(2)])] })).rejects.toMatchObject({ code: "bad_request" });
  await commit({ puts: [putOf(regionKey(8, 7), chunks)] });
  await commit({ deletes: [regionKey(8, 7)] });
  const check = { kind: "absent", key: regionKey(8, 7) } as const;
  expect(await commit({ checks: [check], puts: [putOf(regionKey(8, 7), [chunk(2)])] })).toMatchObject({ ok: true });
  expect(await shard.get([regionKey(8, 7)])).toMatchObject([{ link: 0 }]);
  const deadline = performance.now() + 10_000;
  while ((await shard.holdsChunk(chunk(REFS - 1), 0)) && performance.now() < deadline) await Bun.sleep(5);
  const held = await Promise.all(chunks.map((one) => shard.holdsChunk(one, 0)));
  expect(held.flatMap((isHeld, n) => (isHeld ? [n] : []))).toEqual([1, 2]);
  const lines: string[] = [];
  for await (const line of shard.verify(() => {})) lines.push(line);
  expect(lines).toEqual([]);
  await engine.close();
  rmSync(folder, { recursive: true });
});
