import { expect, test } from "bun:test";
import fc from "fast-check";
import { REGION_BYTES } from "../fs/posix/offsets.ts";
import { chunkSource, type StoredMap } from "../fs/records/composition.ts";
import { ExtentMap } from "../fs/records/extent-map.ts";
import { BLOCK_BYTES, CHUNK_MAX_BYTES } from "../protocol/limits.ts";
import { layoutOf } from "./layout.ts";
import { DataKind } from "./manifest.ts";

let chunks = 0;
function chunk(bytes: number) {
  const id = new Uint8Array(32);
  new DataView(id.buffer).setUint32(0, ++chunks);
  return chunkSource({ id, epoch: 1, bytes });
}

/** A region whose extents are [start, chunk's bytes, offset in the chunk, length]. */
function region(...extents: [start: number, bytes: number, offset?: number, length?: number][]): { region: number; map: StoredMap } {
  const map: StoredMap = new ExtentMap();
  for (const [start, bytes, offset = 0, length = bytes] of extents) map.set(start, start + length, chunk(bytes), offset);
  return { region: 0, map };
}

test("whole chunks at block boundaries are an image; holes are fine, and a last block that is cut by the file's end", () => {
  const layout = layoutOf(CHUNK_MAX_BYTES * 3 + 100, [
    region([0, CHUNK_MAX_BYTES], [2 * CHUNK_MAX_BYTES, CHUNK_MAX_BYTES + 0], [3 * CHUNK_MAX_BYTES, 100]),
  ]);
  expect(layout).toMatchObject({ kind: DataKind.image, dataBytes: 2 * CHUNK_MAX_BYTES + 100 });
  expect(layout.chunks.map(({ start }) => start)).toEqual([0, 2 * CHUNK_MAX_BYTES, 3 * CHUNK_MAX_BYTES]);
});

test.each([
  ["a chunk that begins inside a block", 5_000_000, region([4_096, BLOCK_BYTES])],
  ["a part of a chunk", 3 * BLOCK_BYTES, region([0, 3 * BLOCK_BYTES, 0, BLOCK_BYTES])],
  ["the second half of a chunk", BLOCK_BYTES, region([0, 2 * BLOCK_BYTES, BLOCK_BYTES, BLOCK_BYTES])],
  ["a short chunk before others", 2 * BLOCK_BYTES, region([0, 100], [BLOCK_BYTES, BLOCK_BYTES])],
  ["a short chunk before a hole at the end", 1_000_000, region([0, 100])],
])("%s: the file keeps its chunks", (_what, size, map) => {
  expect(layoutOf(size, [map]).kind).toBe(DataKind.chunks);
});

test("data that stands in the records needs no fetching", () => {
  const map: StoredMap = new ExtentMap();
  map.set(0, 10, { kind: "inline", data: new Uint8Array(10) }, 0);
  expect(layoutOf(10, [{ region: 0, map }])).toEqual({ kind: DataKind.inline, dataBytes: 10, chunks: [] });
  expect(layoutOf(2n ** 62n, []).kind).toBe(DataKind.none);
});

test("whatever the extents, an image is made of exactly the file's bytes", () => {
  const extent = fc.record({
    blocks: fc.integer({ min: 0, max: 5 }),
    skew: fc.constantFrom(0, 0, 0, 1, 4_096),
    cut: fc.constantFrom(0, 0, 0, 1, BLOCK_BYTES),
    lead: fc.constantFrom(0, 0, 0, 512),
  });
  fc.assert(
    fc.property(fc.array(extent, { maxLength: 6 }), fc.nat(3), (extents, tail) => {
      const map: StoredMap = new ExtentMap();
      for (const { blocks, skew, cut, lead } of extents) {
        const start = Math.ceil(map.end / BLOCK_BYTES) * BLOCK_BYTES + skew;
        const bytes = Math.max(1, blocks * BLOCK_BYTES - cut);
        if (lead < bytes && start + bytes < REGION_BYTES) map.set(start, start + bytes - lead, chunk(bytes), lead);
      }
      const size = map.end + tail;
      const { kind, dataBytes, chunks: placed } = layoutOf(size, [{ region: 0, map }]);
      expect(dataBytes).toBe(map.coveredBytes);
      if (kind !== DataKind.image) return;
      expect(placed.map(({ start, ref }) => [start, start + ref.bytes])).toEqual(map.extents.map(({ start, end }) => [start, end]));
      for (const { start, ref } of placed) {
        expect(start % BLOCK_BYTES).toBe(0);
        // Its last block ends with the image, or at a block boundary: else a block's checksum would be of other bytes.
        expect((start + ref.bytes) % BLOCK_BYTES === 0 || start + ref.bytes === size).toBe(true);
      }
    }),
  );
});
