/**
 * Random operations on a mount and on a local folder at once: results, errnos, content and attributes must be the same, through the
 * mount that did them, through a second mount, and after a remount. KISEKI_TEST_OPS sets how many, KISEKI_TEST_SEED which.
 */
import { afterAll, test } from "bun:test";
import { anyOperation, SETUP } from "./random/operations.ts";
import { expectSameAsLocal, timeoutMs } from "./random/same-as-local.ts";
import { OPERATIONS } from "./random/settings.ts";
import { cleanUp } from "./support/harness.ts";

afterAll(cleanUp);

test(
  `${OPERATIONS} random operations do the same as on a local filesystem`,
  () =>
    expectSameAsLocal({
      suite: "model",
      operations: OPERATIONS,
      sequenceMax: 150,
      setup: SETUP,
      anyOperation,
      mountArgs: ["-o", "allow_other"],
    }),
  timeoutMs(OPERATIONS),
);
