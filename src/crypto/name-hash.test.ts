import { expect, test } from "bun:test";
import fc from "fast-check";
import { KeyRing } from "./key-ring.ts";
import { nameHash, xattrNameHash } from "./name-hash.ts";

const dataKey = Uint8Array.from({ length: 32 }, (_, i) => i);
const ring = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: dataKey }] });
const ns = ring.namespace("default");
const hex = (bytes: Uint8Array) => bytes.toHex();

test("the hashes that names have on disk never change", () => {
  expect(hex(nameHash(ns, 0x12345678, "caf\xe9\xff"))).toBe("52ed17c65d5fcaa8c6bf47b937d66e70");
  expect(hex(xattrNameHash(ns, 0x12345678, "user.mime"))).toBe("e1ed40be1a2337d949df3239cfde8ed2");
});

test("are stable across epochs: an entry made before a rotation is found after it", () => {
  const rotated = KeyRing.fromMaterial({
    keys: [
      { epoch: 2, key: new Uint8Array(32).fill(9) },
      { epoch: 1, key: dataKey },
    ],
  });
  expect(nameHash(rotated.namespace("default"), 1, "a")).toEqual(nameHash(ns, 1, "a"));
});

test("differ by name, folder, namespace and kind", () => {
  const all = [
    nameHash(ns, 1, "a"),
    nameHash(ns, 1, "b"),
    nameHash(ns, 1, "a "),
    nameHash(ns, 2, "a"),
    nameHash(ns, 1 + 2 ** 32, "a"),
    nameHash(ring.namespace("other"), 1, "a"),
    xattrNameHash(ns, 1, "a"),
  ].map(hex);
  expect(new Set(all).size).toBe(all.length);
});

test("any two names of bytes have two hashes of 16 bytes", () => {
  const name = fc.uint8Array({ min: 1, minLength: 1, maxLength: 255 }).map((bytes) => Buffer.from(bytes).toString("latin1"));
  fc.assert(
    fc.property(name, name, (a, b) => {
      const first = nameHash(ns, 7, a);
      expect(first.length).toBe(16);
      // The second call must not disturb the first's result.
      const second = nameHash(ns, 7, b);
      expect(hex(first) === hex(second)).toBe(a === b);
      expect(nameHash(ns, 7, a)).toEqual(first);
    }),
  );
});

test("a name of 256 bytes is refused, one of 255 is not", () => {
  expect(nameHash(ns, 1, "x".repeat(255)).length).toBe(16);
  expect(() => nameHash(ns, 1, "x".repeat(256))).toThrow(RangeError);
});
