import { describe, expect, test } from "bun:test";
import { createCipheriv, createHmac, hkdfSync } from "node:crypto";
import fc from "fast-check";
import { BLOCK_BYTES, CHUNK_HEADER_BYTES, CHUNK_MAX_BYTES, SEALED_CHUNK_MAX_BYTES, TAG_BYTES } from "../protocol/limits.ts";
import { ChunkOpener } from "./chunk-opener.ts";
import {
  blockBytes,
  blockCount,
  type ChunkRef,
  chunkHeader,
  parseChunkHeader,
  sealChunk,
  sealedBlockRange,
  sealedChunkBytes,
} from "./chunk-seal.ts";
import { IntegrityError } from "./integrity-error.ts";
import { KeyRing } from "./key-ring.ts";

const ring = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: Uint8Array.from({ length: 32 }, (_, i) => i) }] });

/** Plaintext of `bytes` bytes that no two calls with different seeds share. */
function pattern(bytes: number, seed = 1): Uint8Array {
  const out = new Uint8Array(bytes);
  let state = seed * 2654435761;
  for (let i = 0; i < bytes; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state >>> 24;
  }
  return out;
}

function cut(plain: Uint8Array): Uint8Array[] {
  return Array.from({ length: blockCount(plain.length) }, (_, i) => plain.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES));
}

function seal(plain: Uint8Array, keys = ring): { ref: ChunkRef; sealed: Uint8Array } {
  const sealed = new Uint8Array(sealedChunkBytes(plain.length));
  const ref = sealChunk(keys.current, cut(plain), sealed);
  return { ref, sealed };
}

function open(ref: ChunkRef, sealed: Uint8Array, index: number, keys = ring): Uint8Array {
  const { offset, length } = sealedBlockRange(ref.bytes, index, 1);
  const target = new Uint8Array(blockBytes(ref.bytes, index));
  openInto(new ChunkOpener(keys, ref, index, [target]), sealed.subarray(offset, offset + length));
  return target;
}

function openInto(opener: ChunkOpener, sealed: Uint8Array): void {
  opener.begin();
  opener.write(sealed);
  opener.finish();
}

const sizes = [1, 15, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 100, CHUNK_MAX_BYTES];

describe("round trip", () => {
  test.each(sizes)("%p bytes", (bytes) => {
    const plain = pattern(bytes);
    const { ref, sealed } = seal(plain);
    expect(ref.bytes).toBe(bytes);
    for (const [index, block] of cut(plain).entries()) expect(open(ref, sealed, index)).toEqual(block.slice());
  });

  test("any length around block borders, each block on its own", () => {
    const length = fc.tuple(fc.nat({ max: 3 }), fc.integer({ min: -20, max: 20 })).map(([n, d]) => Math.max(1, n * BLOCK_BYTES + d));
    fc.assert(
      fc.property(length, fc.nat({ max: 1000 }), fc.nat({ max: 3 }), (bytes, seed, pick) => {
        const plain = pattern(bytes, seed);
        const { ref, sealed } = seal(plain);
        const index = pick % blockCount(bytes);
        expect(open(ref, sealed, index)).toEqual(plain.slice(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES));
      }),
      { numRuns: 60 },
    );
  });

  test("several blocks at once, in pieces of any size, and anew after a piece", () => {
    const plain = pattern(3 * BLOCK_BYTES + 100);
    const { ref, sealed } = seal(plain);
    const { offset, length } = sealedBlockRange(ref.bytes, 1, 3);
    const cuts = fc.array(fc.oneof(fc.nat({ max: length }), fc.constantFrom(1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 3)), {
      maxLength: 6,
    });
    fc.assert(
      fc.property(cuts, fc.nat({ max: length }), (at, before) => {
        const targets = Array.from({ length: 3 }, () => new Uint8Array(BLOCK_BYTES));
        const opener = new ChunkOpener(ring, ref, 1, targets);
        opener.begin();
        opener.write(sealed.subarray(offset, offset + before));
        opener.begin();
        const borders = [0, ...at.sort((a, b) => a - b), length];
        for (let i = 1; i < borders.length; i++) opener.write(sealed.slice(offset + (borders[i - 1] ?? 0), offset + (borders[i] ?? 0)));
        opener.finish();
        expect(Buffer.compare(Buffer.concat(targets).subarray(0, plain.length - BLOCK_BYTES), plain.subarray(BLOCK_BYTES))).toBe(0);
      }),
      { numRuns: 40 },
    );
  });

  test("plaintext that another thread holds (SharedArrayBuffer) is left as it was", () => {
    const shared = new Uint8Array(new SharedArrayBuffer(BLOCK_BYTES));
    shared.set(pattern(BLOCK_BYTES));
    const sealed = new Uint8Array(sealedChunkBytes(BLOCK_BYTES));
    const ref = sealChunk(ring.current, [shared], sealed);
    expect(open(ref, sealed, 0)).toEqual(pattern(BLOCK_BYTES));
    expect(Buffer.compare(shared, pattern(BLOCK_BYTES))).toBe(0);
  });
});

