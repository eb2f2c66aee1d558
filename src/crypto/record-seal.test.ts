import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { dentryKey, inodeKey, regionKey } from "../protocol/record-keys.ts";
import { FILE_ID_BYTES, newFileId } from "./file-id.ts";
import { IntegrityError } from "./integrity-error.ts";
import { KeyRing } from "./key-ring.ts";
import { carriedFileId, openRecord, RECORD_OVERHEAD_BYTES, sealRecord } from "./record-seal.ts";

const kek = new Uint8Array(32).fill(7);
const ring = KeyRing.open(kek, [KeyRing.newDataKey(kek, 1)]);
const ns = ring.namespace("default");
const id = newFileId();
const text = (s: string) => new TextEncoder().encode(s);
const sealed = (plain = text("mode, size and times")) => sealRecord(ns, inodeKey(77), 0, id, plain);

describe("round trip", () => {
  test("any bytes, any inode, any link", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), fc.nat({ max: 2 ** 40 - 1 }), fc.nat({ max: 2 ** 40 - 1 }), (plain, ino, link) => {
        const out = sealRecord(ns, regionKey(ino, 3), link, id, plain);
        expect(out.length).toBe(plain.length + RECORD_OVERHEAD_BYTES);
        expect(Uint8Array.from(openRecord(ns, regionKey(ino, 3), link, id, out))).toEqual(plain);
      }),
    );
  });

  test("a view into a larger buffer opens too, as it comes from the wire", () => {
    const frame = new Uint8Array(500);
    const record = sealed();
    frame.set(record, 101);
    expect(openRecord(ns, inodeKey(77), 0, id, frame.subarray(101, 101 + record.length))).toEqual(Buffer.from("mode, size and times"));
  });

  test("the same plaintext never seals to the same bytes", () => {
    const seen = new Set(Array.from({ length: 2_000 }, () => Buffer.from(sealed()).toString("hex")));
    expect(seen.size).toBe(2_000);
  });

  test("nothing of the plaintext shows", () => {
    expect(Buffer.from(sealed(text("PLAINTEXT-MARKER"))).includes("PLAINTEXT")).toBe(false);
  });

  test("records of an older epoch open after a rotation, new ones are sealed under the new epoch", () => {
    const first = KeyRing.newDataKey(kek, 1);
    const rotating = KeyRing.open(kek, [first]);
    const keys = rotating.namespace("default");
    const old = sealRecord(keys, inodeKey(5), 0, id, text("old"));
    rotating.add(KeyRing.newDataKey(kek, 2));
    const young = sealRecord(keys, inodeKey(5), 0, id, text("young"));
    expect([...young.subarray(0, 5)]).toEqual([2, 0, 0, 0, 2]);
    expect(Buffer.from(openRecord(keys, inodeKey(5), 0, id, old)).toString()).toBe("old");
    expect(Buffer.from(openRecord(keys, inodeKey(5), 0, id, young)).toString()).toBe("young");
    // A client that has not heard of epoch 2 says so instead of returning rubbish.
    const behind = KeyRing.open(kek, [first]).namespace("default");
    expect(() => openRecord(behind, inodeKey(5), 0, id, young)).toThrow(IntegrityError);
  });
});

describe("does not open", () => {
  test("with any byte changed", () => {
    const record = sealed();
    for (let i = 0; i < record.length; i++) {
      const changed = record.slice();
      changed[i] = (changed[i] as number) ^ 0x01;
      expect(() => openRecord(ns, inodeKey(77), 0, id, changed)).toThrow(IntegrityError);
    }
  });

  test("cut or extended to any length", () => {
    const record = sealed();
    for (let length = 0; length < record.length; length++) {
      expect(() => openRecord(ns, inodeKey(77), 0, id, record.subarray(0, length))).toThrow(IntegrityError);
    }
    const longer = new Uint8Array(record.length + 1);
    longer.set(record);
    expect(() => openRecord(ns, inodeKey(77), 0, id, longer)).toThrow(IntegrityError);
  });

  test("in another place", () => {
    const hash = new Uint8Array(16).fill(3);
    const dentry = sealRecord(ns, dentryKey(9, hash), 1234, id, text("name"));
    const other = new Uint8Array(16).fill(4);
    expect(() => openRecord(ns, dentryKey(9, other), 1234, id, dentry)).toThrow(IntegrityError);
    expect(() => openRecord(ns, dentryKey(10, hash), 1234, id, dentry)).toThrow(IntegrityError);
    expect(() => openRecord(ns, dentryKey(9, hash), 1235, id, dentry)).toThrow(IntegrityError);
    expect(() => openRecord(ns, dentryKey(9, hash), 1234 + 2 ** 32, id, dentry)).toThrow(IntegrityError);
    expect(() => openRecord(ring.namespace("other"), dentryKey(9, hash), 1234, id, dentry)).toThrow(IntegrityError);
    expect(Buffer.from(openRecord(ns, dentryKey(9, hash), 1234, id, dentry)).toString()).toBe("name");
  });

  test("for another file with the same number: attributes, regions, entries", () => {
    for (const key of [inodeKey(77), regionKey(77, 0), dentryKey(77, new Uint8Array(16))]) {
      const record = sealRecord(ns, key, 0, id, text("mine"));
      expect(Buffer.from(openRecord(ns, key, 0, id, record)).toString()).toBe("mine");
      expect(() => openRecord(ns, key, 0, newFileId(), record)).toThrow(IntegrityError);
    }
  });

  test("attributes whose file id was exchanged", () => {
    const record = sealed();
    expect(record.length).toBe("mode, size and times".length + RECORD_OVERHEAD_BYTES + FILE_ID_BYTES);
    expect(carriedFileId(record)).toBe(id);
    const other = newFileId();
    record.set(Buffer.from(other, "latin1"), 5);
    expect(carriedFileId(record)).toBe(other);
    for (const claimed of [id, other]) expect(() => openRecord(ns, inodeKey(77), 0, claimed, record)).toThrow(IntegrityError);
  });

  test("under another tenant's keys", () => {
    const theirs = KeyRing.open(kek, [KeyRing.newDataKey(kek, 1)]).namespace("default");
    expect(() => openRecord(theirs, inodeKey(77), 0, id, sealed())).toThrow(IntegrityError);
  });
});

test("a record that an earlier build of this format sealed still opens", () => {
  const old = KeyRing.fromMaterial({ keys: [{ epoch: 1, key: Uint8Array.from({ length: 32 }, (_, i) => i) }] }).namespace("default");
  const record = Uint8Array.fromHex("020000000153e01e0363fe47f715be0cc38e71ee6c9b35ff87ca99ef957149f38c188446e488f5");
  const of = "0123456789abcdef";
  expect(Buffer.from(openRecord(old, dentryKey(0x12345678, new Uint8Array(16).fill(9)), 0x9abcdef01, of, record)).toString()).toBe(
    "kiseki",
  );
});

test("a record of the first format is refused by its version", () => {
  const record = Uint8Array.fromHex("0100000001a0a1a2a3a4a5a6a7a8a9aaab4d39ebc2560f08b6e359ee08e5e8d2b5d0194b680950");
  expect(() => openRecord(ns, regionKey(1, 0), 0, id, record)).toThrow("unknown format version: 1");
});
