/** What every metadata engine promises, as tests. Called by each engine's own test file. */
import { describe, expect, test } from "bun:test";
import { inodeKey, inodePrefix, orphanKey, regionKey } from "../../protocol/record-keys.ts";
import { commitConformance } from "./conformance-commits.ts";
import { type EngineFixture, engineUnderTest, put, SESSION } from "./conformance-fixture.ts";
import { readConformance } from "./conformance-reads.ts";

export function engineConformance(name: string, makeFixture: () => EngineFixture): void {
  describe(`metadata engine ${name}`, () => {
    const tested = engineUnderTest(makeFixture);
    const { commit, read, reopen } = tested;

    commitConformance(tested);
    readConformance(tested);

    test("inode numbers are never granted twice, also after a restart", async () => {
      const granted: number[] = [];
      const take = async (count: number) => {
        const grant = await tested.shard.grantInos(count);
        expect(grant.count).toBe(count);
        for (let i = 0; i < grant.count; i++) granted.push(grant.first + i);
      };
      await Promise.all([take(1), take(1_000), take(3)]);
      await reopen();
      await take(500);
      expect(Math.min(...granted)).toBe(2);
      expect(new Set(granted).size).toBe(granted.length);
    });

    test("counts inodes", async () => {
      await commit({ puts: [2, 3, 4].map((ino) => put(inodeKey(ino), "x")) });
      await commit({ puts: [put(inodeKey(3), "y"), put(regionKey(3, 0), "y")], deletes: [inodeKey(2), inodeKey(99)] });
      expect((await tested.shard.usage()).inodes).toBe(2);
      await commit({ deletePrefixes: [inodePrefix(3)] });
      await reopen();
      expect((await tested.shard.usage()).inodes).toBe(1);
    });

    describe("chunk references", () => {
      const chunk = (n: number) => new Uint8Array(32).fill(n);
      const LONG_MS = 3_600_000;

      test("new chunks of puts are those that nothing refers to", async () => {
        await commit({ puts: [put(regionKey(5, 0), "x", 0, [chunk(1), chunk(2)])] });
        const puts = [put(regionKey(5, 0), "y", 0, [chunk(2), chunk(3)]), put(regionKey(6, 0), "y", 0, [chunk(1), chunk(3), chunk(4)])];
        expect(await tested.shard.newChunks(puts)).toEqual({ added: [chunk(3), chunk(1), chunk(4)], unreferenced: [chunk(3), chunk(4)] });
      });

      test("a chunk is held while a record refers to it, and for the grace period after", async () => {
        expect(await tested.shard.holdsChunk(chunk(1), LONG_MS)).toBeFalse();
        await commit({ puts: [put(regionKey(5, 0), "x", 0, [chunk(1), chunk(2)]), put(regionKey(6, 0), "x", 0, [chunk(1)])] });
        await commit({ puts: [put(regionKey(5, 0), "y", 0, [chunk(2)])] });
        expect(await tested.shard.holdsChunk(chunk(1), 0)).toBeTrue();
        await commit({ deletePrefixes: [inodePrefix(6)] });
        await Bun.sleep(2);
        expect(await tested.shard.holdsChunk(chunk(1), 0)).toBeFalse();
        expect(await tested.shard.holdsChunk(chunk(1), LONG_MS)).toBeTrue();
        expect(await tested.shard.looseChunks(LONG_MS, 10)).toEqual([]);
        expect(await tested.shard.looseChunks(0, 10)).toEqual([chunk(1)]);
        await tested.shard.forgetChunks([chunk(1), chunk(2)]);
        expect(await tested.shard.looseChunks(0, 10)).toEqual([]);
        expect(await tested.shard.holdsChunk(chunk(1), LONG_MS)).toBeFalse();
        await reopen();
        expect(await tested.shard.holdsChunk(chunk(2), 0)).toBeTrue();
        await commit({ deletes: [regionKey(5, 0)] });
        await Bun.sleep(2);
        expect(await tested.shard.holdsChunk(chunk(2), 0)).toBeFalse();
      });

      test("verify finds nothing wrong and names each chunk once", async () => {
        await commit({ puts: [put(regionKey(5, 0), "x", 0, [chunk(1), chunk(2)]), put(regionKey(6, 0), "x", 0, [chunk(1)])] });
        await commit({ puts: [put(regionKey(5, 0), "y", 0, [chunk(1)])] });
        const chunks: Uint8Array[] = [];
        const damages: string[] = [];
        for await (const line of tested.shard.verify((id) => chunks.push(id))) damages.push(line);
        expect(damages).toEqual([]);
        expect(chunks).toEqual([chunk(1)]);
      });
    });

    test("sync and durable deltas resolve", async () => {
      const outcomes = await Promise.all([
        commit({ puts: [put(inodeKey(5), "x")] }),
        commit({ puts: [put(inodeKey(6), "x")], durable: true }),
        commit({ puts: [put(inodeKey(7), "x")], durable: true }),
      ]);
      const last = outcomes[2];
      expect(await tested.shard.sync()).toBeGreaterThanOrEqual(last?.ok ? last.seq : Number.NaN);
    });

    test("namespaces are listed, kept apart, and gone when deleted", async () => {
      const other = await tested.engine.open("tenant", "other");
      const foreign = await tested.engine.open("tenant-2", "default");
      await commit({ puts: [put(inodeKey(5), "x")] });
      expect(await other.get([inodeKey(5)])).toEqual([null]);
      expect(await foreign.get([inodeKey(5)])).toEqual([null]);
      expect(tested.engine.list("tenant")).toEqual(["default", "other"]);
      expect(await tested.engine.open("tenant", "default")).toBe(tested.shard);
      await tested.engine.delete("tenant", "default");
      expect(tested.engine.list("tenant")).toEqual(["other"]);
      expect(commit({})).rejects.toMatchObject({ code: "not_found" });
      const again = await tested.engine.open("tenant", "default");
      expect(await again.get([inodeKey(5)])).toEqual([null]);
    });

    test("closing applies what is queued", async () => {
      const queued = commit({ puts: [put(orphanKey(SESSION, 5), "", 5)] });
      await reopen();
      expect((await queued).ok).toBeTrue();
      expect(await read(orphanKey(SESSION, 5))).toMatchObject({ link: 5 });
    });
  });
}
