/**
 * Random overlapping writes, truncations, holes, appends and copies through several handles, on a mount and on a local file at once: what
 * read and mmap show must be the same, at once, through a second mount, and after a remount. The client has little memory, so that
 * much of it is written out and read again. KISEKI_TEST_OPS sets how many (a quarter of it), KISEKI_TEST_SEED which.
 */
import { afterAll, test } from "bun:test";
import { anyDataOperation, DATA_SETUP } from "./random/data-operations.ts";
import { expectSameAsLocal, timeoutMs } from "./random/same-as-local.ts";
import { OPERATIONS } from "./random/settings.ts";
import { cleanUp } from "./support/harness.ts";

const DATA_OPERATIONS = Math.round(OPERATIONS / 4);

afterAll(cleanUp);

test(
  `${DATA_OPERATIONS} random reads and writes do the same as on a local filesystem`,
  () =>
    expectSameAsLocal({
      suite: "data",
      operations: DATA_OPERATIONS,
      sequenceMax: 60,
      setup: DATA_SETUP,
      anyOperation: anyDataOperation,
      mountArgs: ["--cache-l1-max", "32M"],
    }),
  timeoutMs(OPERATIONS),
);