describe("ids", () => {
  test("equal content gives the same id and the same bytes: it is stored once", () => {
    const [a, b] = [seal(pattern(100_000)), seal(pattern(100_000))];
    expect(a.ref).toEqual(b.ref);
    expect(a.sealed).toEqual(b.sealed);
  });

  test("content, length, epoch and tenant each give another id and other bytes", () => {
    const two = KeyRing.fromMaterial({ keys: [...ring.export().keys, { epoch: 2, key: new Uint8Array(32).fill(5) }] });
    const other = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: new Uint8Array(32).fill(6) }] });
    const zeros = new Uint8Array(1000);
    const all = [seal(zeros), seal(zeros.subarray(1)), seal(pattern(1000)), seal(zeros, two), seal(zeros, other)];
    expect(new Set(all.map((s) => s.ref.id.toHex())).size).toBe(all.length);
    expect(new Set(all.map((s) => s.sealed.subarray(CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES + 100).toHex())).size).toBe(all.length);
  });

  test("every block counts for the id: its content, its place, and zeros at the end", () => {
    const blocks = Array.from({ length: 4 }, (_, i) => pattern(BLOCK_BYTES, i + 1));
    const seen = new Set([seal(Buffer.concat(blocks)).ref.id.toHex()]);
    const add = (plain: Uint8Array) => seen.add(seal(plain).ref.id.toHex());
    for (let i = 0; i < 4; i++) {
      for (const at of [0, 17, BLOCK_BYTES - 1]) {
        const changed = new Uint8Array(Buffer.concat(blocks));
        changed[i * BLOCK_BYTES + at] = (changed[i * BLOCK_BYTES + at] as number) ^ 1;
        add(changed);
      }
    }
    for (const order of [
      [1, 0, 2, 3],
      [0, 1, 3, 2],
      [3, 2, 1, 0],
      [0, 0, 2, 3],
    ])
      add(Buffer.concat(order.map((i) => blocks[i] as Uint8Array)));
    for (const zeros of [1, 15, 16, BLOCK_BYTES]) add(Buffer.concat([...blocks, new Uint8Array(zeros)]));
    expect(seen.size).toBe(1 + 12 + 4 + 4);
  });

  test("the id is the HMAC of the length and the blocks' GMAC tags, made anew by other code", () => {
    const plain = pattern(BLOCK_BYTES + 33);
    const derive = (label: string) => hkdfSync("sha256", ring.export().keys[0]?.key as Uint8Array, new Uint8Array(0), label, 32);
    const gmac = (block: Uint8Array, index: number) => {
      const nonce = Buffer.alloc(12);
      nonce.writeUInt32BE(index, 8);
      const mac = createCipheriv("aes-256-gcm", new Uint8Array(derive("kiseki/v2/chunk-tag")), nonce).setAAD(block);
      mac.final();
      return mac.getAuthTag();
    };
    const length = Buffer.alloc(4);
    length.writeUInt32BE(plain.length);
    const hmac = createHmac("sha256", new Uint8Array(derive("kiseki/v2/chunk-id"))).update(length);
    for (const [index, block] of cut(plain).entries()) hmac.update(gmac(block, index));
    expect(seal(plain).ref.id.toHex()).toBe(hmac.digest("hex"));
  });

  test("equal blocks of one chunk don't show as equal", () => {
    const { sealed } = seal(new Uint8Array(2 * BLOCK_BYTES));
    const block = (i: number) => sealed.subarray(CHUNK_HEADER_BYTES + i * (BLOCK_BYTES + TAG_BYTES)).subarray(0, BLOCK_BYTES);
    expect(Buffer.compare(block(0), block(1))).not.toBe(0);
  });
});

