import { expect, test } from "bun:test";
import fc from "fast-check";
import { combineCrc32, shiftOf } from "./crc32-combine.ts";

test("is the checksum of both strings together", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 300 }), (a, b) => {
      const together = Bun.hash.crc32(Buffer.concat([a, b]));
      expect(combineCrc32(Bun.hash.crc32(a), Bun.hash.crc32(b), shiftOf(b.length))).toBe(together);
    }),
  );
});

test("also over a block of 64 KiB", () => {
  const block = Buffer.alloc(65_536, 7);
  const id = Buffer.alloc(32, 9);
  const together = Bun.hash.crc32(Buffer.concat([id, block]));
  expect(combineCrc32(Bun.hash.crc32(id), Bun.hash.crc32(block), shiftOf(block.length))).toBe(together);
});
