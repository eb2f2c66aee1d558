import { expect, test } from "bun:test";
import fc from "fast-check";
import { ARENA_MIN_BYTES, BlockArena } from "../../cache/memory/block-arena.ts";
import { CHUNK_MAX_BYTES, MIB } from "../../protocol/limits.ts";
import { REGION_BYTES, regionSpans } from "../posix/offsets.ts";
import type { StoredMap, StoredSource } from "../records/composition.ts";
import type { ExtentMap } from "../records/extent-map.ts";
import { FileContent } from "./file-content.ts";
import type { Segment, Source } from "./segment.ts";

/** A window of the file around a region boundary, so that two regions are in play. */
const BASE = REGION_BYTES - 500;
const WINDOW = 1_000;

type Step =
  | { kind: "write"; at: number; length: number; value: number }
  | { kind: "truncate"; at: number }
  | { kind: "freeze" | "thaw" | "commit" };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("write" as const),
      at: fc.nat(WINDOW - 1),
      length: fc.integer({ min: 1, max: 300 }),
      value: fc.integer({ min: 1, max: 255 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("truncate" as const), at: fc.nat(WINDOW) }) },
  { weight: 3, arbitrary: fc.constantFrom<Step>({ kind: "freeze" }, { kind: "thaw" }, { kind: "commit" }) },
);

class Harness {
  readonly arena = new BlockArena(ARENA_MIN_BYTES);
  readonly content = new FileContent({ bytes: 0 });
  readonly model = new Uint8Array(WINDOW);

  constructor() {
    this.content.allRegionsKnown = true;
  }

  write(at: number, data: Uint8Array): void {
    const cells = this.arena.tryTake(4) as number[];
    this.content.write(BASE + at, data, cells, this.arena);
    this.arena.unpinAll(cells);
    this.model.set(data.subarray(0, WINDOW - at), at);
  }

  /** What write-out makes of the frozen layer: stored maps with everything inline. */
  commit(): void {
    const { frozen } = this.content;
    if (frozen === null) return;
    const stored = new Map<number, StoredMap>();
    for (const [region, map] of frozen.regions) {
      const after = this.content.storedRegion(region).clone();
      for (const { start, end, source, offset } of map.extents) {
        const inline: StoredSource = { kind: "inline", data: (source as Segment).copy(offset, end - start) };
        after.set(start, end, inline, 0);
      }
      stored.set(region, after);
    }
    this.content.replaceStored(stored);
    this.content.commitFrozen();
  }

  read(): Uint8Array {
    const result = new Uint8Array(WINDOW);
    let base = 0;
    for (const { region, start, end } of regionSpans(BASE, WINDOW)) {
      this.content.visit(region, start, end, (from, to, extent) => {
        if (extent !== null) result.set(bytesOf(extent.source, extent.offset + from - extent.start, to - from), base + from - start);
      });
      base += end - start;
    }
    return result;
  }
}

function bytesOf(source: Source, offset: number, length: number): Uint8Array {
  if (source.kind === "segment") return source.copy(offset, length);
  if (source.kind === "inline") return source.data.subarray(offset, offset + length);
  throw new Error("no chunks here");
}

test("writes, truncates and write-outs that fail or succeed read back as a byte array would", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const h = new Harness();
      for (const one of steps) {
        if (one.kind === "write") {
          h.write(
            one.at,
            new Uint8Array(Math.min(one.length, WINDOW - one.at)).map((_, i) => (one.value + i) & 0xff),
          );
        } else if (one.kind === "truncate") {
          // Truncation waits for a running write-out, then cuts what is stored too.
          h.commit();
          h.content.truncateDirty(BASE + one.at);
          const stored = new Map<number, StoredMap>();
          for (const { region, start, end } of regionSpans(BASE + one.at, WINDOW - one.at)) {
            const cut = h.content.storedRegion(region).clone();
            cut.clear(start, end);
            stored.set(region, cut);
          }
          h.content.replaceStored(stored);
          h.model.fill(0, one.at);
        } else if (one.kind === "freeze") {
          if (h.content.frozen === null) h.content.freeze();
        } else if (one.kind === "thaw") {
          h.content.thaw();
        } else {
          h.commit();
        }
        expect(h.read()).toEqual(h.model);
      }
    }),
    { numRuns: 300 },
  );
});

test("what was appended moves behind what another mount appended first", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 300 }), fc.boolean(), (foreign, length, freezeBetween) => {
      const h = new Harness();
      const data = new Uint8Array(length).map((_, i) => i + 1);
      h.content.active.appendFrom = BASE + 400;
      h.write(400, data);
      h.content.freeze();
      if (freezeBetween) {
        h.content.active.appendFrom = BASE + 400 + length;
        h.write(400 + length, Uint8Array.of(77));
      }
      h.content.moveAppended(foreign);
      const expected = new Uint8Array(WINDOW);
      expected.set(data.subarray(0, WINDOW - 400 - foreign), 400 + foreign);
      if (freezeBetween && 400 + foreign + length < WINDOW) expected[400 + foreign + length] = 77;
      expect(h.read()).toEqual(expected);
    }),
  );
});

test("a sequential writer's segments are one run each and end at 4 MiB boundaries of the file", () => {
  const arena = new BlockArena(ARENA_MIN_BYTES);
  const content = new FileContent({ bytes: 0 });
  const complete: Segment[] = [];
  const piece = new Uint8Array(MIB);
  const start = 100;
  for (let i = 0; i < 10; i++) {
    const cells = arena.tryTake(18) as number[];
    complete.push(...content.write(start + i * MIB, piece, cells, arena));
    arena.unpinAll(cells);
  }
  expect(complete.map((segment) => [segment.isOneRun, segment.length])).toEqual([
    [true, CHUNK_MAX_BYTES - start],
    [true, CHUNK_MAX_BYTES],
  ]);
});

test("scattered small writes are packed into one segment, and rewriting them takes no more room", () => {
  const arena = new BlockArena(ARENA_MIN_BYTES);
  const content = new FileContent({ bytes: 0 });
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 100; i++) {
      const cells = arena.tryTake(2) as number[];
      content.write(((i * 37) % 100) * 65_536, new Uint8Array(4_096).fill(round), cells, arena);
      arena.unpinAll(cells);
    }
  }
  expect(content.active.segments.size).toBe(1);
  expect([...content.active.segments][0]?.length).toBe(100 * 4_096);
  const map = content.active.regions.get(0) as ExtentMap<Source>;
  expect(map.extents.length).toBe(100);
});
