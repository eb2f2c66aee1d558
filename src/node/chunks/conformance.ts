/** What every chunk store promises, as tests. Called by each store's own test file. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { CHUNK_PARTS, SEALED_CHUNK_MAX_BYTES } from "../../protocol/limits.ts";
import type { ChunkInfo, ChunkStore } from "./chunk-store.ts";

export interface ChunkStoreFixture {
  open(): ChunkStore;
  destroy(): void;
}

function chunkId(n: number): Uint8Array {
  return new Uint8Array(32).fill(n);
}
function content(length: number, seed = 1): Uint8Array {
  return new Uint8Array(length).map((_, i) => (i * 31 + seed) & 0xff);
}

export function chunkStoreConformance(name: string, makeFixture: () => ChunkStoreFixture): void {
  describe(`chunk store ${name}`, () => {
    let fixture: ChunkStoreFixture;
    let store: ChunkStore;
    beforeEach(() => {
      fixture = makeFixture();
      store = fixture.open();
    });
    afterEach(() => {
      store.close();
      fixture.destroy();
    });

    const listed = async () => {
      const all: ChunkInfo[] = [];
      for (let part = 0; part < CHUNK_PARTS; part++) all.push(...(await store.listPart(part)));
      return all;
    };
    const always = () => true;
    const never = () => false;

    test.each([49, 65_600, SEALED_CHUNK_MAX_BYTES])("a chunk of %d bytes comes back, whole and in part", async (length) => {
      const body = content(length);
      expect(await store.put(chunkId(1), body)).toEqual({ existed: false });
      const whole = await store.get(chunkId(1), 0, SEALED_CHUNK_MAX_BYTES);
      expect(whole.totalBytes).toBe(length);
      expect(Buffer.compare(whole.bytes, body)).toBe(0);
      expect(Buffer.compare((await store.get(chunkId(1), 0, length)).bytes, body)).toBe(0);
      for (const [offset, count] of [
        [0, 1],
        [7, 20],
        [length - 3, 3],
        [length - 3, 100],
        [length, 1],
        [length + 5, 1],
      ] as const) {
        const part = await store.get(chunkId(1), offset, count);
        expect(part.totalBytes).toBe(length);
        expect(Buffer.compare(part.bytes, body.subarray(offset, offset + count))).toBe(0);
      }
    });

    test("sizes that no sealed chunk has are refused", async () => {
      for (const length of [0, 48, SEALED_CHUNK_MAX_BYTES + 1]) {
        expect(store.put(chunkId(1), content(length))).rejects.toMatchObject({ code: "bad_request" });
      }
      expect(await store.exists(chunkId(1))).toBeFalse();
    });

    test("what was never put is not found", async () => {
      expect(store.get(chunkId(9), 0, 1)).rejects.toMatchObject({ code: "not_found" });
      expect(await store.exists(chunkId(9))).toBeFalse();
      expect(await store.delete(chunkId(9), never)).toBeFalse();
    });

    test("a second put says so, and counts as touched", async () => {
      await store.put(chunkId(1), content(100));
      const before = (await listed())[0]?.touchedMs ?? Number.NaN;
      await Bun.sleep(15);
      expect(await store.put(chunkId(1), content(100))).toEqual({ existed: true });
      expect((await listed())[0]?.touchedMs).toBeGreaterThan(before);
    });

    test("the same chunk put many times at once is there, whole", async () => {
      const body = content(100_000);
      const results = await Promise.all(Array.from({ length: 8 }, () => store.put(chunkId(1), body)));
      expect(results.filter(({ existed }) => !existed).length).toBe(1);
      expect((await store.get(chunkId(1), 0, 100_000)).bytes.length).toBe(100_000);
    });

    test("chunks are listed, and there after a restart", async () => {
      for (const n of [1, 2, 200]) await store.put(chunkId(n), content(100, n));
      store = fixture.open();
      expect((await listed()).map(({ id }) => id[0]).sort()).toEqual([1, 2, 200]);
      expect(await store.exists(chunkId(200))).toBeTrue();
      expect(Buffer.compare((await store.get(chunkId(200), 0, 100)).bytes, content(100, 200))).toBe(0);
    });

    test("delete asks at the last moment, and tells when the chunk was put", async () => {
      await store.put(chunkId(1), content(100));
      expect(await store.delete(chunkId(1), always)).toBeFalse();
      expect(await store.exists(chunkId(1))).toBeTrue();
      let told = 0;
      const deleted = await store.delete(chunkId(1), (touchedMs) => {
        told = touchedMs;
        return false;
      });
      expect(deleted).toBeTrue();
      expect(Math.abs(told - Date.now())).toBeLessThan(60_000);
      expect(await store.exists(chunkId(1))).toBeFalse();
      expect(store.get(chunkId(1), 0, 1)).rejects.toMatchObject({ code: "not_found" });
    });

    test("a put during a delete waits and writes anew; meanwhile the chunk counts as gone", async () => {
      await store.put(chunkId(1), content(100));
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const deleting = store.delete(chunkId(1), () => promise);
      await Bun.sleep(1);
      expect(await store.exists(chunkId(1))).toBeFalse();
      const putting = store.put(chunkId(1), content(100));
      resolve(false);
      expect(await deleting).toBeTrue();
      expect(await putting).toEqual({ existed: false });
      expect(await store.exists(chunkId(1))).toBeTrue();
    });

    test("verify finds a sound chunk sound, and space is known", async () => {
      await store.put(chunkId(1), content(100));
      expect(await store.verify(chunkId(1))).toBeNull();
      expect(await store.verify(chunkId(2))).toContain(chunkId(2).toHex());
      const { totalBytes, freeBytes } = store.space();
      expect(totalBytes).toBeGreaterThanOrEqual(freeBytes);
      expect(freeBytes).toBeGreaterThan(0);
    });
  });
}
