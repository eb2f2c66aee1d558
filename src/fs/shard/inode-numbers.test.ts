import { expect, test } from "bun:test";
import { InodeNumbers } from "./inode-numbers.ts";

const COUNT = 8_192;
const mistrust = (first: number) => new Error(`mistrusted ${first}`);

test("numbers come in order, and skip what lies between two ranges that don't follow each other", async () => {
  const firsts = [2, 2 + COUNT, 1_000_000];
  let last = 1_000_000;
  const grant = async (count: number) => {
    last = firsts.shift() ?? last + 2 * COUNT;
    return { first: last, count };
  };
  const numbers = new InodeNumbers(grant, mistrust);
  const taken: number[] = [];
  for (let i = 0; i < 3 * COUNT; i++) taken.push(await numbers.next());
  expect(new Set(taken).size).toBe(taken.length);
  expect(taken.every((number, i) => i === 0 || number > (taken[i - 1] as number))).toBeTrue();
});

test("a range that was granted before, or a part of one, is not believed", async () => {
  for (const again of [2, COUNT, COUNT + 1]) {
    const firsts = [2, again];
    const numbers = new InodeNumbers(async (count) => ({ first: firsts.shift() ?? again, count }), mistrust);
    const taken = new Set<number>();
    const takeAll = async () => {
      for (let i = 0; i < 2 * COUNT; i++) taken.add(await numbers.next());
    };
    await expect(takeAll()).rejects.toThrow(`mistrusted ${again}`);
    expect(taken.size).toBeLessThanOrEqual(COUNT);
  }
});

test("after forget, no number of an old range is given", async () => {
  let first = 2;
  const numbers = new InodeNumbers(async (count) => {
    const granted = { first, count };
    first += count;
    return granted;
  }, mistrust);
  expect(await numbers.next()).toBe(2);
  numbers.forget();
  expect(await numbers.next()).toBeGreaterThanOrEqual(2 + COUNT);
});
