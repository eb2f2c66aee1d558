import { expect, test } from "bun:test";
import { dentryPrefix, inodeKey, inodeOfKey, inodePrefix, prefixEnd, regionKey, regionOfKey, xattrPrefix } from "./record-keys.ts";

test("the end of a prefix leaves the prefix as it was, Buffer or not", () => {
  for (const prefix of [inodePrefix(258), Buffer.from(inodePrefix(258))]) {
    const before = Buffer.from(prefix).toString("hex");
    expect(Buffer.from(prefixEnd(prefix) ?? []).toString("hex")).toBe(Buffer.from(inodePrefix(259)).toString("hex"));
    expect(Buffer.from(prefix).toString("hex")).toBe(before);
  }
  expect(Buffer.from(prefixEnd(Uint8Array.of(1, 255)) ?? []).toString("hex")).toBe("02");
  expect(prefixEnd(Uint8Array.of(255, 255))).toBeNull();
});

test("all keys of an inode lie between its prefix and the prefix's end", () => {
  const ino = 2 ** 40 - 2;
  const prefix = inodePrefix(ino);
  const end = prefixEnd(prefix) ?? new Uint8Array();
  for (const key of [inodeKey(ino), regionKey(ino, 2 ** 37 - 1), xattrPrefix(ino)]) {
    expect(Buffer.compare(key, prefix)).toBe(1);
    expect(Buffer.compare(key, end)).toBe(-1);
    expect(inodeOfKey(key)).toBe(ino);
  }
  expect(regionOfKey(regionKey(ino, 2 ** 37 - 1))).toBe(2 ** 37 - 1);
  expect(inodeOfKey(dentryPrefix(7))).toBe(7);
});
