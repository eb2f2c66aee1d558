import { expect, test } from "bun:test";
import fc from "fast-check";
import { ARENA_MIN_BYTES, BlockArena } from "./block-arena.ts";

test("what is cached and pinned is never handed out; the least recently used goes first", () => {
  const arena = new BlockArena(ARENA_MIN_BYTES);
  const cells = arena.tryTake(arena.cellCount) as number[];
  expect(arena.tryTake(1)).toBeNull();
  cells.forEach((cell, i) => {
    arena.publish(cell, "chunk", i % 64, 64);
  });
  // Only 64 blocks of that chunk exist: the other cells become free again.
  arena.unpinAll(cells);
  expect(arena.availableCount).toBe(arena.cellCount);
  expect(arena.cachedCount).toBe(64);
  const kept = arena.find("chunk", 5);
  arena.pin(kept);
  arena.find("chunk", 6);
  const others = arena.tryTake(arena.cellCount - 2) as number[];
  expect(others).not.toContain(kept);
  expect(arena.find("chunk", 6)).toBeGreaterThanOrEqual(0);
  expect(arena.find("chunk", 7)).toBe(-1);
});

test("a waiter gets its cells all at once, in turn", async () => {
  const arena = new BlockArena(ARENA_MIN_BYTES);
  const cells = arena.tryTake(arena.cellCount) as number[];
  const got: string[] = [];
  const first = arena.take(3).then(() => got.push("first"));
  const second = arena.take(1).then(() => got.push("second"));
  arena.unpin(cells[0] as number);
  await Promise.resolve();
  expect(got).toEqual([]);
  arena.unpinAll(cells.slice(1, 4));
  await Promise.all([first, second]);
  expect(got).toEqual(["first", "second"]);
});

test("random use never loses or doubles a cell", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(3), fc.nat(30), fc.nat(400)), { maxLength: 400 }), (steps) => {
      const arena = new BlockArena(ARENA_MIN_BYTES);
      const held: number[] = [];
      for (const [what, count, pick] of steps) {
        if (what === 0) held.push(...(arena.tryTake(count) ?? []));
        else if (held.length > 0) {
          const cell = held.splice(pick % held.length, 1)[0] as number;
          if (what === 1) arena.publish(cell, `chunk${pick % 7}`, pick % 64, 64);
          arena.unpin(cell);
        }
        const found = arena.find(`chunk${pick % 7}`, pick % 64);
        if (found >= 0) expect(held).not.toContain(found);
        expect(new Set(held).size).toBe(held.length);
        expect(arena.availableCount + held.length).toBe(arena.cellCount);
      }
    }),
  );
});
