import { describe, expect, test } from "bun:test";
import { FABRIC_PROVIDERS, fabricProvider, parseTransports, providersOf, sourceOf } from "./fabric-providers.ts";

test.each([
  ["auto", "auto"],
  ["tcp", "tcp"],
  ["cxi", ["cxi"]],
  ["verbs", ["verbs"]],
  ["libfabric:verbs;ofi_rxm", ["verbs;ofi_rxm"]],
  ["libfabric:net", ["net"]],
  ["libfabric:tcp;ofi_rxm", ["tcp;ofi_rxm"]],
  ["cxi,verbs,tcp", ["cxi", "verbs"]],
  ["verbs, libfabric:net", ["verbs", "net"]],
] as const)("%s", (text, choice) => {
  expect(parseTransports(text)).toEqual(choice as never);
});

test.each([
  "",
  ",",
  "net",
  "libfabric:",
  "libfabric:nothing",
  "cxi,cxi",
  "auto,cxi",
  "CXI",
  "libfabric:net,x",
  "libfabric:shm",
  "libfabric:verbs",
])("%p is refused", (text) => {
  expect(parseTransports(text)).toBeNull();
});

describe("which are tried", () => {
  const names = (...args: Parameters<typeof providersOf>) => providersOf(...args).map(({ name }) => name);

  test("auto: those that the machine has a device for, Slingshot before InfiniBand; what needs no device has to be named", () => {
    expect(names("auto", () => true)).toEqual(["cxi", "verbs", "verbs;ofi_rxm"]);
    expect(names("auto", (folder) => folder === "/sys/class/infiniband")).toEqual(["verbs", "verbs;ofi_rxm"]);
    expect(names("auto", () => false)).toEqual([]);
  });

  test("tcp: none; named: those, in this order, whatever there is", () => {
    expect(names("tcp", () => true)).toEqual([]);
    expect(names(["net", "cxi"], () => false)).toEqual(["net", "cxi"]);
  });
});

test("what is different with each", () => {
  expect(new Set(FABRIC_PROVIDERS.map(({ name }) => name)).size).toBe(FABRIC_PROVIDERS.length);
  // fi_enable is EINVAL without it on software RoCE.
  expect(fabricProvider("verbs;ofi_rxm")?.environment.FI_UNIVERSE_SIZE).toBe("16");
  // Slingshot's addresses are not IP addresses.
  expect(FABRIC_PROVIDERS.filter((provider) => sourceOf(provider, "10.0.0.1", "192.0.2.1") === null).map(({ name }) => name)).toEqual([
    "cxi",
  ]);
  // An InfiniBand port need not have the address that TLS uses; endpoints of others are where TLS is.
  expect(FABRIC_PROVIDERS.map((provider) => sourceOf(provider, null, "192.0.2.1"))).toEqual([
    null,
    null,
    "192.0.2.1",
    "192.0.2.1",
    "192.0.2.1",
  ]);
});
