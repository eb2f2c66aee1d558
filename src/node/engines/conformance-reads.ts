/** What every metadata engine promises of reads: order, bounds, and what comes together in one answer. */
import { expect, test } from "bun:test";
import { dentryKey, dentryPrefix, inodeKey, prefixEnd, regionKey } from "../../protocol/record-keys.ts";
import { ANY_BYTES, bump, type EngineUnderTest, hashOf, MANY, put, textOf } from "./conformance-fixture.ts";

export function readConformance(tested: EngineUnderTest): void {
  const { commit } = tested;

  test("range is in key order, from inclusive, to exclusive, and says when there is more", async () => {
    const keys = [1, 2, 3, 255, 256, 70_000].map(inodeKey);
    await commit({ puts: [...keys].reverse().map((key) => put(key, "x")) });
    const first = keys[0] ?? inodeKey(0);
    expect((await tested.shard.range(first, null, MANY, ANY_BYTES)).records.map(({ key }) => key)).toEqual(keys);
    expect(await tested.shard.range(first, inodeKey(256), MANY, ANY_BYTES)).toMatchObject({ more: false, records: { length: 4 } });
    expect(await tested.shard.range(first, inodeKey(256), 4, ANY_BYTES)).toMatchObject({ more: false, records: { length: 4 } });
    expect(await tested.shard.range(first, null, 4, ANY_BYTES)).toMatchObject({ more: true, records: { length: 4 } });
    expect(await tested.shard.range(inodeKey(4), inodeKey(100), MANY, ANY_BYTES)).toEqual({ records: [], more: false });
  });

  test("answers end near their byte limit and always hold one record", async () => {
    const big = "x".repeat(10_000);
    await commit({ puts: [1, 2, 3, 4, 5].map((n) => put(dentryKey(1, hashOf(n)), big, n)) });
    const end = prefixEnd(dentryPrefix(1));
    expect(await tested.shard.range(dentryPrefix(1), end, MANY, 1)).toMatchObject({ more: true, records: { length: 1 } });
    expect(await tested.shard.range(dentryPrefix(1), end, MANY, 25_000)).toMatchObject({ more: true, records: { length: 3 } });
    expect(await tested.shard.list(1, new Uint8Array(0), MANY, 25_000, null)).toMatchObject({ more: true, entries: { length: 3 } });
  });

  test("inode brings attributes, counters, and region 0 where it is small enough", async () => {
    await commit({ puts: [put(inodeKey(5), "attr"), put(regionKey(5, 0), "region"), put(inodeKey(6), "folder")], bumps: [bump(6, 1)] });
    const bundle = await tested.shard.inode(5, 6);
    expect({ ...bundle, attr: textOf(bundle.attr), region0: textOf(bundle.region0) }).toEqual({
      ino: 5,
      attr: "attr",
      counters: null,
      region0: "region",
      leased: false,
    });
    expect((await tested.shard.inode(5, 5)).region0).toBeNull();
    expect((await tested.shard.inode(5, 0)).region0).toBeNull();
    expect(await tested.shard.inode(6, 100)).toMatchObject({ counters: { entries: 1 }, region0: null });
    expect(await tested.shard.inode(7, 100)).toEqual({ ino: 7, attr: null, counters: null, region0: null, leased: false });
  });

  test("lookup follows the entry to its inode", async () => {
    await commit({ puts: [put(dentryKey(1, hashOf(1)), "name", 5), put(inodeKey(5), "attr"), put(dentryKey(1, hashOf(2)), "name", 99)] });
    const found = await tested.shard.lookup(dentryKey(1, hashOf(1)), 0);
    expect([textOf(found.dentry), found.inode?.ino, textOf(found.inode?.attr)]).toEqual(["name", 5, "attr"]);
    expect(await tested.shard.lookup(dentryKey(1, hashOf(3)), 0)).toEqual({ dentry: null, inode: null });
    expect(await tested.shard.lookup(dentryKey(1, hashOf(2)), 0)).toMatchObject({ inode: { ino: 99, attr: null } });
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
      const { entries, more } = await tested.shard.list(7, after, 90, ANY_BYTES, page % 2 === 0 ? 0 : null);
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
    expect(await tested.shard.list(9, new Uint8Array(0), 10, ANY_BYTES, 0)).toMatchObject({
      entries: [],
      more: false,
      counters: { bumps: 0 },
    });
  });
}
