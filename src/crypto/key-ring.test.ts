import { describe, expect, test } from "bun:test";
import { hkdfSync } from "node:crypto";
import { inodeKey } from "../protocol/record-keys.ts";
import { GenerationCache } from "./generation-cache.ts";
import { HmacSha256, hkdfExpand32, hkdfExtract } from "./hmac.ts";
import { IntegrityError } from "./integrity-error.ts";
import { KeyRing, WRAPPED_KEY_BYTES } from "./key-ring.ts";
import { nameHash } from "./name-hash.ts";
import { openRecord, sealRecord } from "./record-seal.ts";

const kek = crypto.getRandomValues(new Uint8Array(32));
const plain = new TextEncoder().encode("attributes");

describe("KeyRing", () => {
  test("opens what newDataKey wrapped, under the same KEK only", () => {
    const wrapped = KeyRing.newDataKey(kek, 1);
    expect(wrapped.wrapped.length).toBe(WRAPPED_KEY_BYTES);
    expect(KeyRing.open(kek, [wrapped]).current.epoch).toBe(1);
    expect(() => KeyRing.open(new Uint8Array(32), [wrapped])).toThrow(IntegrityError);
  });

  test("refuses a wrapped key with any byte changed or cut", () => {
    const { wrapped } = KeyRing.newDataKey(kek, 1);
    for (let i = 0; i < wrapped.length; i++) {
      const changed = wrapped.slice();
      changed[i] = (changed[i] as number) ^ 0x80;
      expect(() => KeyRing.open(kek, [{ epoch: 1, wrapped: changed }])).toThrow(IntegrityError);
    }
    expect(() => KeyRing.open(kek, [{ epoch: 1, wrapped: wrapped.subarray(0, 40) }])).toThrow(IntegrityError);
  });

  test("refuses an epoch's key that the node offers as another epoch's", () => {
    const { wrapped } = KeyRing.newDataKey(kek, 1);
    const ring = KeyRing.open(kek, [{ epoch: 1, wrapped }]);
    expect(() => ring.add({ epoch: 2, wrapped })).toThrow(IntegrityError);
    expect(ring.current.epoch).toBe(1);
  });

  test("needs the first epoch, and at least one key", () => {
    expect(() => KeyRing.open(kek, [])).toThrow(RangeError);
    expect(() => KeyRing.open(kek, [KeyRing.newDataKey(kek, 2)])).toThrow(IntegrityError);
  });

  test("takes the highest epoch as the current one, in whatever order they come", () => {
    const keys = [3, 1, 2].map((epoch) => KeyRing.newDataKey(kek, epoch));
    expect(KeyRing.open(kek, keys).current.epoch).toBe(3);
    expect(() => KeyRing.open(kek, keys).epoch(4)).toThrow(IntegrityError);
  });

  test.each([0, -1, 1.5, 2 ** 32, Number.NaN])("refuses epoch %p", (epoch) => {
    expect(() => KeyRing.newDataKey(kek, epoch)).toThrow(RangeError);
  });

  test("takes up an epoch that was begun later, without the KEK, and gives it to a Worker's ring", () => {
    const own = kek.slice();
    const ring = KeyRing.open(own, [KeyRing.newDataKey(own, 1)]);
    own.fill(0);
    const worker = KeyRing.fromMaterial(ring.export());
    const second = KeyRing.newDataKey(kek, 2);
    expect(ring.add(second)).toBe(true);
    expect(ring.add(second)).toBe(false);
    expect(ring.namespace("n").sealing.epoch).toBe(2);
    worker.addMaterial(ring.export());
    expect(worker.current.epoch).toBe(2);
    const sealed = sealRecord(ring.namespace("n"), inodeKey(3), 0, "0123456789abcdef", plain);
    expect(Uint8Array.from(openRecord(worker.namespace("n"), inodeKey(3), 0, "0123456789abcdef", sealed))).toEqual(plain);
    expect(() => ring.add(KeyRing.newDataKey(new Uint8Array(32), 3))).toThrow(IntegrityError);
    expect(() => worker.add(KeyRing.newDataKey(kek, 3))).toThrow("opened keys");
  });

  test("a Worker's ring, from cloned material, opens what this one sealed", () => {
    const ring = KeyRing.open(kek, [KeyRing.newDataKey(kek, 1), KeyRing.newDataKey(kek, 2)]);
    const other = KeyRing.fromMaterial(structuredClone(ring.export()));
    const sealed = sealRecord(ring.namespace("n"), inodeKey(3), 0, "0123456789abcdef", plain);
    expect(Uint8Array.from(openRecord(other.namespace("n"), inodeKey(3), 0, "0123456789abcdef", sealed))).toEqual(plain);
  });

  test("nothing works after wipe()", () => {
    const ring = KeyRing.open(kek, [KeyRing.newDataKey(kek, 1)]);
    const ns = ring.namespace("n");
    const sealed = sealRecord(ns, inodeKey(3), 0, "0123456789abcdef", plain);
    ring.wipe();
    expect(() => sealRecord(ns, inodeKey(3), 0, "0123456789abcdef", plain)).toThrow("wiped");
    expect(() => openRecord(ns, inodeKey(3), 0, "0123456789abcdef", sealed)).toThrow("wiped");
    expect(() => nameHash(ns, 1, "a")).toThrow("wiped");
    expect(() => ring.namespace("n")).toThrow("wiped");
    expect(() => ring.export()).toThrow("wiped");
    expect(() => ring.current).toThrow("wiped");
    ring.wipe();
  });

  test("refuses what is not a namespace name", () => {
    const ring = KeyRing.open(kek, [KeyRing.newDataKey(kek, 1)]);
    for (const name of ["", "a\0b", "../x", "A"]) expect(() => ring.namespace(name)).toThrow(RangeError);
  });
});

test("HKDF-SHA256 gives RFC 5869's test cases 1 and 3 (first 32 bytes), and what OpenSSL gives", () => {
  const ikm = new Uint8Array(22).fill(0x0b);
  const prk = hkdfExtract(Uint8Array.fromHex("000102030405060708090a0b0c"), ikm);
  expect(prk.toHex()).toBe("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
  expect(hkdfExpand32(new HmacSha256(prk), Uint8Array.fromHex("f0f1f2f3f4f5f6f7f8f9")).toHex()).toBe(
    "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
  );
  const unsalted = hkdfExtract(new Uint8Array(0), ikm);
  expect(hkdfExpand32(new HmacSha256(unsalted), new Uint8Array(0)).toHex()).toBe(
    "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
  );
  const info = new TextEncoder().encode("label\0namespace");
  expect(hkdfExpand32(new HmacSha256(unsalted), info)).toEqual(new Uint8Array(hkdfSync("sha256", ikm, "", info, 32)));
});

test("GenerationCache keeps what is used, and never more than twice its capacity", () => {
  const cache = new GenerationCache<number, string>(10);
  for (let i = 0; i < 1_000; i++) {
    cache.set(i, `v${i}`);
    if (i % 5 === 0) expect(cache.get(0)).toBe("v0");
    expect(cache.size).toBeLessThanOrEqual(20);
  }
  expect(cache.get(0)).toBe("v0");
  expect(cache.get(999)).toBe("v999");
  expect(cache.get(500)).toBeUndefined();
});
