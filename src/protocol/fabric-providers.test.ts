import { describe, expect, test } from "bun:test";
import { FABRIC_PROVIDERS, fabricProvider, parseTransports, providersOf } from "./fabric-providers.ts";

test.each([
  ["auto", "auto"],
  ["tcp", "tcp"],
  ["cxi", ["cxi"]],
  ["verbs", ["verbs;ofi_rxm"]],
  ["libfabric:net", ["net"]],
  ["libfabric:tcp;ofi_rxm", ["tcp;ofi_rxm"]],
  ["cxi,verbs,tcp", ["cxi", "verbs;ofi_rxm"]],
  ["verbs, libfabric:net", ["verbs;ofi_rxm", "net"]],
] as const)("%s", (text, choice) => {
  expect(parseTransports(text)).toEqual(choice as never);
});

test.each(["", ",", "net", "libfabric:", "libfabric:nothing", "cxi,cxi", "auto,cxi", "CXI", "libfabric:net,x", "libfabric:shm"])(
  "%p is refused",
  (text) => {
    expect(parseTransports(text)).toBeNull();
  },
);

describe("which are tried", () => {
  const names = (...args: Parameters<typeof providersOf>) => providersOf(...args).map(({ name }) => name);

  test("auto: those that the machine has a device for, Slingshot before InfiniBand; what needs no device has to be named", () => {
    expect(names("auto", () => true)).toEqual(["cxi", "verbs;ofi_rxm"]);
    expect(names("auto", (folder) => folder === "/sys/class/infiniband")).toEqual(["verbs;ofi_rxm"]);
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
  expect(FABRIC_PROVIDERS.filter(({ hasIpAddress }) => !hasIpAddress).map(({ name }) => name)).toEqual(["cxi"]);
});
