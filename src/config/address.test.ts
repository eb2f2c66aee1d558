import { expect, test } from "bun:test";
import { formatAddress, parseAddresses } from "./address.ts";

test("a list of hosts, with and without ports", () => {
  expect(parseAddresses("node1:9100, 10.0.0.1:9200,node-2.example")).toEqual([
    { host: "node1", port: 9100 },
    { host: "10.0.0.1", port: 9200 },
    { host: "node-2.example", port: 9100 },
  ]);
});

test("an IPv6 address stands in brackets", () => {
  expect(parseAddresses("[fd00::1]:9200,[::1]")).toEqual([
    { host: "fd00::1", port: 9200 },
    { host: "::1", port: 9100 },
  ]);
  expect(formatAddress({ host: "fd00::1", port: 9200 })).toBe("[fd00::1]:9200");
  expect(formatAddress({ host: "node1", port: 9100 })).toBe("node1:9100");
});

test("anything else is refused", () => {
  for (const text of ["", ",", "a:", "a:0", "a:65536", "a:b", "fd00::1", "a/b:1", "a b:1", "a:1,", "[x]:1:2"]) {
    expect(parseAddresses(text)).toBeNull();
  }
});
