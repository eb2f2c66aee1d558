/** What every metadata engine promises, as tests. Called by each engine's own test file. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { NodeError } from "../../protocol/errors.ts";
import type { Bump, Delta, StoredRecord } from "../../protocol/messages.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix, orphanKey, prefixEnd, regionKey, xattrKey } from "../../protocol/record-keys.ts";
import type { MetadataEngine, Shard } from "./engine.ts";

/** Makes an engine over data that stays while `reopen` is called; `destroy` removes the data. */
export interface EngineFixture {
  open(): MetadataEngine;
  destroy(): void;
}

const SESSION = new Uint8Array(16).fill(7);
const MANY = 1_000;
const ANY_BYTES = 1 << 20;

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
function hashOf(n: number): Uint8Array {
  const hash = new Uint8Array(16);
  new DataView(hash.buffer).setUint32(0, n);
  return hash;
}
function put(key: Uint8Array, value: string, link = 0, chunks: Uint8Array[] = []) {
  return { key, link, chunks, value: bytes(value) };
}
function bump(ino: number, entries: number, mtimeSec = 0, mtimeNsec = 0, links = 0): Bump {
  return { ino, links, entries, mtimeSec, mtimeNsec };
}
function textOf(record: StoredRecord | null | undefined): string | null {
  return record ? new TextDecoder().decode(record.value) : null;
}