describe("does not open", () => {
  const plain = pattern(BLOCK_BYTES + 5000);
  const { ref, sealed } = seal(plain);

  test("with any byte of a block or its tag changed", () => {
    const { offset, length } = sealedBlockRange(ref.bytes, 1, 1);
    const positions = [0, 1, 2500, 4999, ...Array.from({ length: TAG_BYTES }, (_, i) => length - 1 - i)];
    for (const position of positions) {
      const changed = sealed.slice();
      changed[offset + position] = (changed[offset + position] as number) ^ 0x10;
      expect(() => open(ref, changed, 1)).toThrow(IntegrityError);
      expect(open(ref, changed, 0)).toEqual(plain.slice(0, BLOCK_BYTES));
    }
  });

  test("in another position, under another id, epoch or length", () => {
    const double = seal(pattern(2 * BLOCK_BYTES));
    const swapped = double.sealed.slice();
    swapped.set(
      double.sealed.subarray(CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES + BLOCK_BYTES + TAG_BYTES),
      CHUNK_HEADER_BYTES + BLOCK_BYTES + TAG_BYTES,
    );
    expect(() => open(double.ref, swapped, 1)).toThrow(IntegrityError);
    const id = ref.id.slice();
    id[31] = (id[31] as number) ^ 1;
    expect(() => open({ ...ref, id }, sealed, 0)).toThrow(IntegrityError);
    expect(() => open({ ...ref, epoch: 2 }, sealed, 0)).toThrow(IntegrityError);
    expect(() => open({ ...ref, bytes: ref.bytes - 1 }, sealed, 0)).toThrow(IntegrityError);
    const other = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: new Uint8Array(32) }] });
    expect(() => open(ref, sealed, 0, other)).toThrow(IntegrityError);
  });

  test("cut short; and nothing of it is written", () => {
    const { offset, length } = sealedBlockRange(ref.bytes, 1, 1);
    const target = new Uint8Array(BLOCK_BYTES).fill(0xee);
    const opener = new ChunkOpener(ring, ref, 1, [target]);
    for (const less of [1, 16, 17, length]) {
      expect(() => openInto(opener, sealed.subarray(offset, offset + length - less))).toThrow(IntegrityError);
    }
    const changed = sealed.slice(offset, offset + length);
    changed[0] = (changed[0] as number) ^ 1;
    expect(() => openInto(opener, changed)).toThrow(IntegrityError);
    expect(target.every((byte) => byte === 0xee)).toBe(true);
  });

  test("with bytes behind the last block", () => {
    const opener = new ChunkOpener(ring, ref, 0, [new Uint8Array(BLOCK_BYTES), new Uint8Array(BLOCK_BYTES)]);
    const blocks = sealed.subarray(CHUNK_HEADER_BYTES);
    expect(() => openInto(opener, Buffer.concat([blocks, new Uint8Array(1)]))).toThrow(IntegrityError);
    openInto(opener, blocks);
  });
});

describe("arithmetic", () => {
  test("ranges of blocks lie one after another and fill the sealed chunk", () => {
    for (const bytes of sizes) {
      let at = CHUNK_HEADER_BYTES;
      for (let i = 0; i < blockCount(bytes); i++) {
        const { offset, length } = sealedBlockRange(bytes, i, 1);
        expect(offset).toBe(at);
        at += length;
      }
      expect(at).toBe(sealedChunkBytes(bytes));
      expect(sealedBlockRange(bytes, 0, blockCount(bytes)).length).toBe(at - CHUNK_HEADER_BYTES);
    }
    expect(sealedChunkBytes(CHUNK_MAX_BYTES)).toBe(SEALED_CHUNK_MAX_BYTES);
  });

  test("impossible sizes and blocks are refused", () => {
    for (const bytes of [0, -1, 1.5, CHUNK_MAX_BYTES + 1]) expect(() => sealedBlockRange(bytes, 0, 1)).toThrow(RangeError);
    expect(() => sealedBlockRange(10, 1, 1)).toThrow(RangeError);
    expect(() => sealedBlockRange(10, 0, 2)).toThrow(RangeError);
    expect(() => sealChunk(ring.current, [], new Uint8Array(100))).toThrow(RangeError);
    expect(() => sealChunk(ring.current, [new Uint8Array(10)], new Uint8Array(57))).toThrow(RangeError);
    expect(() => sealChunk(ring.current, [new Uint8Array(10), new Uint8Array(10)], new Uint8Array(1000))).toThrow(RangeError);
  });

  test("a header is read back; a strange one is refused", () => {
    expect(parseChunkHeader(chunkHeader(7, 12345))).toEqual({ epoch: 7, bytes: 12345 });
    for (const at of [0, 4, 5, 6, 12, 16, 31]) {
      const header = chunkHeader(7, 12345);
      header[at] = (header[at] as number) ^ 0x40;
      expect(() => parseChunkHeader(header)).toThrow(IntegrityError);
    }
  });
});

test("a chunk that an earlier build sealed still opens, and is sealed the same today", () => {
  const { ref, sealed } = seal(new TextEncoder().encode("kiseki"));
  expect(ref.id.toHex()).toBe("203b616ad077b05f0aa207f8c81b0dc94345bafd5f3038c698d2a239961d4362");
  expect(sealed.toHex()).toBe(
    "6b736b630210000000000001000000060000000000000000000000000000000043427a2ac39b985e74be3def33770c667c73ee72c643",
  );
});
