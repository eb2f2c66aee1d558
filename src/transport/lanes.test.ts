import { expect, test } from "bun:test";
import { Lanes } from "./lanes.ts";

function busyFor(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

/** Work of a lane that is done piece by piece, whenever the lane may run. */
function queue(lane: ReturnType<Lanes["lane"]>, pieces: (() => void)[]): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const go = (): boolean => {
    while (pieces.length > 0 && lane.mayRun) lane.run(pieces.shift() as () => void);
    if (pieces.length > 0) return true;
    resolve();
    return false;
  };
  if (go()) lane.wait(go);
  return promise;
}

test("lanes that wait are served in turns, and one that asks little is served at once between them", async () => {
  const lanes = new Lanes();
  const order: string[] = [];
  const piece = (name: string, ms: number) => () => {
    order.push(name);
    busyFor(ms);
  };
  const much = Array.from({ length: 30 }, () => piece("a", 1));
  const alsoMuch = Array.from({ length: 30 }, () => piece("b", 1));
  const done = Promise.all([queue(lanes.lane("a"), much), queue(lanes.lane("b"), alsoMuch)]);
  // A third one comes when both have used up their first turns.
  await new Promise((resolve) => setImmediate(resolve));
  const little = lanes.lane("c");
  expect(little.mayRun).toBeTrue();
  little.run(piece("c", 0));
  await done;
  expect(order.filter((name) => name === "a").length).toBe(30);
  expect(order.filter((name) => name === "b").length).toBe(30);
  expect(order.indexOf("c")).toBeLessThan(30);
  // Neither of the two was far ahead of the other.
  const ahead = order.map((_, i) =>
    Math.abs(order.slice(0, i + 1).filter((name) => name === "a").length - order.slice(0, i + 1).filter((name) => name === "b").length),
  );
  expect(Math.max(...ahead)).toBeLessThan(15);
});

test("who took far more than a turn waits longer, but not for ever, and alone it does not wait", async () => {
  const lanes = new Lanes();
  const heavy = lanes.lane("heavy");
  heavy.run(() => busyFor(20));
  expect(heavy.mayRun).toBeFalse();
  const light = lanes.lane("light");
  const order: string[] = [];
  const lights = queue(
    light,
    Array.from({ length: 6 }, () => () => {
      order.push("light");
      busyFor(1.5);
    }),
  );
  await heavy.ready();
  order.push("heavy");
  await lights;
  expect(order.indexOf("heavy")).toBeGreaterThan(1);
  const alone = new Lanes().lane("alone");
  for (let i = 0; i < 5; i++) {
    alone.run(() => busyFor(10));
    await alone.ready();
  }
});

test("what is done within timed work is not counted twice, and what throws is counted", () => {
  const lane = new Lanes().lane("a");
  expect(() =>
    lane.run(() => {
      lane.run(() => busyFor(0.5));
      busyFor(3);
      throw new Error("failed");
    }),
  ).toThrow("failed");
  expect(lane.mayRun).toBeFalse();
});

test("memory: beyond its bound connections wait, and go on when some is given back, also by one that leaves", () => {
  const lane = new Lanes().lane("a");
  const MIB = 1024 * 1024;
  lane.hold(300 * MIB);
  expect(lane.hasMemory).toBeFalse();
  const went: string[] = [];
  lane.waitForMemory(() => void went.push("first"));
  const leaves = () => void went.push("left");
  lane.waitForMemory(leaves);
  lane.release(10 * MIB);
  expect(went).toEqual([]);
  lane.release(0, leaves);
  lane.release(200 * MIB);
  expect(went).toEqual(["first"]);
  expect(lane.hasMemory).toBeTrue();
});

test("bytes count: a lane's connections are read in its turns while there are others, and always when it is alone", async () => {
  const lanes = new Lanes();
  const [much, little] = [lanes.lane("much"), lanes.lane("little")];
  const told: boolean[] = [];
  const reader = { setSpent: (spent: boolean) => void told.push(spent) };
  much.addReader(reader);
  little.run(() => busyFor(0.1));
  much.transferred(64 * 1024 * 1024);
  expect(told).toEqual([true]);
  // A connection that comes meanwhile waits as the others do.
  const late: boolean[] = [];
  much.addReader({ setSpent: (spent) => void late.push(spent) });
  expect(late).toEqual([true]);
  await much.ready();
  await new Promise((resolve) => setImmediate(resolve));
  expect([told, late]).toEqual([
    [true, false],
    [true, false],
  ]);
  much.removeReader(reader);
  const alone = new Lanes().lane("alone");
  alone.addReader(reader);
  alone.run(() => undefined);
  await Bun.sleep(30);
  alone.transferred(64 * 1024 * 1024);
  expect(told).toEqual([true, false]);
});

test("after a request of one that asks little the others wait a moment for its next, but not for ever", async () => {
  const lanes = new Lanes();
  const heavy = lanes.lane("heavy");
  const light = lanes.lane("light");
  let done = 0;
  let isOver = false;
  const work = (): boolean => {
    while (heavy.mayRun && !isOver) {
      heavy.run(() => busyFor(0.5));
      done++;
    }
    return !isOver;
  };
  if (work()) heavy.wait(work);
  const immediate = () => new Promise((resolve) => setImmediate(resolve));
  // A request right behind each other: for one operation of several requests no turn comes between.
  let undisturbed = 0;
  for (let operation = 0; operation < 30; operation++) {
    light.run(() => busyFor(0.02));
    const before = done;
    for (let request = 0; request < 3; request++) {
      await immediate();
      light.run(() => busyFor(0.02));
    }
    if (done === before) undisturbed++;
    await Bun.sleep(3);
  }
  expect(undisturbed).toBeGreaterThan(20);
  // One that never stops asking does not stop the other.
  const before = done;
  const end = performance.now() + 100;
  while (performance.now() < end) {
    light.run(() => busyFor(0.01));
    await immediate();
  }
  expect(done - before).toBeGreaterThan(10);
  isOver = true;
});
