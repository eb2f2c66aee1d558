import { expect, test } from "bun:test";
import fc from "fast-check";
import { REGION_BYTES } from "../posix/offsets.ts";
import { chunkSource, decodeRegion, encodeRegion, inlineBytes, type StoredMap, type StoredSource } from "./composition.ts";
import { ExtentMap } from "./extent-map.ts";
import { RecordFormatError } from "./inode-record.ts";

const CHUNKS = [1, 2, 3].map((n) => chunkSource({ id: new Uint8Array(32).fill(n), epoch: n, bytes: 5_000 }));

interface Piece {
  start: number;
  length: number;
  offset: number;
  chunk: number;
}

function build(pieces: readonly Piece[]): StoredMap {
  const map: StoredMap = new ExtentMap();
  for (const { start, length, offset, chunk } of pieces) {
    const source: StoredSource = CHUNKS[chunk] ?? { kind: "inline", data: Buffer.alloc(offset + length, chunk * 7 + length) };
    map.set(start, start + length, source, offset);
  }
  return map;
}

/** What a reader would find: each byte's place in its chunk, or its inline value. */
function describe(map: StoredMap): string[] {
  return map.extents.flatMap(({ start, end, source, offset }) =>
    Array.from({ length: end - start }, (_, i) =>
      source.kind === "chunk"
        ? `${start + i}:${source.ref.id[0]}/${source.ref.epoch}@${offset + i}`
        : `${start + i}=${source.data[offset + i]}`,
    ),
  );
}

const piece = fc.record({
  start: fc.oneof(fc.nat(2_000), fc.constant(REGION_BYTES - 200)),
  length: fc.integer({ min: 1, max: 200 }),
  offset: fc.nat(4_000),
  chunk: fc.nat(4),
});

test("a region record says the same about every byte after it was stored", () => {
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
      const map = build(pieces);
      const { plaintext, chunks } = encodeRegion(map, 2 ** 40 + 1);
      const { map: back, generation } = decodeRegion(plaintext);
      expect(generation).toBe(2 ** 40 + 1);
      expect(describe(back)).toEqual(describe(map));
      expect(inlineBytes(back)).toBe(inlineBytes(map));
      const used = new Set(map.extents.flatMap(({ source }) => (source.kind === "chunk" ? [source.key] : [])));
      expect(chunks.length).toBe(used.size);
    }),
  );
});

test("a cut or changed record is refused or describes extents inside its region and chunks", () => {
  fc.assert(
    fc.property(fc.array(piece, { minLength: 1, maxLength: 8 }), fc.nat(), fc.nat(255), fc.nat(), (pieces, at, value, cut) => {
      const { plaintext } = encodeRegion(build(pieces), 1);
      const changed = new Uint8Array(plaintext);
      changed[at % changed.length] = value;
      for (const bytes of [changed, plaintext.subarray(0, cut % plaintext.length)]) {
        try {
          for (const { end, source, offset, start } of decodeRegion(bytes).map.extents) {
            expect(end).toBeLessThanOrEqual(REGION_BYTES);
            if (source.kind === "chunk") expect(offset + end - start).toBeLessThanOrEqual(source.ref.bytes);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(RecordFormatError);
        }
      }
    }),
  );
});
