import { expect, test } from "bun:test";
import { parseMountHelperArguments, parseMountSpec } from "./mount-spec.ts";

test("the arguments that mount(8) gives", () => {
  expect(parseMountHelperArguments(["node:9100/acme/default", "/mnt", "-o", "rw,_netdev"])).toEqual({
    spec: "node:9100/acme/default",
    mountpoint: "/mnt",
    options: ["rw,_netdev"],
    sloppy: false,
    fake: false,
  });
  expect(parseMountHelperArguments(["s/t", "/mnt", "-sfnv", "-o", "ro", "-t", "kiseki", "-ouid=1"])).toMatchObject({
    options: ["ro", "uid=1"],
    sloppy: true,
    fake: true,
  });
});

test("other arguments are refused", () => {
  for (const args of [
    [],
    ["spec"],
    ["spec", "/mnt", "more"],
    ["spec", "/mnt", "-x"],
    ["spec", "/mnt", "-o"],
    ["spec", "/mnt", "-N", "/x"],
  ]) {
    expect(() => parseMountHelperArguments(args)).toThrow();
  }
});

test("a spec is addresses, tenant and namespace", () => {
  const texts = (spec: string) => parseMountSpec(spec).map(({ name, text }) => [name, text]);
  expect(texts("n1:9100,[fd00::1]:9100/acme/data")).toEqual([
    ["data_addr", "n1:9100,[fd00::1]:9100"],
    ["tenant", "acme"],
    ["namespace", "data"],
  ]);
  expect(texts("n1/acme")).toEqual([
    ["data_addr", "n1"],
    ["tenant", "acme"],
  ]);
  for (const spec of ["", "n1", "n1/", "/acme", "n1/acme/", "n1/acme/a/b"]) expect(() => parseMountSpec(spec)).toThrow("got");
});
