import { expect, test } from "bun:test";
import fc from "fast-check";
import { readU32, readU64, writeU32, writeU64 } from "./big-endian.ts";

test("integers read back as written, and stand as DataView would put them", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat(0xffffffff), (large, small) => {
      const bytes = new Uint8Array(13);
      writeU64(bytes, 1, large);
      writeU32(bytes, 9, small);
      expect(readU64(bytes, 1)).toBe(large);
      expect(readU32(bytes, 9)).toBe(small);
      const view = new DataView(bytes.buffer);
      expect(view.getBigUint64(1)).toBe(BigInt(large));
      expect(view.getUint32(9)).toBe(small);
    }),
  );
});
