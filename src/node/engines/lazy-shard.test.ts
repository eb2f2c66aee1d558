import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inodeKey } from "../../protocol/record-keys.ts";
import { SqliteEngine } from "./sqlite.ts";
import { makeDelta } from "./test-delta.ts";

const SESSION = new Uint8Array(16).fill(1);
const NAMESPACES = 40;
const OPEN_MAX = 3;

function openFilesBelow(folder: string): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(folder);
    } catch {
      return false;
    }
  }).length;
}

test("many namespaces are used at once, and a few are open: nothing is lost, numbers go on", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kiseki-lazy-"));
  const first = new Map<string, number>();
  const engine = new SqliteEngine(folder, {
    openShardsMax: OPEN_MAX,
    onFirstOpen: (_tenant, namespace, _shard, seq) => {
      expect(first.has(namespace)).toBeFalse();
      first.set(namespace, seq);
    },
  });
  const names = Array.from({ length: NAMESPACES }, (_, i) => `n${i}`);
  const shards = await Promise.all(names.map((name) => engine.open("t", name)));
  let most = 0;
  const numbers = new Map<number, number[]>();
  await Promise.all(
    shards.map(async (shard, i) => {
      for (let round = 1; round <= 5; round++) {
        const value = new Uint8Array([i, round]);
        const delta = makeDelta(round, { puts: [{ key: inodeKey(round + 1), link: 0, chunks: [], value }], durable: round % 2 === 0 });
        expect(await shard.commit({ session: SESSION, delta })).toMatchObject({ ok: true });
        // The same delta again is known, also by a shard that was closed in between.
        expect(await shard.commit({ session: SESSION, delta })).toMatchObject({ ok: true, replayed: true });
        numbers.set(i, [...(numbers.get(i) ?? []), (await shard.grantInos(10)).first]);
        most = Math.max(most, engine.openCount);
        expect(openFilesBelow(folder)).toBeLessThanOrEqual(OPEN_MAX * 5);
      }
    }),
  );
  expect(most).toBeLessThanOrEqual(OPEN_MAX);
  for (const [i, shard] of shards.entries()) {
    expect((await shard.usage()).inodes).toBe(5);
    const records = await shard.get([2, 3, 4, 5, 6].map(inodeKey));
    expect(records?.map((record) => [...(record?.value ?? [])])).toEqual([1, 2, 3, 4, 5].map((round) => [i, round]));
    const { seq, recoveredSeq } = await shard.state();
    expect([seq >= 5, recoveredSeq]).toEqual([true, 0]);
    // Ranges of numbers never overlap, and closing doesn't waste any.
    const granted = numbers.get(i) ?? [];
    expect(granted).toEqual(granted.map((_, round) => (granted[0] as number) + 10 * round));
  }
  expect(first.size).toBe(NAMESPACES);
  await engine.close();
  expect(openFilesBelow(folder)).toBe(0);
  expect(async () => await shards[0]?.get([])).toThrow();
  rmSync(folder, { recursive: true });
});
