import { expect, test } from "bun:test";
import fc from "fast-check";
import { decodeName, encodeName } from "./queue-pair-name.ts";

const name = fc.record({
  number: fc.integer({ min: 0, max: 0xff_ff_ff }),
  psn: fc.integer({ min: 0, max: 0xff_ff_ff }),
  lid: fc.integer({ min: 0, max: 0xff_ff }),
  mtu: fc.integer({ min: 1, max: 5 }),
  isEthernet: fc.boolean(),
  reads: fc.integer({ min: 1, max: 255 }),
  gid: fc.uint8Array({ minLength: 16, maxLength: 16 }),
});

test("what is encoded is decoded", () => {
  fc.assert(fc.property(name, (one) => expect(decodeName(encodeName(one))).toEqual(one)));
});

test("bytes of a hostile peer: a name with all numbers in range, or an error", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.uint8Array({ minLength: 36, maxLength: 36 }).map((some) => Uint8Array.of(1, ...some.subarray(1))),
  );
  fc.assert(
    fc.property(bytes, (some) => {
      try {
        const { number, psn, mtu, reads } = decodeName(some);
        expect(number <= 0xff_ff_ff && psn <= 0xff_ff_ff && mtu >= 1 && mtu <= 5 && reads >= 1).toBeTrue();
      } catch (error) {
        expect((error as Error).message).toContain("the name of a queue pair");
      }
    }),
    { numRuns: 1_000 },
  );
});

test("another form is refused", () => {
  expect(() => decodeName(new Uint8Array(36))).toThrow("not the name of a queue pair");
  expect(() => decodeName(new Uint8Array())).toThrow("not the name of a queue pair");
});
