import { afterEach, beforeEach, expect, test } from "bun:test";
import { ConnectionWatch, type WatchedNode } from "./connection-watch.ts";

class FakeNode implements WatchedNode {
  connected = true;
  answers = true;
  lastAnswerAtMs = performance.now();
  pings = 0;

  async call(): Promise<unknown> {
    this.pings++;
    await Bun.sleep(1);
    if (this.answers) this.lastAnswerAtMs = performance.now();
    return {};
  }
}

const LIMIT_MS = 200;
let node: FakeNode;
let events: string[];
let watch: ConnectionWatch;
beforeEach(() => {
  node = new FakeNode();
  events = [];
  watch = new ConnectionWatch({
    node,
    maxDisconnectMs: LIMIT_MS,
    onExpired: (silentMs) => events.push(silentMs >= LIMIT_MS ? "expired" : "too early"),
    onBack: () => events.push("back"),
  });
});
afterEach(() => watch.stop());

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 2_000 && !condition(); i++) await Bun.sleep(5);
  expect(condition()).toBeTrue();
}

test("a node that answers, if only pings, is never given up", async () => {
  await until(() => node.pings > 5);
  expect(events).toEqual([]);
  expect(watch.isOn).toBeFalse();
  expect(watch.isExpired).toBeFalse();
});

test("a connection that is lost: an outage first, which listeners learn of once, then the limit, once; an answer ends both", async () => {
  let heard = 0;
  watch.onBegin(() => heard++);
  const ignore = watch.onBegin(() => events.push("not wanted"));
  ignore();
  node.connected = false;
  expect(watch.isOn).toBeFalse();
  await until(() => watch.isOn);
  await until(() => events.length > 0);
  expect(watch.isExpired).toBeTrue();
  await Bun.sleep(LIMIT_MS);
  expect(events).toEqual(["expired"]);
  expect(heard).toBe(1);
  node.connected = true;
  node.lastAnswerAtMs = performance.now();
  expect(watch.isOn).toBeFalse();
  expect(watch.isExpired).toBeFalse();
  await until(() => events.length > 1);
  node.connected = false;
  node.answers = false;
  await until(() => events.length > 2);
  expect(events).toEqual(["expired", "back", "expired"]);
});

test("a node that is connected and silent is waited for, until the limit", async () => {
  node.answers = false;
  await until(() => watch.isExpired);
  expect(watch.isOn).toBeFalse();
  expect(events).toEqual(["expired"]);
});
