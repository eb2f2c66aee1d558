import { expect, test } from "bun:test";
import { parseAddresses } from "./address.ts";

test("a list of hosts, with and without ports", () => {
  expect(parseAddresses("node1:9100, 10.0.0.1:9200,node-2.example")).toEqual(["node1:9100", "10.0.0.1:9200", "node-2.example:9100"]);
});

test("an IPv6 address stands in brackets", () => {
  expect(parseAddresses("[fd00::1]:9200,[::1]")).toEqual(["[fd00::1]:9200", "[::1]:9100"]);
});

test("anything else is refused", () => {
  for (const text of ["", ",", "a:", "a:0", "a:65536", "a:b", "fd00::1", "a/b:1", "a b:1", "a:1,", "[x]:1:2"]) {
    expect(parseAddresses(text)).toBeNull();
  }
});
