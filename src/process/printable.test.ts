import { expect, test } from "bun:test";
import { printable } from "./printable.ts";

test("what a terminal would obey is written as an escape, all else as it is", () => {
  expect(printable("data/\u001b[2J\u001b]0;owned\u0007x\r\n")).toBe("data/\\x1b[2J\\x1b]0;owned\\x07x\\x0d\\x0a");
  expect(printable("a\u009b31m\u007f\u202egnp.exe")).toBe("a\\x9b31m\\x7f\\u202egnp.exe");
  expect(printable("größe 日本 🙂 \\x1b %s")).toBe("größe 日本 🙂 \\x1b %s");
});
