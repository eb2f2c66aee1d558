import { expect, test } from "bun:test";
import { DiskSlots } from "./disk-slots.ts";

/** Work that ends when it is told to. */
function makeWork(order: string[]) {
  const ends: (() => void)[] = [];
  const work = (name: string) => () => {
    order.push(name);
    return new Promise<void>((resolve) => ends.push(resolve));
  };
  return { ends, work };
}

test("one tenant has so many at most, all together as many as there are, and who waits is served in turns", async () => {
  const slots = new DiskSlots(3, 2);
  const [a, b, c] = [slots.tenant(), slots.tenant(), slots.tenant()];
  const order: string[] = [];
  const { ends, work } = makeWork(order);
  const all = [1, 2, 3, 4].map((n) => a.use(work(`a${n}`)));
  all.push(...[1, 2, 3].map((n) => b.use(work(`b${n}`))), c.use(work("c1")));
  await Bun.sleep(0);
  expect(order).toEqual(["a1", "a2", "b1"]);
  for (let ended = 0; ended < 8; ended++) {
    ends[ended]?.();
    await Bun.sleep(0);
    expect(order.length).toBeLessThanOrEqual(Math.min(8, ended + 4));
    expect(a.used).toBeLessThanOrEqual(2);
  }
  await Promise.all(all);
  expect(order.slice(0, 6)).toEqual(["a1", "a2", "b1", "a3", "b2", "c1"]);
  expect(order.toSorted()).toEqual(["a1", "a2", "a3", "a4", "b1", "b2", "b3", "c1"]);
  expect([a.used, b.used, c.used]).toEqual([0, 0, 0]);
});

test("what fails gives its slot back", async () => {
  const slots = new DiskSlots(1, 1);
  const tenant = slots.tenant();
  const failed = tenant.use(() => Promise.reject(new Error("disk")));
  const after = tenant.use(async () => "done");
  expect(failed).rejects.toThrow("disk");
  expect(await after).toBe("done");
});
