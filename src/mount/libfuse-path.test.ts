import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { libfuseFromBytes, loadLibfuse } from "./libfuse-path.ts";

test("the system's libfuse3 is found, once", async () => {
  const library = await loadLibfuse();
  expect(library.version).toBeGreaterThanOrEqual(310);
  expect(await loadLibfuse()).toBe(library);
});

test("a library in memory is loaded without a file", async () => {
  await loadLibfuse();
  const path = readFileSync("/proc/self/maps", "utf8").match(/\/\S*libfuse3\.so\S*/)?.[0];
  expect(path).toBeDefined();
  expect(libfuseFromBytes(readFileSync(path ?? "")).version).toBe((await loadLibfuse()).version);
});

test("what is no library is refused", () => {
  expect(() => libfuseFromBytes(Buffer.from("no library"))).toThrow();
});
