import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkIsFolder, isKisekiMount, resolveMountpoint } from "./mountpoint.ts";

const folder = mkdtempSync(join(tmpdir(), "mountpoint-"));

test("a folder is found through symbolic links", () => {
  mkdirSync(join(folder, "real"));
  symlinkSync("real", join(folder, "link"));
  expect(resolveMountpoint(join(folder, "link"))).toBe(join(folder, "real"));
  expect(isKisekiMount(join(folder, "real"))).toBe(false);
});

test("a missing mountpoint and one that is no folder are refused, with the remedy", () => {
  expect(() => resolveMountpoint(join(folder, "missing"))).toThrow("mkdir -p");
  writeFileSync(join(folder, "file"), "");
  expect(() => resolveMountpoint(join(folder, "file/sub"))).toThrow("not a folder");
  expect(() => checkIsFolder(join(folder, "file"))).toThrow("not a folder");
});
