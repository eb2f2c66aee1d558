import { expect, test } from "bun:test";
import fc from "fast-check";
import { Packr, Unpackr } from "msgpackr/pack";
import { packMessage, unpackMessage } from "./codec-msgpack.ts";
import { FRAME_FIXED_BYTES } from "./frame.ts";

const others = { packr: new Packr({ useRecords: false }), unpackr: new Unpackr({ useRecords: false }) };

const edges = [0, 0x7f, 0x80, 0xff, 0x100, 0xff_ff, 0x1_00_00, 0xff_ff_ff_ff, 0x1_00_00_00_00, -1, -0x20, -0x21, -0x80, -0x81];
const integers = fc.oneof(fc.maxSafeInteger(), fc.constantFrom(...edges, -0x80_00, -0x80_01, -0x80_00_00_00, -0x80_00_00_01));
const texts = fc.oneof(fc.string({ unit: "grapheme", maxLength: 40 }), fc.string({ maxLength: 300 }), fc.constant("x".repeat(70_000)));
const byteStrings = fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.constant(new Uint8Array(70_000).fill(3)));
const flat = fc.oneof(integers, fc.double({ noNaN: true }), texts, byteStrings, fc.boolean(), fc.constant(null));
const message = fc.array(fc.oneof(flat, fc.array(fc.oneof(flat, fc.array(flat, { maxLength: 40 })), { maxLength: 20 })), { maxLength: 20 });

/** Byte strings of any class as Uint8Array, to compare what was read with what was written; the two zeros are one. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return new Uint8Array(value);
  return typeof value === "bigint" || value === 0 ? Number(value) + 0 : value;
}

function packed(value: unknown[]): Uint8Array {
  return packMessage(value).subarray(FRAME_FIXED_BYTES);
}

test("what is packed is what another MessagePack reads, and is unpacked again", () => {
  fc.assert(
    fc.property(message, (value) => {
      expect(plain(others.unpackr.unpack(packed(value)))).toEqual(plain(value));
      expect(plain(unpackMessage(packed(value)))).toEqual(plain(value));
    }),
    { numRuns: 1_000 },
  );
});

test("what another MessagePack packs is unpacked, integers beyond 32 bits aside", () => {
  const narrow = fc.integer({ min: -0x80_00_00_00, max: 0xff_ff_ff_ff });
  fc.assert(
    fc.property(fc.array(fc.oneof(narrow, texts, byteStrings, fc.boolean(), fc.array(narrow, { maxLength: 70 }))), (value) => {
      expect(plain(unpackMessage(new Uint8Array(others.packr.pack(value))))).toEqual(plain(value));
    }),
  );
});

test("a packed message is not changed by those packed after it", () => {
  const messages = Array.from({ length: 2_000 }, (_, i) => [
    i,
    new Uint8Array(i % 300).fill(i),
    `text ${i}`,
    new Uint8Array(i === 1_000 ? 1e6 : 0),
  ]);
  const all = messages.map(packed);
  expect(all.map((bytes) => plain(unpackMessage(bytes)))).toEqual(messages.map(plain));
});

test("values that have no MessagePack here are a TypeError, and spoil nothing", () => {
  for (const value of [undefined, 1n, {}, () => 1, Symbol("x")]) expect(() => packMessage([1, value])).toThrow(TypeError);
  expect(unpackMessage(packed([1, "a"]))).toEqual([1, "a"]);
});
