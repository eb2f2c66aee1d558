import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Delta } from "../../protocol/messages.ts";
import { inodeKey, regionKey } from "../../protocol/record-keys.ts";
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
  engine = new SqliteEngine(folder);
  shard = await engine.open("t", "default");
  expect(() => shard.get([inodeKey(5)])).toThrow(expect.objectContaining({ code: "damaged" }));
  expect(await shard.get([inodeKey(6)])).toMatchObject([{ link: 0 }]);
  const lines: string[] = [];
  for await (const line of shard.verify(() => {})) lines.push(line);
  expect(lines).toEqual([
    `record ${inodeKey(5).toHex()} (inode 5): checksum differs`,
    `chunk ${chunk.toHex()}: counted 2 references, records declare 1`,
  ]);
  await engine.close();
  rmSync(folder, { recursive: true });
});
