import { expect, test } from "bun:test";
import { parseJunit } from "./junit.ts";

test("totals come from the root element, not from the suites in it", () => {
  const xml =
    '<?xml version="1.0"?>\n<testsuites name="bun test" tests="7" assertions="9" failures="2" skipped="1" time="0.1">\n' +
    '<testsuite name="a" tests="3" failures="3" skipped="0">';
  expect(parseJunit(xml)).toEqual({ passed: 4, failed: 2, skipped: 1 });
});

test("no report is not zero failures", () => {
  expect(parseJunit("")).toBeNull();
});
