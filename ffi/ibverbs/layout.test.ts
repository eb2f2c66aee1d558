/** Every offset, size and constant of layout.ts, compared with what a C compiler makes of the installed header. */
import { expect, test } from "bun:test";
import { compiled, expressions } from "../test-layout.ts";
import * as layout from "./layout.ts";

test("layout.ts agrees with the installed libibverbs header", async () => {
  const wanted = expressions(layout);
  expect(wanted.size).toBeGreaterThan(80);
  expect(await compiled("#include <infiniband/verbs.h>", wanted.keys())).toEqual(wanted);
});
