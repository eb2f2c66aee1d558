import { expect, test } from "bun:test";
import { parseAddress } from "./address.ts";

test("host and port are taken apart; IPv6 stands in brackets", () => {
  expect(parseAddress("node-1.example:9100")).toEqual({ host: "node-1.example", port: 9100 });
  expect(parseAddress("127.0.0.1:1")).toEqual({ host: "127.0.0.1", port: 1 });
  expect(parseAddress("[fe80::1%eth0]:65535")).toEqual({ host: "fe80::1%eth0", port: 65_535 });
});

test("what is not HOST:PORT is refused", () => {
  for (const text of ["", "host", "host:", ":9100", "host:0", "host:65536", "::1:9100", "a b:1", "host:9100/path", "[::1]"]) {
    expect(() => parseAddress(text), text).toThrow(RangeError);
  }
});
