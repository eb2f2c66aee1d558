import { expect, test } from "bun:test";
import { editionBits, editionOf, inoHigh, NodeNumbers } from "./node-numbers.ts";

test("inode number and edition share the high word without touching each other", () => {
  for (const high of [0, 1, 2 ** 21 - 1]) {
    for (const edition of [0, 1, 1_000, 2_047]) {
      const word = editionBits(edition) + high;
      expect(word).toBeLessThan(2 ** 32);
      expect([inoHigh(word), editionOf(word)]).toEqual([high, edition]);
    }
  }
});

test("each move leads to a new number, as long as there are any", () => {
  const nodes = new NodeNumbers();
  expect([nodes.edition(5), nodes.hasMoved(5)]).toEqual([0, false]);
  let moves = 0;
  while (nodes.canMove(5)) {
    nodes.move(5);
    expect(nodes.edition(5)).toBe(++moves);
  }
  expect(moves).toBe(2_047);
  expect(() => nodes.move(5)).toThrow("editions");
  expect([nodes.edition(6), nodes.hasMoved(6), nodes.hasMoved(5)]).toEqual([0, false, true]);
});

test("the number of files that are remembered is bounded", () => {
  const nodes = new NodeNumbers();
  let ino = 1;
  while (nodes.canMove(ino)) nodes.move(ino++);
  expect(ino).toBe(65_537);
  expect(nodes.canMove(1)).toBe(true);
});
