/** What every metadata engine promises of deltas: checks, order, counters, repetition, and who is told. */
import { expect, test } from "bun:test";
import { NodeError } from "../../protocol/errors.ts";
import { dentryKey, dentryPrefix, inodeKey, inodePrefix, regionKey, xattrKey } from "../../protocol/record-keys.ts";
import { ANY_BYTES, bump, bytes, type EngineUnderTest, hashOf, put, SESSION, textOf } from "./conformance-fixture.ts";

export function commitConformance(tested: EngineUnderTest): void {
  const { commit, delta, read, reopen } = tested;

  test("a record comes back with its value, link and the delta's number as version", async () => {
    const outcome = await commit({ puts: [put(inodeKey(5), "five", 9)] });
    expect(outcome).toMatchObject({ ok: true, counters: [], replayed: false });
    expect(await read(inodeKey(5))).toEqual({ version: outcome.ok ? outcome.seq : 0, link: 9, value: bytes("five") });
    expect(await tested.shard.get([inodeKey(6), inodeKey(5)])).toMatchObject([null, { link: 9 }]);
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
    expect((await tested.shard.list(1, new Uint8Array(0), 10, ANY_BYTES, null)).counters.entries).toBe(1);
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
    expect(await tested.shard.get(keys(5))).toEqual([null, null, null]);
    for (const ino of [4, 6]) expect(await tested.shard.get(keys(ino))).not.toContain(null);
    expect((await tested.shard.list(5, new Uint8Array(0), 10, ANY_BYTES, null)).counters.bumps).toBe(0);
    expect((await tested.shard.list(6, new Uint8Array(0), 10, ANY_BYTES, null)).counters.bumps).toBe(1);
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
    const first = await tested.shard.commit({ session: SESSION, delta: once });
    await commit({ bumps: [bump(1, 1)] });
    const again = await tested.shard.commit({ session: SESSION, delta: once });
    expect(again).toMatchObject({ ok: true, seq: first.ok ? first.seq : -1, replayed: true, counters: [{ entries: 2, bumps: 2 }] });
    await reopen();
    expect(await tested.shard.commit({ session: SESSION, delta: once })).toMatchObject({ ok: true, replayed: true });
    // Another session's id of the same number is another delta.
    const other = await tested.shard.commit({ session: new Uint8Array(16).fill(8), delta: once });
    expect(other).toEqual({ ok: false, failed: [0] });
  });

  test("the same delta twice in one turn is applied once", async () => {
    const once = delta({ bumps: [bump(1, 1)] });
    const outcomes = await Promise.all([once, once].map((each) => tested.shard.commit({ session: SESSION, delta: each })));
    expect(outcomes.map((outcome) => outcome.ok && outcome.replayed)).toEqual([false, true]);
    expect(outcomes[1]).toMatchObject({ counters: [{ entries: 1 }] });
  });

  test("a failed delta may come again under its id", async () => {
    const later = delta({ checks: [{ kind: "present", key: inodeKey(5) }], bumps: [bump(1, 1)] });
    expect(await tested.shard.commit({ session: SESSION, delta: later })).toMatchObject({ ok: false });
    await commit({ puts: [put(inodeKey(5), "x")] });
    expect(await tested.shard.commit({ session: SESSION, delta: later })).toMatchObject({ ok: true, replayed: false });
  });

  test("thousands of answered deltas are forgotten, those above stay known", async () => {
    let last = delta({});
    for (let i = 0; i < 3_000; i++) {
      last = delta({ answeredBelow: Math.max(0, tested.nextId - 10), bumps: [bump(1, 1)] });
      const result = tested.shard.commit({ session: SESSION, delta: last });
      if (i % 100 === 0) await result;
    }
    expect(await tested.shard.commit({ session: SESSION, delta: last })).toMatchObject({ replayed: true, counters: [{ bumps: 3_000 }] });
    expect(tested.shard.commit({ session: SESSION, delta: { ...last, id: 5 } })).rejects.toBeInstanceOf(NodeError);
  });

  test("a session that was forgotten starts anew", async () => {
    const once = delta({ bumps: [bump(1, 1)] });
    await tested.shard.commit({ session: SESSION, delta: once });
    await tested.shard.forgetSession(SESSION);
    expect(await tested.shard.commit({ session: SESSION, delta: once })).toMatchObject({ replayed: false });
  });

  test("onApplied comes before the answer, when reads see the delta; not for failed ones", async () => {
    const seen: string[] = [];
    const request = { session: SESSION, delta: delta({ puts: [put(inodeKey(5), "x")], durable: true }) };
    await tested.shard.commit({ ...request, onApplied: () => seen.push("applied") }).then(() => seen.push("answered"));
    await tested.shard.commit({
      session: SESSION,
      delta: delta({ checks: [{ kind: "absent", key: inodeKey(5) }] }),
      onApplied: () => seen.push("wrong"),
    });
    expect(seen).toEqual(["applied", "answered"]);
  });

  test("watch tells of every applied delta and what it touched", async () => {
    const events: { seq: number; inos: number[] }[] = [];
    const stop = tested.shard.watch((event) => events.push(event));
    const first = await commit({ puts: [put(inodeKey(5), "x"), put(dentryKey(1, hashOf(1)), "x", 5)], bumps: [bump(1, 1), bump(3, 0)] });
    await commit({ checks: [{ kind: "absent", key: inodeKey(5) }], puts: [put(inodeKey(5), "y")] });
    stop();
    await commit({ deletes: [inodeKey(5)] });
    expect(events).toEqual([{ seq: first.ok ? first.seq : 0, inos: [5, 1, 3] }]);
  });
}