export function engineConformance(name: string, makeFixture: () => EngineFixture): void {
  describe(`metadata engine ${name}`, () => {
    let fixture: EngineFixture;
    let engine: MetadataEngine;
    let shard: Shard;
    let nextId: number;

    beforeEach(async () => {
      fixture = makeFixture();
      engine = fixture.open();
      shard = await engine.open("tenant", "default");
      nextId = 1;
    });
    afterEach(async () => {
      await engine.close();
      fixture.destroy();
    });

    const reopen = async () => {
      await engine.close();
      engine = fixture.open();
      shard = await engine.open("tenant", "default");
    };
    const delta = (parts: Partial<Delta>): Delta => ({
      id: nextId++,
      answeredBelow: 0,
      checks: [],
      puts: [],
      deletes: [],
      deletePrefixes: [],
      bumps: [],
      leases: [],
      durable: false,
      ...parts,
    });
    const commit = (parts: Partial<Delta>) => shard.commit({ session: SESSION, delta: delta(parts) });
    const read = async (key: Uint8Array) => (await shard.get([key]))[0] ?? null;

    test("a record comes back with its value, link and the delta's number as version", async () => {
      const outcome = await commit({ puts: [put(inodeKey(5), "five", 9)] });
      expect(outcome).toMatchObject({ ok: true, counters: [], replayed: false });
      expect(await read(inodeKey(5))).toEqual({ version: outcome.ok ? outcome.seq : 0, link: 9, value: bytes("five") });
      expect(await shard.get([inodeKey(6), inodeKey(5)])).toMatchObject([null, { link: 9 }]);
    });

    test("empty values and the largest link are kept", async () => {
      await commit({ puts: [put(inodeKey(2 ** 40 - 1), "", 2 ** 40 - 1)] });
      expect(await read(inodeKey(2 ** 40 - 1))).toMatchObject({ link: 2 ** 40 - 1, value: new Uint8Array(0) });
    });

    test("sequence numbers rise, also over a restart", async () => {
      const seqs: number[] = [];
      for (let i = 0; i < 4; i++) {
        const outcome = await commit({ puts: [put(inodeKey(5), String(i))] });
        if (outcome.ok) seqs.push(outcome.seq);
        if (i === 1) await reopen();
      }
      expect(seqs.length).toBe(4);
      expect([...seqs].sort((a, b) => a - b)).toEqual(seqs);
      expect(new Set(seqs).size).toBe(4);
    });

    test("every failed check is named and nothing is applied", async () => {
      await commit({ puts: [put(inodeKey(5), "old"), put(dentryKey(1, hashOf(1)), "entry", 5)], bumps: [bump(1, 1)] });
      const version = (await read(inodeKey(5)))?.version ?? 0;
      const outcome = await commit({
        checks: [
          { kind: "version", key: inodeKey(5), version },
          { kind: "version", key: inodeKey(5), version: version + 1 },
          { kind: "version", key: inodeKey(6), version: 0 },
          { kind: "absent", key: inodeKey(5) },
          { kind: "absent", key: inodeKey(6) },
          { kind: "present", key: inodeKey(6) },
          { kind: "present", key: inodeKey(5) },
          { kind: "empty", prefix: dentryPrefix(1) },
          { kind: "empty", prefix: dentryPrefix(2) },
          { kind: "bumps", ino: 1, bumps: 0 },
          { kind: "bumps", ino: 1, bumps: 1 },
          { kind: "bumps", ino: 2, bumps: 0 },
        ],
        puts: [put(inodeKey(5), "new")],
        deletes: [dentryKey(1, hashOf(1))],
        bumps: [bump(1, 1)],
      });
      expect(outcome).toEqual({ ok: false, failed: [1, 2, 3, 5, 7, 9] });
      expect(textOf(await read(inodeKey(5)))).toBe("old");
      expect(await read(dentryKey(1, hashOf(1)))).not.toBeNull();
      expect((await shard.list(1, new Uint8Array(0), 10, ANY_BYTES, null)).counters.entries).toBe(1);
    });

    test("deltas of one turn see those before them; one that fails does not harm the others", async () => {
      const create = (value: string) => commit({ checks: [{ kind: "absent", key: inodeKey(5) }], puts: [put(inodeKey(5), value)] });
      const outcomes = await Promise.all([create("first"), create("second"), commit({ puts: [put(inodeKey(6), "other")] })]);
      expect(outcomes.map((outcome) => outcome.ok)).toEqual([true, false, true]);
      expect(textOf(await read(inodeKey(5)))).toBe("first");
      expect(textOf(await read(inodeKey(6)))).toBe("other");
    });

    test("within a delta: prefixes go first, then deletes, then puts", async () => {
      await commit({ puts: [put(inodeKey(5), "old"), put(regionKey(5, 0), "old"), put(regionKey(5, 1), "old")] });
      await commit({
        deletePrefixes: [inodePrefix(5)],
        deletes: [inodeKey(5)],
        puts: [put(inodeKey(5), "new"), put(regionKey(5, 1), "new")],
      });
      expect([await read(inodeKey(5)), await read(regionKey(5, 0)), await read(regionKey(5, 1))].map(textOf)).toEqual(["new", null, "new"]);
    });

    test("deleting an inode's prefix takes its records and counters, and no neighbour's", async () => {
      const keys = (ino: number) => [inodeKey(ino), regionKey(ino, 3), xattrKey(ino, hashOf(1))];
      for (const ino of [4, 5, 6]) await commit({ puts: keys(ino).map((key) => put(key, "x")), bumps: [bump(ino, 1)] });
      await commit({ deletePrefixes: [inodePrefix(5)] });
      expect(await shard.get(keys(5))).toEqual([null, null, null]);
      for (const ino of [4, 6]) expect(await shard.get(keys(ino))).not.toContain(null);
      expect((await shard.list(5, new Uint8Array(0), 10, ANY_BYTES, null)).counters.bumps).toBe(0);
      expect((await shard.list(6, new Uint8Array(0), 10, ANY_BYTES, null)).counters.bumps).toBe(1);
    });

    test("a prefix that would take many inodes is refused", async () => {
      expect(commit({ deletePrefixes: [new Uint8Array([1])] })).rejects.toMatchObject({ code: "bad_request" });
    });

    test("bumps add up, and the greatest time stays", async () => {
      const first = await commit({ bumps: [bump(1, 1, 100, 5, 1)] });
      expect(first).toMatchObject({ counters: [{ links: 1, entries: 1, mtimeSec: 100, mtimeNsec: 5, bumps: 1 }] });
      const results = await Promise.all([
        commit({ bumps: [bump(1, 1, 100, 4)] }),
        commit({ bumps: [bump(1, -1, 99, 9)] }),
        commit({ bumps: [bump(1, 1, 101, 1, -1), bump(2, 1, -5, 7)] }),
      ]);
      expect(results[1]).toMatchObject({ counters: [{ links: 1, entries: 1, mtimeSec: 100, mtimeNsec: 5, bumps: 3 }] });
      expect(results[2]).toMatchObject({
        counters: [
          { links: 0, entries: 2, mtimeSec: 101, mtimeNsec: 1, bumps: 4 },
          { links: 0, entries: 1, mtimeSec: -5, mtimeNsec: 7, bumps: 1 },
        ],
      });
    });

    test("a delta that was applied is not applied again, also after a restart", async () => {
      const once = delta({ checks: [{ kind: "absent", key: inodeKey(5) }], puts: [put(inodeKey(5), "x")], bumps: [bump(1, 1)] });
      const first = await shard.commit({ session: SESSION, delta: once });
      await commit({ bumps: [bump(1, 1)] });
      const again = await shard.commit({ session: SESSION, delta: once });
      expect(again).toMatchObject({ ok: true, seq: first.ok ? first.seq : -1, replayed: true, counters: [{ entries: 2, bumps: 2 }] });
      await reopen();
      expect(await shard.commit({ session: SESSION, delta: once })).toMatchObject({ ok: true, replayed: true });
      // Another session's id of the same number is another delta.
      const other = await shard.commit({ session: new Uint8Array(16).fill(8), delta: once });
      expect(other).toEqual({ ok: false, failed: [0] });
    });

    test("the same delta twice in one turn is applied once", async () => {
      const once = delta({ bumps: [bump(1, 1)] });
      const outcomes = await Promise.all([once, once].map((each) => shard.commit({ session: SESSION, delta: each })));
      expect(outcomes.map((outcome) => outcome.ok && outcome.replayed)).toEqual([false, true]);
      expect(outcomes[1]).toMatchObject({ counters: [{ entries: 1 }] });
    });

    test("a failed delta may come again under its id", async () => {
      const later = delta({ checks: [{ kind: "present", key: inodeKey(5) }], bumps: [bump(1, 1)] });
      expect(await shard.commit({ session: SESSION, delta: later })).toMatchObject({ ok: false });
      await commit({ puts: [put(inodeKey(5), "x")] });
      expect(await shard.commit({ session: SESSION, delta: later })).toMatchObject({ ok: true, replayed: false });
    });

    test("thousands of answered deltas are forgotten, those above stay known", async () => {
      let last = delta({});
      for (let i = 0; i < 3_000; i++) {
        last = delta({ answeredBelow: Math.max(0, nextId - 10), bumps: [bump(1, 1)] });
        const result = shard.commit({ session: SESSION, delta: last });
        if (i % 100 === 0) await result;
      }
      expect(await shard.commit({ session: SESSION, delta: last })).toMatchObject({ replayed: true, counters: [{ bumps: 3_000 }] });
      expect(shard.commit({ session: SESSION, delta: { ...last, id: 5 } })).rejects.toBeInstanceOf(NodeError);
    });

    test("a session that was forgotten starts anew", async () => {
      const once = delta({ bumps: [bump(1, 1)] });
      await shard.commit({ session: SESSION, delta: once });
      await shard.forgetSession(SESSION);
      expect(await shard.commit({ session: SESSION, delta: once })).toMatchObject({ replayed: false });
    });

    test("onApplied comes before the answer, when reads see the delta; not for failed ones", async () => {
      const seen: string[] = [];
      const request = { session: SESSION, delta: delta({ puts: [put(inodeKey(5), "x")], durable: true }) };
      await shard.commit({ ...request, onApplied: () => seen.push("applied") }).then(() => seen.push("answered"));
      await shard.commit({
        session: SESSION,
        delta: delta({ checks: [{ kind: "absent", key: inodeKey(5) }] }),
        onApplied: () => seen.push("wrong"),
      });
      expect(seen).toEqual(["applied", "answered"]);
    });

    test("watch tells of every applied delta and what it touched", async () => {
      const events: { seq: number; inos: number[] }[] = [];
      const stop = shard.watch((event) => events.push(event));
      const first = await commit({ puts: [put(inodeKey(5), "x"), put(dentryKey(1, hashOf(1)), "x", 5)], bumps: [bump(1, 1), bump(3, 0)] });
      await commit({ checks: [{ kind: "absent", key: inodeKey(5) }], puts: [put(inodeKey(5), "y")] });
      stop();
      await commit({ deletes: [inodeKey(5)] });
      expect(events).toEqual([{ seq: first.ok ? first.seq : 0, inos: [5, 1, 3] }]);
    });

    test("range is in key order, from inclusive, to exclusive, and says when there is more", async () => {
      const keys = [1, 2, 3, 255, 256, 70_000].map(inodeKey);
      await commit({ puts: [...keys].reverse().map((key) => put(key, "x")) });
      const first = keys[0] ?? inodeKey(0);
      expect((await shard.range(first, null, MANY, ANY_BYTES)).records.map(({ key }) => key)).toEqual(keys);
      expect(await shard.range(first, inodeKey(256), MANY, ANY_BYTES)).toMatchObject({ more: false, records: { length: 4 } });
      expect(await shard.range(first, inodeKey(256), 4, ANY_BYTES)).toMatchObject({ more: false, records: { length: 4 } });
      expect(await shard.range(first, null, 4, ANY_BYTES)).toMatchObject({ more: true, records: { length: 4 } });
      expect(await shard.range(inodeKey(4), inodeKey(100), MANY, ANY_BYTES)).toEqual({ records: [], more: false });
    });

    test("answers end near their byte limit and always hold one record", async () => {
      const big = "x".repeat(10_000);
      await commit({ puts: [1, 2, 3, 4, 5].map((n) => put(dentryKey(1, hashOf(n)), big, n)) });
      const end = prefixEnd(dentryPrefix(1));
      expect(await shard.range(dentryPrefix(1), end, MANY, 1)).toMatchObject({ more: true, records: { length: 1 } });
      expect(await shard.range(dentryPrefix(1), end, MANY, 25_000)).toMatchObject({ more: true, records: { length: 3 } });
      expect(await shard.list(1, new Uint8Array(0), MANY, 25_000, null)).toMatchObject({ more: true, entries: { length: 3 } });
    });

    test("inode brings attributes, counters, and region 0 where it is small enough", async () => {
      await commit({ puts: [put(inodeKey(5), "attr"), put(regionKey(5, 0), "region"), put(inodeKey(6), "folder")], bumps: [bump(6, 1)] });
      const bundle = await shard.inode(5, 6);
      expect({ ...bundle, attr: textOf(bundle.attr), region0: textOf(bundle.region0) }).toEqual({
        ino: 5,
        attr: "attr",
        counters: null,
        region0: "region",
        leased: false,
      });
      expect((await shard.inode(5, 5)).region0).toBeNull();
      expect((await shard.inode(5, 0)).region0).toBeNull();
      expect(await shard.inode(6, 100)).toMatchObject({ counters: { entries: 1 }, region0: null });
      expect(await shard.inode(7, 100)).toEqual({ ino: 7, attr: null, counters: null, region0: null, leased: false });
    });

    test("lookup follows the entry to its inode", async () => {
      await commit({ puts: [put(dentryKey(1, hashOf(1)), "name", 5), put(inodeKey(5), "attr"), put(dentryKey(1, hashOf(2)), "name", 99)] });
      const found = await shard.lookup(dentryKey(1, hashOf(1)), 0);
      expect([textOf(found.dentry), found.inode?.ino, textOf(found.inode?.attr)]).toEqual(["name", 5, "attr"]);
      expect(await shard.lookup(dentryKey(1, hashOf(3)), 0)).toEqual({ dentry: null, inode: null });
      expect(await shard.lookup(dentryKey(1, hashOf(2)), 0)).toMatchObject({ inode: { ino: 99, attr: null } });
    });

    test("list goes through a folder in hash order, page by page, whatever comes and goes", async () => {
      const total = 1_000;
      const numbers = Array.from({ length: total }, (_, i) => i * 2);
      await commit({ puts: numbers.map((n) => put(dentryKey(7, hashOf(n)), `name ${n}`, 100 + n)) });
      await commit({
        puts: [put(dentryKey(8, hashOf(0)), "another folder", 3), ...numbers.map((n) => put(inodeKey(100 + n), `attr ${n}`))],
      });
      const seen: number[] = [];
      let after: Uint8Array = new Uint8Array(0);
      for (let page = 0; ; page++) {
        const { entries, more } = await shard.list(7, after, 90, ANY_BYTES, page % 2 === 0 ? 0 : null);
        for (const { hash, dentry, inode } of entries) {
          const n = new DataView(hash.buffer, hash.byteOffset).getUint32(0);
          seen.push(n);
          expect(dentry.link).toBe(100 + n);
          if (page % 2 === 0) expect(textOf(inode?.attr)).toBe(`attr ${n}`);
          else expect(inode).toBeNull();
          after = hash;
        }
        if (!more) break;
        // Behind and before the position; the position's own entry goes too.
        await commit({ deletes: [dentryKey(7, after)], puts: [put(dentryKey(7, hashOf(1)), "late", 101)] });
      }
      expect(seen).toEqual(numbers);
      expect(await shard.list(9, new Uint8Array(0), 10, ANY_BYTES, 0)).toMatchObject({ entries: [], more: false, counters: { bumps: 0 } });
    });

    test("inode numbers are never granted twice, also after a restart", async () => {
      const granted: number[] = [];
      const take = async (count: number) => {
        const grant = await shard.grantInos(count);
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
      expect(shard.inodeCount).toBe(2);
      await commit({ deletePrefixes: [inodePrefix(3)] });
      await reopen();
      expect(shard.inodeCount).toBe(1);
    });

    describe("chunk references", () => {
      const chunk = (n: number) => new Uint8Array(32).fill(n);
      const LONG_MS = 3_600_000;

      test("new chunks of puts are those that nothing refers to", async () => {
        await commit({ puts: [put(regionKey(5, 0), "x", 0, [chunk(1), chunk(2)])] });
        const puts = [put(regionKey(5, 0), "y", 0, [chunk(2), chunk(3)]), put(regionKey(6, 0), "y", 0, [chunk(1), chunk(3), chunk(4)])];
        expect(await shard.newChunks(puts)).toEqual([chunk(3), chunk(4)]);
      });

      test("a chunk is held while a record refers to it, and for the grace period after", async () => {
        expect(await shard.holdsChunk(chunk(1), LONG_MS)).toBeFalse();
        await commit({ puts: [put(regionKey(5, 0), "x", 0, [chunk(1), chunk(2)]), put(regionKey(6, 0), "x", 0, [chunk(1)])] });
        await commit({ puts: [put(regionKey(5, 0), "y", 0, [chunk(2)])] });
        expect(await shard.holdsChunk(chunk(1), 0)).toBeTrue();
        await commit({ deletePrefixes: [inodePrefix(6)] });
        await Bun.sleep(2);
        expect(await shard.holdsChunk(chunk(1), 0)).toBeFalse();
        expect(await shard.holdsChunk(chunk(1), LONG_MS)).toBeTrue();
        await shard.pruneChunks(0);
        expect(await shard.holdsChunk(chunk(1), LONG_MS)).toBeFalse();
        await reopen();
        expect(await shard.holdsChunk(chunk(2), 0)).toBeTrue();
        await commit({ deletes: [regionKey(5, 0)] });
        await Bun.sleep(2);
        expect(await shard.holdsChunk(chunk(2), 0)).toBeFalse();
      });

      test("verify finds nothing wrong and names each chunk once", async () => {
        await commit({ puts: [put(regionKey(5, 0), "x", 0, [chunk(1), chunk(2)]), put(regionKey(6, 0), "x", 0, [chunk(1)])] });
        await commit({ puts: [put(regionKey(5, 0), "y", 0, [chunk(1)])] });
        const chunks: Uint8Array[] = [];
        const damages: string[] = [];
        for await (const line of shard.verify((id) => chunks.push(id))) damages.push(line);
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
      expect(await shard.sync()).toBeGreaterThanOrEqual(last?.ok ? last.seq : Number.NaN);
    });

    test("namespaces are listed, kept apart, and gone when deleted", async () => {
      const other = await engine.open("tenant", "other");
      const foreign = await engine.open("tenant-2", "default");
      await commit({ puts: [put(inodeKey(5), "x")] });
      expect(await other.get([inodeKey(5)])).toEqual([null]);
      expect(await foreign.get([inodeKey(5)])).toEqual([null]);
      expect(engine.list("tenant")).toEqual(["default", "other"]);
      expect(await engine.open("tenant", "default")).toBe(shard);
      await engine.delete("tenant", "default");
      expect(engine.list("tenant")).toEqual(["other"]);
      expect(commit({})).rejects.toMatchObject({ code: "not_found" });
      const again = await engine.open("tenant", "default");
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
