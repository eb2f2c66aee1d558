import { expect, test } from "bun:test";
import { Doorkeeper } from "./doorkeeper.ts";
import { TestNode } from "./test-node.ts";

const limits = { helloTimeoutMs: 100, perAddress: 3, total: 5 };

test("so many of one address, and so many in all; who leaves makes room", () => {
  const door = new Doorkeeper(() => {}, limits);
  for (let port = 1; port <= 3; port++) expect(door.refusal(`10.0.0.1:${port}`)).toBeNull();
  expect(door.refusal("10.0.0.1:4")).toContain("of its address");
  for (let port = 1; port <= 2; port++) expect(door.refusal(`[::1]:${port}`)).toBeNull();
  expect(door.refusal("10.0.0.9:1")).toContain("5 connections");
  door.left("10.0.0.1:2");
  expect(door.refusal("10.0.0.9:1")).toBeNull();
  expect(door.connections).toBe(5);
});

test("one tenant has so many of all connections", () => {
  const door = new Doorkeeper(() => undefined, { total: 8 });
  for (let i = 0; i < 6; i++) door.greeted("acme");
  expect(() => door.greeted("acme")).toThrow(expect.objectContaining({ code: "too_many" }));
  door.greeted("other");
  door.tenantLeft("acme");
  door.greeted("acme");
});

test("the log says a reason once in a while, and how many it left out", () => {
  const lines: object[] = [];
  const door = new Doorkeeper((fields) => lines.push(fields), limits);
  for (let i = 0; i < 1_000; i++) door.turnedAway(`10.0.0.1:${i}`, "no hello in time");
  door.turnedAway("10.0.0.1:1", "another reason");
  expect(lines).toEqual([
    { remoteAddress: "10.0.0.1:0", reason: "no hello in time" },
    { remoteAddress: "10.0.0.1:1", reason: "another reason" },
  ]);
});

test("who connects and says nothing is closed; others are served meanwhile and after", async () => {
  const node = await TestNode.start({ door: { helloTimeoutMs: 200, perAddress: 50, total: 50 } });
  const { host, port } = { host: "127.0.0.1", port: node.node.port };
  const identity = await node.identity("t1");
  const closed: Promise<void>[] = [];
  for (let i = 0; i < 48; i++) {
    const { promise, resolve } = Promise.withResolvers<void>();
    closed.push(promise);
    const tls = { ...identity, rejectUnauthorized: false };
    await Bun.connect({
      hostname: host,
      port,
      tls,
      socket: { data() {}, close: () => resolve(), error: () => resolve(), connectError: () => resolve() },
    });
  }
  const client = await node.client("t1");
  await client.call("ping", {});
  await Promise.all(closed);
  await client.call("ping", {});
  expect(node.node.connectionCount).toBe(1);
  await node.stop();
});
