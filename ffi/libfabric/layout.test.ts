/** Every offset, size and constant of layout.ts, compared with what a C compiler makes of the installed headers. */
import { expect, test } from "bun:test";
import { compiled, expressions } from "../test-layout.ts";
import * as layout from "./layout.ts";

test("layout.ts agrees with the installed libfabric headers", async () => {
  const wanted = expressions(layout);
  expect(wanted.size).toBeGreaterThan(90);
  const headers = ["fabric", "fi_domain", "fi_endpoint", "fi_eq", "fi_rma", "fi_cm", "fi_errno"].map((name) => `rdma/${name}`);
  const found = await compiled(["sys/uio", ...headers].map((name) => `#include <${name}.h>`).join("\n"), wanted.keys());
  // FI_ADDR_UNSPEC is all ones.
  expect(new Map([...found].map(([name, value]) => [name, BigInt.asUintN(64, value)]))).toEqual(
    new Map([...wanted].map(([name, value]) => [name, BigInt.asUintN(64, value)])),
  );
});
